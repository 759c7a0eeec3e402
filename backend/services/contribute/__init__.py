"""Contributions: uploads, their validation and publication, and snapshots."""

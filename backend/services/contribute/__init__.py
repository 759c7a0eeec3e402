"""Uploads on their way from a file to a frozen snapshot."""

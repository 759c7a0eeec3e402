"""Audits batches from the chain and their public data."""

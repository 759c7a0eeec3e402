"""Batches judged from the chain and their public data."""

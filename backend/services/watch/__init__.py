"""Watches all operators' batches: answers demands and challenges wrong batches."""

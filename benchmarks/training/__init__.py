"""Benchmarks of upload validation and training."""

"""Measures attribution methods against retraining."""

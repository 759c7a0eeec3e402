"""Settles the operator's receipts in batches, and again after a batch was voided."""

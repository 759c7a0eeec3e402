"""The operator's receipts settled, batch by batch, also after a void."""

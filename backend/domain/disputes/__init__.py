"""What `Disputes` evaluates, in Python: witnesses, lookups, rules of a receipt, proofs."""

"""Python twin of the contract `Disputes`: witnesses, lookups, receipt rules, fraud proofs."""

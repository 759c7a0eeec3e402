"""What contributors and creators wait for: the check of their data, and training."""

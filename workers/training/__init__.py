"""Training in a process of its own. Only `run` and what it imports load torch; `supervise` does not."""

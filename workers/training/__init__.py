"""Training in a child process. Only `run` and modules that it imports load torch; `supervise` does not."""

"""Every operator's batches watched: demands answered, wrong batches accused."""

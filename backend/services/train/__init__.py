"""Fine-tuning jobs and imported adapters: options, payment, leases and publication."""

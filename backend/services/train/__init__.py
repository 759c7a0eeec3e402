"""Fine-tuning jobs: what a creator may ask for, and how workers share it."""

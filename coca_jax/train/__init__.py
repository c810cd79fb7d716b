"""Training: optimizer, state, step and loop."""

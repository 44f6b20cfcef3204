"""Training runs as workers execute them."""

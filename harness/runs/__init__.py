"""A run's life: checks before it exists, start, status, stop, and what it will need."""

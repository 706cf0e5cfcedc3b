"""From texts and verdicts to scores. Pure functions."""

"""Whether a judge can be trusted, and whether answers are honest."""

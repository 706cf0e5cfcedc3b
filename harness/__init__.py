"""What a run is, where it lives, how it is started, and what its numbers mean."""

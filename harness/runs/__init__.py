"""Life cycle of runs: prechecks, resource estimates, start, status, stop."""

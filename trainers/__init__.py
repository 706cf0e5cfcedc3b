"""How weights change: one file per method, with the losses kept apart as pure functions."""

"""Students made from other models: cut, mixture, adapter."""

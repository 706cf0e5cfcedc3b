"""Students made from other models: fewer layers, mixture of experts, adapter."""

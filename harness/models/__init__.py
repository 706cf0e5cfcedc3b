"""From a name to weights: resolving, checking, identifying and loading models."""

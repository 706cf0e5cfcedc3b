"""The made-up shop Marlowick: a small domain that no model can know before training."""

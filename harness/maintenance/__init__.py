"""Upkeep of a store: checks, space, archives, merging, salvage."""

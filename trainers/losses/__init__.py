"""Losses as pure functions, each with a reference implementation."""

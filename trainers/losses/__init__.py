"""Losses as pure functions, each with a plain reference."""

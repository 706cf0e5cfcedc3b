"""Experiments: several runs from one file, and the claims they test."""

"""Experiments: several runs from one file, and the claims they test."""

from kdharness.harness.paths import kept_experiments

__all__ = ["kept_experiments"]

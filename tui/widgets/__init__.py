"""Widgets that know nothing of kdharness."""

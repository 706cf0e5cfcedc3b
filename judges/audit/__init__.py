"""Checks of judges (report card) and of answers (gaming, contamination)."""

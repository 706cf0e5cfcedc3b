"""Helpers that know nothing of kdharness but its errors: files, text, tables, processes."""

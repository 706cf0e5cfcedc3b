"""Shipped experiments: `kdharness sweep NAME`."""

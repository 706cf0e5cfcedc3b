"""Experiments that ship: `kdharness sweep NAME`."""

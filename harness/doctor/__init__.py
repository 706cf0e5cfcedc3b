"""Checks of the machine, the packages, the home and the network for `kdharness doctor`."""

"""Bugs planted in the control plane one by one, to see which of them the tests catch."""

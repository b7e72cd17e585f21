"""Whole daemons in the lab."""

"""The replicated log of the managers."""

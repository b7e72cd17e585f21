"""Sessions of the nodes' agents."""

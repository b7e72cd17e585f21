"""REST adapters and forwarding."""

"""The client: speaks only REST, starts fast."""

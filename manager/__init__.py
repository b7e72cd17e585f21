"""The control plane: decides what runs where. Never touches a container."""

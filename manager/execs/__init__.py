"""Processes in tasks' containers: asked for on their nodes, read and written by one client."""

"""Logs of tasks: asked for on their nodes, merged here for a client of the API."""

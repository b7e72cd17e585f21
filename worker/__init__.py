"""The machine: runs what it is assigned and serves the engine API."""

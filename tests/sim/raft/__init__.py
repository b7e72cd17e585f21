"""The Raft members in a deterministic world of faults."""

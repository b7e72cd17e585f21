"""A manager's disk after power was cut at any point of a recorded run."""

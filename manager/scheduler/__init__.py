"""Pure placement of pending tasks on nodes, with a reason for every refusal."""

"""The node's side of the cluster: session with the leader, assigned tasks, reports."""

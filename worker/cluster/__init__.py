"""The cluster's side of a node: membership, certificates, the local manager, cluster routes."""

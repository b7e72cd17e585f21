"""The replicated state: changes, the view they make, snapshots and endpoint tables."""

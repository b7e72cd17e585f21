"""What would come of a change: the real turns on a copy of the View, and a comparison."""

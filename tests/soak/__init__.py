"""Long proofs in a lab: `make soak-…`. Each prints what it saw and exits 1 on a loss."""

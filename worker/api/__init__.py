"""The Docker Engine API as served by `swarmd`: thin adapters over the engine."""

"""The container supervisor: a stdlib-only fork server, its holder and its log pump."""

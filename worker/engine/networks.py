"""The machine's default bridge: its id, and the pool its subnet is cut from."""

BRIDGE_ID = "b" * 64
BRIDGE_POOL = "172.16.0.0/12"

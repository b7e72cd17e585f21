"""What both ends of the gRPC conversations agree on beside their messages."""

from typing import Final

LEADER_METADATA: Final = "swarm-leader"
"""Trailing metadata: `host:port` of the leader, where a manager that does not lead was asked."""
MESSAGE_BYTES: Final = 64 << 20
"""Largest message: a COMPLETE set of assignments is one."""
MESSAGE_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
)
"""Options of a channel or server that carries such messages."""

"""The roles of the supervisor's program: holder, server and pump."""

from __future__ import annotations

import sys


def main() -> None:
    """Dispatch on the first argument; the arguments are written by the parent process alone."""
    role, *rest = sys.argv[1:]
    if role == "holder":
        from runtime.supervisor import holder

        holder.main(rest[0], rest[1], rest[2], int(rest[3]))
    elif role == "server":
        from runtime.supervisor import server

        server.main(*(int(word) for word in rest[:4]), state_dir=rest[4], layout=rest[5])
    elif role == "pump":
        from runtime.supervisor import pump

        pump.main(int(rest[0]))
    else:
        sys.exit(f"unknown role {role}")

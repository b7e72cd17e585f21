"""The machine's service manager, systemd: what it runs for us and what it is told."""

import os
import socket


def starter(unit: str) -> list[str]:
    """Return the command that has systemd run the words behind it as a unit of their own.

    Its cgroup is ours to divide (`Delegate=`); stopping it ends the containers, each by its stop
    signal, and nothing that happens to swarmd's own unit touches it. Empty for no unit.
    """
    if not unit:
        return []
    properties = (
        "Delegate=yes",
        "NotifyAccess=all",
        "KillMode=mixed",
        "TimeoutStopSec=90",
        "OOMPolicy=continue",
        "OOMScoreAdjust=-900",
        "TasksMax=infinity",
        "LimitNOFILE=1048576",
        "LimitNPROC=infinity",
        "LimitCORE=infinity",
    )
    command = ["systemd-run", "--quiet", "--collect", "--service-type=notify"]
    command += [f"--unit={unit}", "--description=swarm: containers"]
    return command + [f"--property={one}" for one in properties]


def notify(state: str) -> None:
    """Tell the service manager; nothing where there is none (sd_notify(3)).

    Raises:
        OSError: its socket is named and cannot be written to.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + path[1:] if path.startswith("@") else path)
        sock.send(state.encode())

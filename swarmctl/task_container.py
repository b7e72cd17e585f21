"""From a task to its container, where a command that is for containers is given a task."""

from typing import Any

from swarmctl.errors import ClientError, DaemonError
from swarmctl.http import Client, segment

_UNKNOWN = (404, 503)
"""No such task, or a daemon that is no manager."""
_SHORT = 12


def container_of(client: Client, name: str, unknown: DaemonError, command: str) -> str:
    """Return the id of a task's container on the daemon's own node.

    `name` is a task's id, `service.slot`, or its container's name, `service.slot.id`; `unknown` is
    what the daemon said of a container of that name, `command` what the user may run elsewhere.

    Raises:
        DaemonError: `unknown` where there is no such task either.
        ClientError: it has no container, or that is on another node, which the message names.
    """
    if unknown.status != _UNKNOWN[0]:
        raise unknown
    task_name = name.rpartition(".")[2] if name.count(".") > 1 else name
    try:
        task = client.get(f"/tasks/{segment(task_name)}")
    except DaemonError as error:
        raise (unknown if error.status in _UNKNOWN else error) from None
    status = task.get("Status") or {}
    container = str((status.get("ContainerStatus") or {}).get("ContainerID") or "")
    if not container:
        raise ClientError(f"task {name} has no container: it is {status.get('State', 'new')}")
    if task["NodeID"] != (client.get("/info").get("Swarm") or {}).get("NodeID"):
        raise ClientError(
            _elsewhere(client, name, task["NodeID"], f"{command} {container[:_SHORT]}")
        )
    return container


def _elsewhere(client: Client, name: str, node_id: str, command: str) -> str:
    node: Any = client.get(f"/nodes/{segment(node_id)}")
    host = (node.get("Description") or {}).get("Hostname") or node_id
    address = (node.get("Status") or {}).get("Addr") or "no address known"
    return (
        f"task {name} runs on node {host} ({address}), and this daemon reaches its own containers "
        f"only: run `swarmctl {command}` on that node, or give its daemon with -H"
    )

"""From a task to its container, where a command that is for containers is given a task."""

from typing import NamedTuple

from swarmctl.errors import ClientError, DaemonError
from swarmctl.http import Client, segment

_UNKNOWN = (404, 503)
"""No such task, or a daemon that is no manager."""


class Found(NamedTuple):
    """A task's container; `here` where it is one of the daemon's own."""

    task: str
    container: str
    here: bool


def find(client: Client, name: str, unknown: DaemonError) -> Found:
    """Return the container of a task.

    `name` is a task's id, `service.slot`, or its container's name, `service.slot.id`; `unknown` is
    what the daemon said of a container of that name.

    Raises:
        DaemonError: `unknown` where there is no such task either.
        ClientError: it has no container.
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
    own_node = (client.get("/info").get("Swarm") or {}).get("NodeID")
    return Found(task["ID"], container, task["NodeID"] == own_node)

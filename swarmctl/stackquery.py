"""Finding what belongs to a stack: its objects carry the stack's name as a label."""

from typing import Any

from swarmctl.compose.names import NAMESPACE
from swarmctl.flags import filter_query
from swarmctl.http import Client


def of_stack(client: Client, kind: str, stack: str, **query: str) -> list[Any]:
    """Return a stack's objects: services, tasks, networks, secrets or configs."""
    wanted = {"label": {f"{NAMESPACE}={stack}": True}}
    found: list[Any] = client.call("GET", f"/{kind}", query={**filter_query(wanted), **query})
    return found

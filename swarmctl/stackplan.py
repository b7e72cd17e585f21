"""What `stack deploy --plan` prints: what would be made, and the plan of every service."""

import base64
from typing import Any

from swarmctl import plan
from swarmctl.compose.stackfile import Stack
from swarmctl.errors import DaemonError
from swarmctl.http import Client, segment
from swarmctl.stackquery import of_stack


def show(client: Client, stack: Stack, *, prune: bool) -> int:
    """Print the plan of a stack; return the exit code, 4 where a task fits nowhere."""
    networks = {item["Name"] for item in client.get("/networks")}
    for network in stack.networks:
        if network.name not in networks:
            print(f"create network {network.name}")
    for kind, contents in (("secret", stack.secrets), ("config", stack.configs)):
        for content in contents:
            if not _exists(client, kind, content.name):
                print(f"create {kind} {content.name}")
            elif kind == "config" and content.data is not None:  # a secret's data is not told
                old = client.get(f"/configs/{segment(content.name)}")["Spec"].get("Data", "")
                if base64.b64decode(old) != content.data:
                    print(f"replace config {content.name}")
    return plan.print_plan(plan.make(client, wishes(client, stack, prune=prune)))


def check(client: Client, stack: Stack) -> None:
    """Let the daemon refuse a service before anything is changed; one without plans lets all pass.

    Raises:
        DaemonError: a spec is invalid.
    """
    try:
        plan.make(client, wishes(client, stack, prune=False))
    except DaemonError as error:
        if error.status != 404:
            raise


def wishes(client: Client, stack: Stack, *, prune: bool) -> list[dict[str, Any]]:
    """Return what the plan is asked for.

    What the services would use and is not there yet has no say in where they run: it is left out.
    """
    networks = {item["Name"] for item in client.get("/networks")}
    found = of_stack(client, "services", stack.name)
    there = {service["Spec"]["Name"]: service for service in found}
    items: list[dict[str, Any]] = []
    for service in stack.services:
        spec = _without_missing(client, service.spec, networks)
        item: dict[str, Any] = {"Action": "create", "Spec": spec}
        if old := there.pop(spec["Name"], None):
            version = old["Version"]["Index"]
            item = {"Action": "update", "ID": old["ID"], "Version": version, "Spec": spec}
        items.append(item)
    if prune:
        items += [{"Action": "remove", "ID": old["ID"]} for old in there.values()]
    return items


def _exists(client: Client, kind: str, name: str) -> bool:
    try:
        client.get(f"/{kind}s/{segment(name)}")
    except DaemonError as error:
        if error.status == 404:
            return False
        raise
    return True


def _without_missing(client: Client, spec: dict[str, Any], networks: set[str]) -> dict[str, Any]:
    task = dict(spec["TaskTemplate"])
    task["Networks"] = [item for item in task.get("Networks", []) if item["Target"] in networks]
    container = task["ContainerSpec"] = dict(task["ContainerSpec"])
    for kind in ("Secret", "Config"):
        references = container.get(f"{kind}s") or []
        container[f"{kind}s"] = [
            item for item in references if _exists(client, kind.lower(), item[f"{kind}Name"])
        ]
    return {**spec, "TaskTemplate": task}

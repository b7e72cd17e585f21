"""What `stack deploy --plan` prints: what would be made, and the plan of every service."""

from typing import Any

from swarmctl import plan
from swarmctl.compose.stackfile import Stack
from swarmctl.errors import ClientError, DaemonError
from swarmctl.http import Client, segment
from swarmctl.stackquery import of_stack


def show(client: Client, stack: Stack, *, prune: bool) -> int:
    """Print the plan of a stack; return the exit code, 4 where a task fits nowhere."""
    networks = {item["Name"] for item in client.get("/networks")}
    for network in stack.networks:
        if network.name not in networks:
            print(f"create network {network.name}")
    found = _make(client, stack, prune=prune)
    for kind in ("secret", "config"):
        for content in found[f"{kind.title()}s"]:
            if content["Action"] != "keep":
                print(f"{content['Action']} {kind} {content['Name']}")
    return plan.print_plan(found)


def require(client: Client, stack: Stack, version: int, *, prune: bool) -> None:
    """Refuse a stack whose plan is not any more the one with this version.

    Raises:
        ClientError: something that matters to it has moved.
    """
    now = _make(client, stack, prune=prune)["Version"]
    if now != version:
        raise ClientError(
            f"the cluster or the file moved since plan {version}: look at the plan again, "
            f"it is {now} now"
        )


def _make(client: Client, stack: Stack, *, prune: bool) -> dict[str, Any]:
    bodies = {
        name: [content.body for content in contents if content.body is not None]
        for name, contents in (("Secrets", stack.secrets), ("Configs", stack.configs))
    }
    made = {(name, body["Name"]) for name, found in bodies.items() for body in found}
    return plan.make(client, _wishes(client, stack, prune=prune, made=made), **bodies)


def check(client: Client, stack: Stack) -> None:
    """Let the daemon refuse a service before anything is changed; one without plans lets all pass.

    Raises:
        DaemonError: a spec is invalid.
    """
    try:
        plan.make(client, _wishes(client, stack, prune=False, made=set()))
    except DaemonError as error:
        if error.status != 404:
            raise


def _wishes(
    client: Client, stack: Stack, *, prune: bool, made: set[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Return what the plan is asked for.

    What the services would use, is not there yet and not `made` by the plan is left out: it has no
    say in where they run.
    """
    networks = {item["Name"] for item in client.get("/networks")}
    found = of_stack(client, "services", stack.name)
    there = {service["Spec"]["Name"]: service for service in found}
    items: list[dict[str, Any]] = []
    for service in stack.services:
        spec = _without_missing(client, service.spec, networks, made)
        item: dict[str, Any] = {"Action": "create", "Spec": spec}
        if old := there.pop(spec["Name"], None):
            forced = old["Spec"]["TaskTemplate"].get("ForceUpdate", 0)
            if forced:
                spec["TaskTemplate"]["ForceUpdate"] = forced
            item = {"Action": "update", "ID": old["ID"], "Spec": spec}
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


def _without_missing(
    client: Client, spec: dict[str, Any], networks: set[str], made: set[tuple[str, str]]
) -> dict[str, Any]:
    task = dict(spec["TaskTemplate"])
    task["Networks"] = [item for item in task.get("Networks", []) if item["Target"] in networks]
    container = task["ContainerSpec"] = dict(task["ContainerSpec"])
    for kind in ("Secret", "Config"):
        references = container.get(f"{kind}s") or []
        container[f"{kind}s"] = [
            item
            for item in references
            if (f"{kind}s", item[f"{kind}Name"]) in made
            or _exists(client, kind.lower(), item[f"{kind}Name"])
        ]
    return {**spec, "TaskTemplate": task}

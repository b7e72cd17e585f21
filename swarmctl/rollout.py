"""Making the cluster what a stack says: networks, secrets, configs, then services in order."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from swarmctl.command import warn
from swarmctl.compose.names import NAMESPACE
from swarmctl.compose.service import IMAGE_LABEL
from swarmctl.compose.stackfile import Content, Dependency, Network, Service, Stack
from swarmctl.errors import ClientError, DaemonError
from swarmctl.flags import filter_query
from swarmctl.http import Client, segment
from swarmctl.stackplan import check
from swarmctl.stackquery import of_stack

_POLL_S = 0.2
_PREDEFINED = ("host", "bridge", "none")
_ENDED_BADLY = ("failed", "rejected", "orphaned")


class Options(NamedTuple):
    """How a stack is deployed; `resolve_image` is always, changed or never."""

    prune: bool = False
    resolve_image: str = "always"
    with_registry_auth: bool = False
    timeout_s: float | None = None


class Rollout:
    """One deployment. Everything the file needs is looked up before anything is changed."""

    def __init__(self, client: Client, stack: Stack, options: Options) -> None:
        self._client = client
        self._stack = stack
        self._options = options
        self._deadline = None if options.timeout_s is None else time.monotonic() + options.timeout_s
        self._services: dict[str, Any] = {}
        self._changed: set[str] = set()
        self._ids: dict[str, str] = {}

    def run(self) -> list[str]:
        """Create and update what the stack holds; return the services' ids.

        Raises:
            ClientError: something the file takes for granted is missing, or a service that
                another depends on does not get there.
        """
        missing = self._look()
        check(self._client, self._stack)
        for network in missing:
            print(f"Creating network {network.name}", flush=True)
            self._client.call("POST", "/networks/create", body=network.body)
        for kind, contents in (("secret", self._stack.secrets), ("config", self._stack.configs)):
            for content in contents:
                self._keep(kind, content)
        self._services = self._there()  # some may have followed a secret
        if self._options.prune:
            self._prune()
        for service in self._stack.services:
            for dependency in service.dependencies:
                self._await(service, dependency)
            self._ids[service.key] = self._store(service)
        return list(self._ids.values())

    def _look(self) -> list[Network]:
        """Return the networks to create; refuse what is external and not there."""
        there = {item["Name"]: item for item in self._client.get("/networks")}
        for network in self._stack.networks:
            if network.body is not None or network.name in _PREDEFINED:
                continue
            if network.name not in there:
                raise ClientError(
                    f"network {network.name!r} is external and not there: create it first, with "
                    f"swarmctl network create -d overlay {network.name}"
                )
            if there[network.name].get("Scope") != "swarm":
                raise ClientError(f"network {network.name!r} is this node's alone: want an overlay")
        for kind, contents in (("secret", self._stack.secrets), ("config", self._stack.configs)):
            for content in contents:
                if content.data is None and self._find(f"/{kind}s", content.name) is None:
                    raise ClientError(
                        f"{kind} {content.name!r} is external and not there: create it first, "
                        f"with swarmctl {kind} create {content.name} FILE"
                    )
        return [n for n in self._stack.networks if n.body is not None and n.name not in there]

    def _there(self) -> dict[str, Any]:
        found = of_stack(self._client, "services", self._stack.name)
        return {service["Spec"]["Name"]: service for service in found}

    def _find(self, path: str, name: str) -> Any:
        try:
            return self._client.get(f"{path}/{segment(name)}")
        except DaemonError as error:
            if error.status == 404:
                return None
            raise

    def _keep(self, kind: str, content: Content) -> None:
        """Create a secret or config, or let new content take over its name."""
        body = content.body
        if body is None:
            return
        old = self._find(f"/{kind}s", content.name)
        if old is not None and old["Spec"].get("Labels", {}).get(NAMESPACE) != self._stack.name:
            raise ClientError(f"{kind} {content.name!r} belongs to no stack of this name")
        query = {"replace": "true"} if old else {}
        new = self._client.call("POST", f"/{kind}s/create", query=query, body=body)
        if old is None:
            print(f"Creating {kind} {content.name}", flush=True)
        elif new["ID"] != old["ID"]:
            print(f"Replacing {kind} {content.name}", flush=True)

    def _prune(self) -> None:
        wanted = {service.spec["Name"] for service in self._stack.services}
        for name, service in sorted(self._services.items()):
            if name not in wanted:
                print(f"Removing service {name}", flush=True)
                self._client.call("DELETE", f"/services/{service['ID']}")

    def _store(self, service: Service) -> str:
        """Create or update one service; return its id."""
        spec, name = service.spec, service.spec["Name"]
        login = self._login(spec)
        old = self._services.get(name)
        self._pin(spec, old, login)
        if old is None:
            print(f"Creating service {name}", flush=True)
            answer = self._client.call("POST", "/services/create", body=spec, headers=login)
            identity, warnings = str(answer["ID"]), answer.get("Warnings")
            self._changed.add(service.key)
        else:
            identity = str(old["ID"])
            print(f"Updating service {name} (id: {identity})", flush=True)
            force = old["Spec"]["TaskTemplate"].get("ForceUpdate", 0)
            force += any(d.restart and d.service in self._changed for d in service.dependencies)
            if force:
                spec["TaskTemplate"]["ForceUpdate"] = force
            query = {"version": str(old["Version"]["Index"])}
            if not login:
                query["registryAuthFrom"] = "spec"
            path = f"/services/{identity}/update"
            answer = self._client.call("POST", path, query=query, body=spec, headers=login)
            warnings = (answer or {}).get("Warnings")
            new = self._client.get(f"/services/{identity}", insertDefaults="false")
            if new["Spec"]["TaskTemplate"] != old["Spec"]["TaskTemplate"]:
                self._changed.add(service.key)
        for warning in warnings or []:
            warn(warning)
        return identity

    def _login(self, spec: Any) -> dict[str, str]:
        if not self._options.with_registry_auth:
            return {}
        from swarmctl.credentials import header_for

        return header_for(spec["TaskTemplate"]["ContainerSpec"]["Image"])

    def _pin(self, spec: Any, old: Any, login: dict[str, str]) -> None:
        """Let an image that the file still names keep the digest it has, unless asked to look."""
        from swarmctl.service_change import pin

        before = old["Spec"] if old else {}
        same = (before.get("Labels") or {}).get(IMAGE_LABEL) == spec["Labels"][IMAGE_LABEL]
        how = self._options.resolve_image
        if how == "always" or (how == "changed" and not same):
            pin(self._client, spec, login)
        elif same:
            task = before["TaskTemplate"]
            spec["TaskTemplate"]["ContainerSpec"]["Image"] = task["ContainerSpec"]["Image"]
            platforms = (task.get("Placement") or {}).get("Platforms")
            if platforms:
                spec["TaskTemplate"].setdefault("Placement", {})["Platforms"] = platforms

    def _await(self, service: Service, dependency: Dependency) -> None:
        """Wait until what a service depends on is where the condition wants it."""
        identity = self._ids[dependency.service]
        name = f"{self._stack.name}_{dependency.service}"
        completed = dependency.condition == "service_completed_successfully"
        said = False
        while not self._is_there(identity, name, completed=completed):
            if not said:
                what = "complete" if completed else "run"
                print(f"Waiting for service {name} to {what}", flush=True)
                said = True
            if self._deadline is not None and time.monotonic() >= self._deadline:
                raise ClientError(
                    f"service {service.spec['Name']} is not deployed: {name} is not ready "
                    f"after {self._options.timeout_s:g} s: see swarmctl service ps {name}",
                    3,
                )
            time.sleep(_POLL_S)

    def _is_there(self, identity: str, name: str, *, completed: bool) -> bool:
        service = self._client.get(f"/services/{identity}", status="true")
        wanted = {"service": {identity: True}, "_up-to-date": {"true": True}}
        tasks = self._client.call("GET", "/tasks", query=filter_query(wanted))
        update = (service.get("UpdateStatus") or {}).get("State", "")
        if update in ("paused", "rollback_paused", "rollback_completed"):
            raise ClientError(f"service {name}: its update is {update.replace('_', ' ')}")
        states = [task["Status"]["State"] for task in tasks]
        alive = [t for t in tasks if t.get("DesiredState") not in ("shutdown", "remove")]
        if tasks and all(state in _ENDED_BADLY for state in states) and not alive:
            error = next((t["Status"].get("Err") for t in tasks if t["Status"].get("Err")), "")
            raise ClientError(f"service {name} failed: {error or states[0]}")
        total = _total(service, tasks)
        if completed:
            return states.count("complete") >= total
        ready = states.count("running") + states.count("complete")
        return ready >= total and update not in ("updating", "rollback_started")


def _total(service: Any, tasks: list[Any]) -> int:
    """Return how many tasks a service wants."""
    mode = service["Spec"].get("Mode") or {}
    if "ReplicatedJob" in mode:
        return int(mode["ReplicatedJob"].get("TotalCompletions") or 1)
    if "Replicated" in mode:
        replicas = mode["Replicated"].get("Replicas")
        return 1 if replicas is None else int(replicas)
    status = service.get("ServiceStatus") or {}
    return max(int(status.get("DesiredTasks") or 0), len({t.get("NodeID") for t in tasks}), 1)


def watch_all(
    client: Client, identities: list[str], *, quiet: bool, timeout_s: float | None
) -> int:
    """Wait until every service has converged; return the worst exit code."""
    from swarmctl.converge import watch

    def one(identity: str) -> int:
        name = client.get(f"/services/{identity}")["Spec"]["Name"]
        code = watch(client, identity, quiet=True, timeout_s=timeout_s)
        if not quiet and code == 0:
            print(f"Service {name} converged", flush=True)
        return code

    with ThreadPoolExecutor(max(1, len(identities))) as pool:
        return max(pool.map(one, identities), default=0)


def remove(client: Client, stack: str, *, wait: bool, say: Callable[[str], None]) -> bool:
    """Remove all of a stack: services, their tasks, secrets, configs, networks; say if any was."""
    found = False
    for kind, path in (
        ("service", "services"),
        ("secret", "secrets"),
        ("config", "configs"),
        ("network", "networks"),
    ):
        for item in of_stack(client, path, stack):
            found = True
            name = item["Name"] if kind == "network" else item["Spec"]["Name"]
            say(f"Removing {kind} {name}")
            client.call("DELETE", f"/{path}/{item['Id' if kind == 'network' else 'ID']}")
        if kind == "service" and found and wait:
            while of_stack(client, "tasks", stack):
                time.sleep(_POLL_S)
    return found

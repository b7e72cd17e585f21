"""A Compose file as a stack: networks, secrets, configs and services, ready for the API."""

import base64
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from swarmctl.compose.deploy import compact
from swarmctl.compose.names import NAMESPACE, Names, Volume, external_name
from swarmctl.compose.section import Section
from swarmctl.compose.service import service_spec
from swarmctl.errors import ClientError

CONDITIONS: Final = ("service_started", "service_healthy", "service_completed_successfully")


class Network(NamedTuple):
    """A network; `body` is None where it must be there already."""

    name: str
    body: dict[str, Any] | None


class Content(NamedTuple):
    """A secret or config; `data` is None where it must be there already."""

    name: str
    data: bytes | None
    labels: dict[str, str]
    template_driver: str

    @property
    def body(self) -> dict[str, Any] | None:
        """What the daemon is asked to keep; None where it must be there already."""
        if self.data is None:
            return None
        data = base64.b64encode(self.data).decode()
        body: dict[str, Any] = {"Name": self.name, "Labels": self.labels, "Data": data}
        if self.template_driver:
            body["Templating"] = {"Name": self.template_driver}
        return body


class Dependency(NamedTuple):
    """What a service waits for: `restart` replaces its tasks too when `service` changes."""

    service: str
    condition: str
    restart: bool


class Service(NamedTuple):
    key: str
    spec: dict[str, Any]
    dependencies: tuple[Dependency, ...]


class Stack(NamedTuple):
    """What a stack is; services are in the order of their dependencies."""

    name: str
    networks: tuple[Network, ...]
    secrets: tuple[Content, ...]
    configs: tuple[Content, ...]
    services: tuple[Service, ...]


def stack_of(
    document: dict[str, Any],
    name: str,
    directory: str,
    variables: Mapping[str, str],
    profiles: frozenset[str] = frozenset(),
) -> Stack:
    """Return the stack of a document: the services without profiles, and of these profiles.

    Raises:
        ClientError: with the path of what is malformed, unknown or not supported.
    """
    top = Section(document, "")
    for key in ("version", "name"):
        top.take(key)  # the stack's name is the command's; the version says nothing any more
    networks = {
        key: _network(section, name, key) for key, section in top.section("networks").each().items()
    }
    networks.setdefault("default", _network(Section(None, "networks.default"), name, "default"))
    volumes = {k: _volume(s, name, k) for k, s in top.section("volumes").each().items()}
    names = Names(name, directory, variables, {}, volumes, {}, {})
    secrets = {k: _content(s, names, k) for k, s in top.section("secrets").each().items()}
    configs = {k: _content(s, names, k) for k, s in top.section("configs").each().items()}
    names = names._replace(
        networks={key: network.name for key, network in networks.items()},
        secrets={key: secret.name for key, secret in secrets.items()},
        configs={key: config.name for key, config in configs.items()},
    )
    services = _services(top.section("services"), names, profiles)
    top.end({"include": "give every file with -c", "models": "not for clusters"})
    if not services:
        raise ClientError("services: there are none to deploy")
    used = _used_networks(services)
    return Stack(
        name,
        tuple(network for network in networks.values() if network.name in used),
        tuple(secrets.values()),
        tuple(configs.values()),
        services,
    )


def _services(section: Section, names: Names, profiles: frozenset[str]) -> tuple[Service, ...]:
    found: dict[str, Service] = {}
    every = section.each()
    for key, one in every.items():
        wanted = set(one.texts("profiles") or [])
        if not wanted or wanted & profiles:
            dependencies = _dependencies(one, every)
            found[key] = Service(key, service_spec(one, key, names), dependencies)
    return tuple(_ordered(found))


def _dependencies(section: Section, known: Mapping[str, Any]) -> tuple[Dependency, ...]:
    value = section.take("depends_on")
    path = section.at("depends_on")
    if isinstance(value, list):
        value = {str(item): None for item in value}
    found = []
    for key, one in Section(value, path).each().items():
        condition = one.choice("condition", *CONDITIONS) or CONDITIONS[0]
        required, restart = one.truth("required") is not False, one.truth("restart") is True
        one.end()
        if key not in known and required:
            raise ClientError(f"{path}: service {key!r} is not under services")
        if key in known:
            found.append(Dependency(key, condition, restart))
    return tuple(found)


def _ordered(services: dict[str, Service]) -> list[Service]:
    """Return services behind what they depend on, else in the file's order."""
    done: dict[str, Service] = {}

    def visit(key: str, path: tuple[str, ...]) -> None:
        if key in path:
            circle = " -> ".join([*path[path.index(key) :], key])
            raise ClientError(f"services: they depend on each other: {circle}")
        if key in done or key not in services:
            return
        for dependency in services[key].dependencies:
            visit(dependency.service, (*path, key))
        done[key] = services[key]

    for key in services:
        visit(key, ())
    return list(done.values())


def _used_networks(services: tuple[Service, ...]) -> set[str]:
    return {
        attachment["Target"]
        for service in services
        for attachment in service.spec["TaskTemplate"].get("Networks", [])
    }


def _network(section: Section, stack: str, key: str) -> Network:
    name, external = external_name(section, stack, key)
    if external:
        section.end()
        return Network(name, None)
    ipam = section.section("ipam")
    pools = [_pool(Section(item, path)) for item, path in ipam.items("config")]
    body: dict[str, Any] = {
        "Name": name,
        "Driver": section.text("driver") or "overlay",
        "Scope": "swarm",
        "Options": section.pairs("driver_opts"),
        "Attachable": section.truth("attachable"),
        "Internal": section.truth("internal"),
        "EnableIPv6": section.truth("enable_ipv6"),
        "Labels": {**(section.pairs("labels") or {}), NAMESPACE: stack},
        "IPAM": {
            "Driver": ipam.text("driver"),
            "Config": pools or None,
            "Options": ipam.pairs("options"),
        },
    }
    ipam.end()
    section.end({"enable_ipv4": "networks always have IPv4 addresses"})
    return Network(name, compact(body))


def _pool(section: Section) -> dict[str, Any]:
    pool = {
        "Subnet": section.text("subnet"),
        "Gateway": section.text("gateway"),
        "IPRange": section.text("ip_range"),
        "AuxiliaryAddresses": section.pairs("aux_addresses"),
    }
    section.end()
    return {key: value for key, value in pool.items() if value}


def _volume(section: Section, stack: str, key: str) -> Volume:
    name, external = external_name(section, stack, key)
    if external:
        section.end()
        return Volume(name, {})
    driver, options = section.text("driver"), section.pairs("driver_opts")
    found: dict[str, Any] = {"Labels": {**(section.pairs("labels") or {}), NAMESPACE: stack}}
    if driver or options:
        found["DriverConfig"] = compact({"Name": driver or "local", "Options": options})
    section.end()
    return Volume(name, found)


def _content(section: Section, names: Names, key: str) -> Content:
    name, external = external_name(section, names.stack, key)
    if external:
        section.end()
        return Content(name, None, {}, "")
    sources = [source for source in ("file", "environment", "content") if source in section]
    if len(sources) != 1:
        raise ClientError(f"{section.path}: want one of file, environment, content or external")
    text = section.text(sources[0]) or ""
    if sources[0] == "file":
        data = names.read(text)
    elif sources[0] == "environment":
        if text not in names.variables:
            raise ClientError(f"{section.at('environment')}: variable {text} is not set")
        data = names.variables[text].encode()
    else:
        data = text.encode()
    labels = {**(section.pairs("labels") or {}), NAMESPACE: names.stack}
    driver = section.text("template_driver") or ""
    section.end({"driver": "secrets are kept by the managers"})
    return Content(name, data, labels, driver)

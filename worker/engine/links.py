"""Links (`--link`): what a container of the default bridge is told of others. Pure.

On a user-defined network a link is an alias that its name service answers; here it is a line of
/etc/hosts and variables, as Docker has had them before there was a name service.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from swarmapi.errors import InvalidArgument, NotFound
from worker.engine.endpoints import parse_link
from worker.engine.record import Record

_BRIDGE = "bridge"
_NOT_TOLD = frozenset(("HOME", "PATH"))
_RANGE = 3
"""So many ports in a row are also told as a range."""


@dataclass(frozen=True)
class Linked:
    """A running container as another one that links to it sees it."""

    alias: str
    name: str
    hostname: str
    address: str
    env: tuple[str, ...] = ()
    ports: tuple[tuple[int, str], ...] = ()
    """(port, protocol) it exposes."""

    @property
    def host_names(self) -> str:
        """What it is called in /etc/hosts."""
        return " ".join(dict.fromkeys((self.alias, self.hostname, self.name)))


def resolve_links(record: Record, find: Callable[[str], Record]) -> list[str]:
    """Return a new record's links by full id, `id:alias`.

    Raises:
        InvalidArgument: where a link is malformed, leads nowhere or cannot be.
    """
    links = record.host.links
    mode = record.host.network_mode
    shared = "container type network" if mode.startswith("container:") else f"{mode} networking"
    if links and (mode == "host" or mode.startswith("container:")):
        raise InvalidArgument(f"conflicting options: {shared} can't be used with links")
    if mode not in ("default", _BRIDGE):
        return []  # clients name them in EndpointsConfig
    found: dict[str, str] = {}
    """By alias: the first one has it, as with Docker."""
    for link in links:
        target, alias = parse_link(link)
        try:
            other = find(target)
            passed: set[str] = set()
            while other.host.network_mode.startswith("container:"):
                if other.id in passed:  # names come back: each may share the other's by now
                    raise InvalidArgument(
                        f"cannot link to {target}: it shares the network of a container that "
                        "shares its own"
                    )
                passed.add(other.id)
                other = find(other.host.network_mode.removeprefix("container:"))
        except NotFound as error:
            raise InvalidArgument(
                f"could not get container for {target}: {error.message}"
            ) from None
        if other.host.network_mode == "host":
            raise InvalidArgument("conflicting options: host networking can't be used with links")
        found.setdefault(alias, f"{other.id}:{alias}")
    return list(found.values())


def names_by_target(records: Iterable[Record]) -> dict[str, list[str]]:
    """Return, by a container's id, what it is called by those that link to it: `parent/alias`."""
    names: dict[str, list[str]] = {}
    for record in records:
        for target, alias in map(parse_link, record.host.links):
            names.setdefault(target, []).append(f"{record.name}/{alias}")
    return names


def target_of(record: Record, alias: str) -> str:
    """Return the id of the container that a record calls by an alias, empty for none."""
    links = map(parse_link, record.host.links)
    return next((target for target, own in links if own == alias), "")


def linked(record: Record, find: Callable[[str], Record], *, lenient: bool) -> list[Linked]:
    """Return those a record links to; a removed one is no more, nor, if `lenient`, a stopped one.

    Raises:
        InvalidArgument: for one that does not run or is not on the default bridge.
    """
    found = []
    for link in record.host.links:
        target, alias = parse_link(link)
        try:
            other = find(target)
        except NotFound:
            continue
        if not other.running:
            if lenient:
                continue
            raise InvalidArgument(
                f"Cannot link to a non running container: /{other.name} AS /{record.name}/{alias}"
            )
        place = other.joined.get(_BRIDGE)
        if place is None:
            if lenient:
                continue
            raise InvalidArgument(
                f"Cannot link to /{other.name}, as it does not belong to the default network"
            )
        exposed = (*other.config.exposed_ports, *(other.image_config.get("ExposedPorts") or {}))
        found.append(
            Linked(
                alias,
                other.name,
                other.config.hostname or other.id[:12],
                place.address,
                tuple(other.env),
                tuple(sorted(_ports(exposed))),
            )
        )
    return found


def environment(parent: str, others: Sequence[Linked]) -> list[str]:
    """Return the variables by which a container called `parent` knows those it links to."""
    return [entry for other in others for entry in _variables(parent, other)]


def _variables(parent: str, other: Linked) -> list[str]:
    prefix, address = other.alias.upper().replace("-", "_"), other.address
    found = []
    if other.ports:
        port, protocol = other.ports[0]
        found.append(f"{prefix}_PORT={protocol}://{address}:{port}")
    for first, last, protocol in _ranges(other.ports):
        name = f"{prefix}_PORT_{first}_{protocol.upper()}"
        found += [
            f"{name}_START={protocol}://{address}:{first}",
            f"{name}_PORT_START={first}",
            f"{name}_END={protocol}://{address}:{last}",
            f"{name}_PORT_END={last}",
        ]
    for port, protocol in other.ports:
        name = f"{prefix}_PORT_{port}_{protocol.upper()}"
        found += [
            f"{name}={protocol}://{address}:{port}",
            f"{name}_ADDR={address}",
            f"{name}_PORT={port}",
            f"{name}_PROTO={protocol}",
        ]
    found.append(f"{prefix}_NAME=/{parent}/{other.alias}")
    own = (entry for entry in other.env if entry.partition("=")[0] not in _NOT_TOLD)
    return found + [f"{prefix}_ENV_{entry}" for entry in own if "=" in entry]


def _ranges(ports: Sequence[tuple[int, str]]) -> list[tuple[int, int, str]]:
    """Return (first, last, protocol) of the ports that follow each other."""
    runs: list[tuple[int, int, str]] = []
    for port, protocol in sorted(ports, key=lambda one: (one[1], one[0])):
        if runs and runs[-1][1:] == (port - 1, protocol):
            runs[-1] = (runs[-1][0], port, protocol)
        else:
            runs.append((port, port, protocol))
    return [run for run in runs if run[1] - run[0] + 1 >= _RANGE]


def _ports(exposed: Iterable[str]) -> set[tuple[int, str]]:
    """Return the ports; what an image exposes nobody checked, and what is no number is left out."""
    split = (text.partition("/") for text in exposed)
    return {(int(number), rest or "tcp") for number, _, rest in split if number.isdecimal()}

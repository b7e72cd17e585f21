"""The values of flags: durations, sizes, ports, mounts, lists."""

from __future__ import annotations

import re

from swarmctl.values import Bad as Bad
from swarmctl.values import size as size
from swarmctl.values import truth as truth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_NANOS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


def duration(text: str) -> int:
    """Return nanoseconds of Go's notation (`1m30s`)."""
    if text == "0":
        return 0
    if not text or _DURATION.sub("", text):
        raise Bad(
            f"invalid duration {text!r}: want a number with a unit, such as 300ms, 10s, 1m30s"
        )
    return round(sum(float(number) * _NANOS[unit] for number, unit in _DURATION.findall(text)))


def cpus(text: str) -> int:
    """Return billionths of a core of `0.5`."""
    try:
        value = float(text)
    except ValueError:
        raise Bad(f"invalid number of CPUs {text!r}") from None
    if not 0 <= value < 1e6:
        raise Bad(f"invalid number of CPUs {text!r}")
    return round(value * 10**9)


def count(text: str) -> int:
    """Return a number that is not negative."""
    if not text.isdecimal():
        raise Bad(f"invalid number {text!r}: want 0 or more")
    return int(text)


def number(text: str) -> int:
    """Return a number that may be negative."""
    try:
        return int(text)
    except ValueError:
        raise Bad(f"invalid number {text!r}") from None


def ratio(text: str) -> float:
    """Return a share between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise Bad(f"invalid ratio {text!r}: want a number from 0 to 1")
    return value


def pairs(items: list[str] | None) -> dict[str, str]:
    """Return `a=b` items as a mapping; a bare name gets an empty value."""
    split = (item.partition("=") for item in items or [])
    return {name: value for name, _, value in split}


def environment(items: list[str] | None, files: list[str] | None = None) -> list[str]:
    """Return NAME=value lines; a bare NAME takes the client's value or is left out."""
    import os

    found: dict[str, str] = {}
    for item in [*file_lines(files), *(items or [])]:
        name, equals, value = item.partition("=")
        if not name:
            raise Bad(f"invalid environment variable {item!r}: the name is missing")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return [f"{name}={value}" for name, value in found.items()]


def file_lines(files: list[str] | None) -> list[str]:
    """Return the lines of files of `name=value`, without comments and empty ones."""
    lines: list[str] = []
    for path in files or []:
        try:
            with open(path, encoding="utf-8") as file:
                lines += [line.strip() for line in file if line.strip() and line[0] != "#"]
        except OSError as error:
            raise Bad(f"cannot read {path}: {error.strerror}") from None
    return lines


def filters(items: list[str] | None) -> dict[str, dict[str, bool]]:
    """Return the API's filters of `--filter name=value` flags."""
    found: dict[str, dict[str, bool]] = {}
    for item in items or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise Bad(f"invalid filter {item!r}: want name=value")
        found.setdefault(name.strip().lower(), {})[value.strip()] = True
    return found


def filter_query(found: dict[str, dict[str, bool]]) -> dict[str, str]:
    """Return filters as the query of a request, nothing where there are none."""
    import json

    return {"filters": json.dumps(found, separators=(",", ":"))} if found else {}


def platform(text: str) -> str:
    """Return OCI's platform, in JSON, of `os[/arch[/variant]]`."""
    import json

    parts = text.split("/")
    if not all(parts) or len(parts) > 3:
        raise Bad(f"invalid platform {text!r}: want os/arch[/variant]")
    names = ("os", "architecture", "variant")
    return json.dumps(dict(zip(names, parts, strict=False)), separators=(",", ":"))


def platform_query(text: str | None) -> dict[str, str]:
    """Return the query of a request for a platform, nothing where none is given."""
    return {"platform": text} if text else {}


def fields(text: str) -> dict[str, str]:
    """Return `a=b,c=d` as a mapping; a bare name means true."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        found[name.strip().lower()] = value if equals else "true"
    return found


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise Bad(f"invalid port {text!r}: want 1 to 65535")
    return int(text)


def _ports(text: str) -> list[int]:
    first, dash, last = text.partition("-")
    low = _port(first)
    high = _port(last) if dash else low
    if high < low:
        raise Bad(f"invalid range of ports {text!r}: it ends before it begins")
    return list(range(low, high + 1))


PORT_KEYS = ("target", "published", "protocol", "mode", "source", "address", "interface")


def service_ports(text: str) -> list[dict[str, Any]]:
    """Return the PortConfigs of `--publish`: `[ADDRESS:]8080:80[/udp]`, ranges, or `target=…,…`."""
    protocol = "tcp"
    mode = "ingress"
    ours: dict[str, str] = {}
    if "=" in text:
        found = fields(text)
        unknown = set(found) - set(PORT_KEYS)
        if unknown:
            raise Bad(f"invalid port {text!r}: unknown key {min(unknown)!r}")
        if "target" not in found:
            raise Bad(f"invalid port {text!r}: target is missing")
        targets = _ports(found["target"])
        published = _ports(found["published"]) if found.get("published") else []
        protocol, mode = found.get("protocol", protocol), found.get("mode", mode)
        ours |= {key.title(): found[key] for key in PORT_KEYS[4:] if found.get(key)}
    else:
        text, slash, suffix = text.partition("/")
        protocol = suffix if slash else protocol
        left, colon, right = text.rpartition(":")
        address, colon_before, left = left.rpartition(":")
        if colon_before:
            ours["Address"] = address.strip("[]")
        targets, published = _ports(right), _ports(left) if colon and left else []
    if protocol not in ("tcp", "udp", "sctp"):
        raise Bad(f"invalid protocol {protocol!r}: want tcp, udp or sctp")
    if mode not in ("ingress", "host"):
        raise Bad(f"invalid publish mode {mode!r}: want ingress or host")
    if published and len(published) != len(targets):
        raise Bad(f"invalid port {text!r}: the ranges differ in length")
    rows: list[dict[str, Any]] = []
    for position, target in enumerate(targets):
        row: dict[str, Any] = {"Protocol": protocol, "TargetPort": target, "PublishMode": mode}
        row |= ours
        if published:
            row["PublishedPort"] = published[position]
        rows.append(row)
    return rows


def container_ports(items: list[str] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ExposedPorts and PortBindings of `-p [[address:]published:]target[/protocol]`."""
    exposed: dict[str, Any] = {}
    bindings: dict[str, Any] = {}
    for item in items or []:
        text, slash, protocol = item.partition("/")
        protocol = protocol if slash else "tcp"
        if protocol not in ("tcp", "udp", "sctp"):
            raise Bad(f"invalid protocol {protocol!r}: want tcp, udp or sctp")
        rest, _, target = text.rpartition(":")
        address, _, published = rest.rpartition(":")
        targets = _ports(target)
        hosts: list[str] = [str(port) for port in _ports(published)] if published else []
        if len(targets) == 1 and len(hosts) > 1:
            hosts = [published]  # one of them, whichever is free
        if hosts and len(hosts) != len(targets):
            raise Bad(f"invalid port {item!r}: the ranges differ in length")
        for position, port in enumerate(targets):
            key = f"{port}/{protocol}"
            exposed[key] = {}
            binding = {
                "HostIp": address.strip("[]"),
                "HostPort": hosts[position] if hosts else "",
            }
            bindings.setdefault(key, []).append(binding)
    return exposed, bindings


def exposed_ports(items: list[str] | None) -> dict[str, Any]:
    """Return ExposedPorts of `--expose port[-port][/protocol]`."""
    found: dict[str, Any] = {}
    for item in items or []:
        text, _, protocol = item.partition("/")
        found |= {f"{port}/{protocol or 'tcp'}": {} for port in _ports(text)}
    return found


def mount(text: str) -> dict[str, Any]:
    """Return the Mount of `type=volume,source=s,target=/t[,readonly][,…]`."""
    from swarmctl.mount import parse

    return parse(text)


def ulimit(text: str) -> dict[str, Any]:
    """Return the Ulimit of `nofile=1024[:2048]`."""
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    try:
        return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError:
        raise Bad(f"invalid ulimit {text!r}: want name=soft[:hard]") from None


def with_tag(image: str) -> str:
    """Return an image's name with `:latest` where it has neither tag nor digest."""
    last = image.rpartition("/")[2]
    return image if "@" in image or ":" in last else f"{image}:latest"


def addresses(ipv4: str, ipv6: str) -> dict[str, str]:
    """Return the addresses asked for on a network as the API has them."""
    asked = (("IPv4Address", ipv4), ("IPv6Address", ipv6))
    return {key: address for key, address in asked if address}

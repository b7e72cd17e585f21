"""The files by which a container knows its network: /etc/hosts, hostname and resolv.conf."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.engine import bundle
from worker.engine.links import Linked
from worker.engine.networks import BRIDGE_ID
from worker.engine.record import Record

RESOLVER_ADDRESS = "127.0.0.11"
FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
"""What Docker uses where the host has no resolver that a container could reach."""
HOST_GATEWAY = "host-gateway"
_LOCALHOST = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)
_STUB, _BEHIND_STUB = "127.0.0.53", Path("/run/systemd/resolve/resolv.conf")
"""systemd's stub listens where no container reaches it; the other file names who it asks."""


@dataclass(frozen=True)
class DnsWishes:
    """Resolver settings instead of the host's; empty ones leave the host's."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def write_files(
    directory: Path, record: Record, host_gateway: str, linked: Sequence[Linked] = ()
) -> dict[str, str]:
    """Write the three files in place; return their paths by their place in the container.

    In place, because a running container has them mounted.
    """
    texts = {
        "/etc/hostname": bundle.hostname_of(record) + "\n",
        "/etc/hosts": _hosts_of(record, host_gateway, linked),
        "/etc/resolv.conf": _resolvers_of(record),
    }
    for target, text in texts.items():
        (directory / os.path.basename(target)).write_text(text)
    return paths(directory)


def paths(directory: Path) -> dict[str, str]:
    """Return where `write_files` puts them."""
    names = ("hostname", "hosts", "resolv.conf")
    return {f"/etc/{name}": str(directory / name) for name in names}


def _hosts_of(record: Record, host_gateway: str, linked: Sequence[Linked]) -> str:
    text = _LOCALHOST
    if record.host.network_mode == "host":
        text = _read(Path("/etc/hosts")) or _LOCALHOST
    extra = [entry.partition(":")[::2] for entry in record.host.extra_hosts]
    addresses = [
        address
        for state in record.joined.values()
        for address in (state.address, state.ipv6_address)
        if address
    ]
    return hosts_text(
        text,
        [
            *((name, host_gateway if at == HOST_GATEWAY else at) for name, at in extra),
            *((other.host_names, other.address) for other in linked),
        ],
        addresses,
        host_names(bundle.hostname_of(record), record.config.domainname),
    )


def _resolvers_of(record: Record) -> str:
    host = record.host
    text = _read(Path("/etc/resolv.conf"))
    on_host = host.network_mode == "host"
    if _STUB in text and not on_host:
        text = _read(_BEHIND_STUB) or text
    served = any(state.network_id != BRIDGE_ID for state in record.joined.values())
    return resolvers_text(
        text,
        DnsWishes(tuple(host.dns), tuple(host.dns_search), tuple(host.dns_options)),
        served=served and host.network_mode not in ("host", "none"),
        loopback=on_host,
    )


def host_names(hostname: str, domainname: str) -> str:
    """Return `name.domain name`, or the name alone where there is no domain."""
    full = f"{hostname}.{domainname}" if domainname else hostname
    short, dot, _ = full.partition(".")
    return f"{full} {short}" if dot else full


def hosts_text(
    text: str, extra: Sequence[tuple[str, str]], addresses: Sequence[str], names: str
) -> str:
    """Return an /etc/hosts: `text`, then the names given by the user, then its own."""
    lines = [f"{address}\t{name}\n" for name, address in extra]
    lines += [f"{address}\t{names}\n" for address in addresses]
    return text + ("" if text.endswith("\n") or not text else "\n") + "".join(lines)


def resolvers_text(text: str, wanted: DnsWishes, *, served: bool, loopback: bool) -> str:
    """Return a resolv.conf made of the host's and what is wanted instead.

    `served`: names are answered at 127.0.0.11. `loopback`: the host's loopback is the
    container's too.
    """
    words = [line.split() for line in text.splitlines()]
    servers = wanted.servers or tuple(w[1] for w in words if w[:1] == ["nameserver"] and w[1:])
    if not wanted.servers and not loopback:
        servers = tuple(s for s in servers if not s.startswith("127.") and s != "::1")
    servers = (RESOLVER_ADDRESS,) if served else servers or FALLBACK_SERVERS
    search = wanted.search or _last(words, "search")
    options = wanted.options or _last(words, "options")
    if served and not any(option.startswith("ndots:") for option in options):
        options = (*options, "ndots:0")
    lines = [f"nameserver {server}" for server in servers]
    if search and search != (".",):
        lines.append("search " + " ".join(search))
    if options:
        lines.append("options " + " ".join(options))
    return "\n".join(lines) + "\n"


def _last(words: Sequence[Sequence[str]], key: str) -> tuple[str, ...]:
    found = [tuple(line[1:]) for line in words if line[:1] == [key]]
    return found[-1] if found else ()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

"""Everything between a record and a running process: files, user, network, Launch."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.oci import ContainerState, Launch, LogConfig, Overlay
from swarmapi.errors import InvalidArgument
from worker.engine import bundle, initlayer, rootfs
from worker.engine.ports import Joined, JoinRequest, Networking, Supervisor
from worker.engine.record import EndpointState, Record
from worker.engine.spec import EndpointSpec, PortBinding

_WRITTEN = ("hostname", "hosts", "resolv.conf")
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_LOCALHOST = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


@dataclass(frozen=True)
class Places:
    """Where the files of containers are."""

    containers: Path

    def directory(self, container_id: str) -> Path:
        """The directory of one container."""
        return self.containers / container_id

    def log(self, container_id: str) -> Path:
        """Its json-file log."""
        return self.directory(container_id) / f"{container_id}-json.log"


class Launcher:
    """Starts a container's process; knows nothing of its life before or after."""

    def __init__(
        self,
        places: Places,
        supervisor: Supervisor,
        networking: Networking,
        netns_of: Callable[[str], int],
    ) -> None:
        self._places = places
        self._supervisor = supervisor
        self._networking = networking
        self._netns_of = netns_of

    async def start(self, record: Record, lower: Sequence[str]) -> ContainerState:
        """Launch the container and write where it is into the record.

        Raises:
            InvalidArgument: when the record cannot be turned into a start.
            RuntimeFailure: when the supervisor refuses or the program cannot be run.
        """
        overlay = self.overlay(record.id, lower)
        mode = record.host.network_mode
        joined = await self._join(record)
        try:
            files = self._write_files(record, joined)
            config = self._config(record, overlay, files)
            if joined is not None:
                netns = "fd"
            elif mode == "host":
                netns = "host"
            elif mode.startswith("container:"):
                netns = f"container:{self._netns_of(mode.removeprefix('container:'))}"
            else:
                netns = "new"
            launch = Launch(
                container_id=record.id,
                config=config,
                overlay=overlay,
                log=self._log(record),
                stdin_open=record.config.open_stdin,
                netns=netns,
            )
            state = await self._supervisor.start(
                launch, netns_fd=joined.netns_fd if joined else None
            )
        except BaseException:
            await self._networking.leave(record.id)
            raise
        finally:
            if joined is not None:
                os.close(joined.netns_fd)
        return state

    def exec_user(self, record: Record, user: str, lower: Sequence[str]) -> dict[str, Any]:
        """Return OCI's process.user of an exec; empty means the container's own."""
        return self._user(record, user or _user_of(record), [self._upper(record.id), *lower])

    def _config(self, record: Record, overlay: Overlay, files: dict[str, str]) -> dict[str, Any]:
        layers = [overlay.upper, *overlay.lower]
        user = self._user(record, _user_of(record), layers)
        passwd = rootfs.read_member(layers, "etc/passwd")
        return bundle.build_config(
            record,
            user=user,
            home=rootfs.home_of(user["uid"], passwd),
            files=files,
            rootfs=overlay.merged,
        )

    @staticmethod
    def _user(record: Record, user: str, layers: Sequence[str]) -> dict[str, Any]:
        groups = record.host.group_add
        return rootfs.resolve_user(
            user,
            groups,
            rootfs.read_member(layers, "etc/passwd"),
            rootfs.read_member(layers, "etc/group"),
        )

    def files_of(self, container_id: str) -> dict[str, str]:
        """Return target in the container → host file, of the files the daemon writes."""
        directory = self._places.directory(container_id)
        return {f"/etc/{name}": str(directory / name) for name in _WRITTEN}

    def _upper(self, container_id: str) -> str:
        return str(self._places.directory(container_id) / "upper")

    def overlay(self, container_id: str, lower: Sequence[str]) -> Overlay:
        """Return the layers of a container over those of its image; makes the directories."""
        directory = self._places.directory(container_id)
        for name in ("upper", "work", "merged"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        return Overlay(
            lower=(initlayer.prepare(self._places.containers.parent), *lower),
            upper=self._upper(container_id),
            work=str(directory / "work"),
            merged=str(directory / "merged"),
        )

    def _log(self, record: Record) -> LogConfig:
        options = record.host.log_config.config
        return LogConfig(
            driver=record.host.log_config.type,
            path=str(self._places.log(record.id)),
            max_bytes=parse_size(options.get("max-size", "0")),
            max_files=int(options.get("max-file", "1")),
        )

    async def _join(self, record: Record) -> Joined | None:
        mode = record.host.network_mode
        if mode in ("none", "host") or mode.startswith("container:"):
            return None
        joined = await self._networking.join(join_request(record, published_ports(record)))
        record.joined = {
            endpoint.network: EndpointState(
                network_id=endpoint.network_id,
                endpoint_id=endpoint.endpoint_id,
                address=endpoint.address,
                prefix_length=endpoint.prefix_length,
                gateway=endpoint.gateway,
                mac=endpoint.mac,
            )
            for endpoint in joined.endpoints
        }
        record.ports = list(joined.ports)
        return joined

    def _write_files(self, record: Record, joined: Joined | None) -> dict[str, str]:
        directory = self._places.directory(record.id)
        host = record.host
        name = bundle.hostname_of(record)
        hosts = _LOCALHOST
        for entry in host.extra_hosts:
            alias, _, address = entry.partition(":")
            if address == "host-gateway":
                gateways = [state.gateway for state in record.joined.values() if state.gateway]
                address = gateways[0] if gateways else "127.0.0.1"
            hosts += f"{address}\t{alias}\n"
        for state in record.joined.values():
            if state.address:
                hosts += f"{state.address}\t{name}\n"
        texts = (name + "\n", hosts, self._resolv_conf(record, joined))
        for file, text in zip(_WRITTEN, texts, strict=True):
            (directory / file).write_text(text)
        return self.files_of(record.id)

    @staticmethod
    def _resolv_conf(record: Record, joined: Joined | None) -> str:
        host = record.host
        servers = list(joined.dns_servers) if joined and joined.dns_servers else list(host.dns)
        if not servers:
            inherited = _host_resolv_conf()
            if not (host.dns_search or host.dns_options):
                return inherited
            servers = [
                line.split()[1]
                for line in inherited.splitlines()
                if line.startswith("nameserver ") and len(line.split()) > 1
            ]
        lines = [f"nameserver {server}" for server in servers]
        if host.dns_search:
            lines.append("search " + " ".join(host.dns_search))
        if host.dns_options:
            lines.append("options " + " ".join(host.dns_options))
        return "\n".join(lines) + "\n"


def join_request(record: Record, ports: tuple[tuple[int, str, str, int], ...]) -> JoinRequest:
    """Return what a container asks of the network."""
    mode = record.host.network_mode
    first = "bridge" if mode in ("", "default", "bridge") else mode
    networks = {first: EndpointSpec()} | {
        ("bridge" if name == "default" else name): endpoint
        for name, endpoint in record.endpoints.items()
    }
    return JoinRequest(
        container_id=record.id,
        hostname=bundle.hostname_of(record),
        names=(record.name, record.id[:12]),
        networks=networks,
        ports=ports,
        dns=tuple(record.host.dns),
    )


def published_ports(record: Record) -> tuple[tuple[int, str, str, int], ...]:
    """Return (container port, protocol, host address, host port; 0 for any) to publish.

    Raises:
        InvalidArgument: for a malformed port.
    """
    wanted = []
    bindings = {port: list(found or []) for port, found in record.host.port_bindings.items()}
    if record.host.publish_all_ports:
        exposed = [*record.config.exposed_ports, *(record.image_config.get("ExposedPorts") or {})]
        for port in exposed:
            if not bindings.get(port):
                bindings[port] = [PortBinding()]
    for port, targets in bindings.items():
        number, protocol = parse_port(port)
        for target in targets:
            host_port = target.host_port or "0"
            if not host_port.isdigit() or int(host_port) > 65535:
                raise InvalidArgument(f"invalid port specification: {host_port!r}")
            wanted.append((number, protocol, target.host_ip or "0.0.0.0", int(host_port)))
    return tuple(wanted)


def parse_port(port: str) -> tuple[int, str]:
    """Return (number, protocol) of Docker's `80/tcp`."""
    number, _, protocol = port.partition("/")
    protocol = protocol or "tcp"
    if not number.isdigit() or not 0 < int(number) < 65536 or protocol not in ("tcp", "udp"):
        raise InvalidArgument(f"invalid port specification: {port!r}")
    return int(number), protocol


def parse_size(text: str) -> int:
    """Return the bytes of Docker's `10m`; `-1` and `0` are without limit."""
    if text in ("", "-1"):
        return 0
    number = text.lower().removesuffix("ib").removesuffix("b") if text[-1:].isalpha() else text
    unit = number[-1:] if number[-1:].isalpha() else ""
    digits = number[: len(number) - len(unit)]
    if unit not in _SIZES or not digits.isdigit():
        raise InvalidArgument(f"invalid size: {text!r}")
    return int(digits) * _SIZES[unit]


def _user_of(record: Record) -> str:
    return record.config.user or str(record.image_config.get("User") or "")


def _host_resolv_conf() -> str:
    try:
        return Path("/etc/resolv.conf").read_text()
    except OSError:
        return ""

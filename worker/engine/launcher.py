"""Everything between a record and a running process: files, user, network, Launch."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from runtime.errors import SupervisorGone
from runtime.image.copied import make_copy
from runtime.image.snapshot import make_snapshot
from runtime.oci import ContainerState, Launch, Overlay
from runtime.supervisor.ids import IdMap
from swarmapi.errors import Conflict, InvalidArgument
from worker.engine import bundle, healthcheck, initlayer, links, netfiles, rootfs
from worker.engine.execs import ExecConfig
from worker.engine.logoptions import log_config
from worker.engine.networks import HOST_ID, NONE_ID
from worker.engine.ports import (
    Joined,
    JoinedEndpoint,
    JoinRequest,
    Networking,
    PortWish,
    Supervisor,
)
from worker.engine.record import EndpointState, Record
from worker.engine.spec import PortBinding
from worker.engine.storage import Storage
from worker.engine.storagedriver import container_size

_START_TRIES = 3


@dataclass(frozen=True)
class Places:
    """Where the files of containers are."""

    containers: Path
    storage_driver: str = "overlay2"
    ids: IdMap | None = None
    """What the containers' ids are on the host, where they run in user namespaces."""

    @property
    def copies(self) -> bool:
        """Containers have a copy of their image's files, not an overlay above them."""
        return self.storage_driver != "overlay2"

    def directory(self, container_id: str) -> Path:
        """The directory of one container."""
        return self.containers / container_id

    def ids_of(self, record: Record) -> IdMap | None:
        """What a container's ids are on the host; None: the same."""
        return None if record.host.userns_mode == "host" else self.ids

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
        storage: Storage,
        find: Callable[[str], Record],
    ) -> None:
        self._places = places
        self._supervisor = supervisor
        self._networking = networking
        self._storage = storage
        self._find = find

    async def start(
        self,
        record: Record,
        lower: Sequence[str],
        joined_network: Callable[[], None] = lambda: None,
    ) -> ContainerState:
        """Launch the container and write where it is into the record.

        `joined_network` is called when that is written and nothing runs yet.

        Raises:
            InvalidArgument: when the record cannot be turned into a start.
            RuntimeFailure: when the supervisor refuses or the program cannot be run.
        """
        overlay = await asyncio.to_thread(self.overlay, record.id, lower, record.host.storage_opt)
        netns = self._netns(record)
        if any(point.kind == "volume" for point in record.mounts):
            await asyncio.to_thread(self._storage.prepare, record)
        joined: Joined | None = None
        try:
            joined = await self._join(record)
            links.linked(record, self._find, lenient=False)
            files = await self.write_files(record)
            launch = await asyncio.to_thread(self._launch, record, overlay, files, netns)
            joined_network()
            state = await self._start(launch, joined.netns_fd if joined else None)
        except BaseException:
            await self.release(record)
            raise
        finally:
            if joined is not None:
                os.close(joined.netns_fd)
        return state

    def _launch(
        self, record: Record, overlay: Overlay, files: dict[str, str], netns: str
    ) -> Launch:
        """Return the request; blocking: accounts are read from the image's layers."""
        return Launch(
            container_id=record.id,
            config=self._config(record, overlay, files),
            overlay=None if overlay.copied else overlay,
            log=log_config(record, str(self._places.log(record.id))),
            stdin_open=record.config.open_stdin,
            netns=netns,
            # in another's pid namespace there is an init already (as Docker has it)
            init=record.host.init and not record.host.pid_mode,
            restart=record.host.restart_policy.to_runtime(),
            health=healthcheck.to_runtime(
                record.config.healthcheck,
                record.image_config,
                lambda words: self.exec_process(record, ExecConfig(cmd=words), overlay.lower),
            ),
        )

    async def _start(self, launch: Launch, netns_fd: int | None) -> ContainerState:
        """Start, and when the fork server dies over it, find out what came of that."""
        for _ in range(_START_TRIES - 1):
            with suppress(SupervisorGone):
                return await self._supervisor.start(launch, netns_fd=netns_fd)
            for state in await self._supervisor.list():
                if state.container_id == launch.container_id:
                    return state
        return await self._supervisor.start(launch, netns_fd=netns_fd)

    async def release(self, record: Record) -> None:
        """Let go of what a container that ended had of networks and volumes."""
        await self._networking.leave(record.id)
        if any(point.kind == "volume" for point in record.mounts):
            await asyncio.to_thread(self._storage.release, record.id)

    def exec_user(self, record: Record, user: str, lower: Sequence[str]) -> dict[str, Any]:
        """Return OCI's process.user of an exec; empty means the container's own."""
        return self._user(record, user or _user_of(record), self._shown(record.id, lower))

    def exec_process(
        self, record: Record, config: ExecConfig, lower: Sequence[str]
    ) -> dict[str, Any]:
        """Return OCI's process of an exec; it is the container's user unless it names one."""
        user = self.exec_user(record, config.user, lower)
        env = bundle.base_environment(record, self._link_env(record))
        if config.tty:
            env.append("TERM=xterm")
        if not any(entry.startswith("HOME=") for entry in (*env, *config.env)):
            env.append("HOME=/root" if user["uid"] == 0 else "HOME=/")
        return bundle.process_of(
            record,
            args=config.cmd,
            env=[*env, *config.env],
            cwd=config.working_dir or bundle.working_dir_of(record),
            user=user,
            tty=config.tty,
            privileged=config.privileged,
        )

    def _config(self, record: Record, overlay: Overlay, files: dict[str, str]) -> dict[str, Any]:
        layers = overlay.shown
        user = self._user(record, _user_of(record), layers)
        passwd = rootfs.read_member(layers, "etc/passwd")
        return bundle.build_config(
            record,
            user=user,
            home=rootfs.home_of(user["uid"], passwd),
            files=files,
            rootfs=overlay.upper if overlay.copied else overlay.merged,
            pid_owner=self._owner(record.host.pid_mode),
            ipc_owner=self._ipc_owner(record.host.ipc_mode),
            ids=self._places.ids_of(record),
            link_env=self._link_env(record),
        )

    def _link_env(self, record: Record) -> list[str]:
        linked = links.linked(record, self._find, lenient=True)
        known = {entry.partition("=")[0] for entry in record.env}
        found = links.environment(record.name, linked)
        return [entry for entry in found if entry.partition("=")[0] not in known]

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
        return netfiles.paths(self._places.directory(container_id))

    def _shown(self, container_id: str, lower: Sequence[str]) -> list[str]:
        upper = self._upper(container_id)
        return [upper] if self._places.copies else [upper, *lower]

    def _upper(self, container_id: str) -> str:
        return str(self._places.directory(container_id) / "upper")

    def overlay(
        self, container_id: str, lower: Sequence[str], options: Mapping[str, str]
    ) -> Overlay:
        """Return the layers of a container over those of its image; makes directories and copy.

        `options` are its storage options. Blocking.
        """
        directory = self._places.directory(container_id)
        for name in ("upper", "work", "merged"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        overlay = Overlay(
            lower=initlayer.above(self._places.containers.parent, tuple(lower)),
            upper=self._upper(container_id),
            work=str(directory / "work"),
            merged=str(directory / "merged"),
            copied=self._places.copies,
        )
        layers, upper = tuple(Path(path) for path in overlay.lower), Path(overlay.upper)
        if self._places.storage_driver == "btrfs":
            make_snapshot(layers, upper, container_size("btrfs", options))
        elif overlay.copied:
            make_copy(layers, upper)
        return overlay

    def _running(self, reference: str) -> Record:
        """Return the running container whose namespaces another one shares."""
        record = self._find(reference)
        if not record.running:
            raise Conflict(f"cannot join the namespaces of a non running container: {record.id}")
        return record

    def _netns(self, record: Record) -> str:
        """Return where its network namespace comes from, in Launch's words."""
        mode = record.host.network_mode
        if record.owns_network:
            return "fd"
        if not mode.startswith("container:"):
            return "host" if mode == "host" else "new"
        owner = self._running(mode.removeprefix("container:"))
        record.config.hostname = bundle.hostname_of(owner)
        record.config.domainname = owner.config.domainname
        return f"container:{owner.pid}"

    def _owner(self, mode: str) -> int:
        """Return the first process of the container whose namespace a mode shares, 0 for none."""
        kind, _, reference = mode.partition(":")
        return self._running(reference).pid if kind == "container" else 0

    def _ipc_owner(self, mode: str) -> int:
        owner = self._owner(mode)
        if owner:
            other = self._running(mode.partition(":")[2])
            if other.host.ipc_mode in ("", "private", "none"):
                raise InvalidArgument(
                    f"cannot join the IPC namespace of container {other.name}: non-shareable IPC"
                    " (hint: use IpcMode:shareable for the donor container)"
                )
        return owner

    async def _join(self, record: Record) -> Joined | None:
        record.joined, record.ports = {}, []
        if not record.owns_network:
            mode = record.host.network_mode
            network_id = {"host": HOST_ID, "none": NONE_ID}.get(mode)
            if network_id is not None:
                record.joined = {mode: _unplugged(record.id, network_id, mode)}
            return None
        request = join_request(record, ports=published_ports(record))
        ids = self._places.ids_of(record)
        if ids is None:
            joined = await self._networking.join(request)
        else:
            joined = await self._join_mapped(record, request, ids)
        record.joined = {one.network: to_state(one) for one in joined.endpoints}
        record.ports = list(joined.ports)
        return joined

    async def _join_mapped(self, record: Record, request: JoinRequest, ids: IdMap) -> Joined:
        """Join with a network namespace that belongs to the container's user namespace."""
        host = record.host
        # namespaces can be shared within a user namespace alone
        sharer = self._owner(host.pid_mode) or self._owner(host.ipc_mode)
        netns_fd = await self._supervisor.new_netns(ids, sharer)
        try:
            return await self._networking.join(replace(request, netns_fd=netns_fd))
        finally:
            os.close(netns_fd)

    async def write_files(self, record: Record) -> dict[str, str]:
        """Write the container's /etc/hosts and its kin; return their paths by target.

        One that shares another's network has the other's files.
        """
        mode = record.host.network_mode
        if mode.startswith("container:"):
            owner = self._running(mode.removeprefix("container:"))
            return netfiles.paths(self._places.directory(owner.id))
        gateway = ""
        if any(entry.endswith(f":{netfiles.HOST_GATEWAY}") for entry in record.host.extra_hosts):
            gateway = await self._networking.host_gateway()
        linked = links.linked(record, self._find, lenient=True)
        return netfiles.write_files(self._places.directory(record.id), record, gateway, linked)


def join_request(
    record: Record, network: str = "", ports: tuple[PortWish, ...] = ()
) -> JoinRequest:
    """Return what a container asks of its networks, or of the one named."""
    names = [record.id[:12]]
    if record.config.hostname:
        names.append(record.config.hostname)
    return JoinRequest(
        container_id=record.id,
        name=record.name,
        names=tuple(names),
        networks={k: v for k, v in record.endpoints.items() if network in ("", k)},
        ports=ports,
        dns=tuple(record.host.dns),
    )


def to_state(endpoint: JoinedEndpoint) -> EndpointState:
    """Return what the record remembers of an endpoint."""
    return EndpointState(
        network_id=endpoint.network_id,
        endpoint_id=endpoint.endpoint_id,
        address=endpoint.address,
        prefix_length=endpoint.prefix_length,
        gateway=endpoint.gateway,
        mac=endpoint.mac,
        driver=endpoint.driver,
        ipv6_address=endpoint.ipv6_address,
        ipv6_prefix_length=endpoint.ipv6_prefix_length,
        ipv6_gateway=endpoint.ipv6_gateway,
    )


def endpoint_id(container_id: str, network_id: str) -> str:
    """Return the id of a container's endpoint on a network."""
    return hashlib.sha256(f"{container_id}/{network_id}".encode()).hexdigest()


def _unplugged(container_id: str, network_id: str, driver: str) -> EndpointState:
    return EndpointState(
        network_id=network_id,
        endpoint_id=endpoint_id(container_id, network_id),
        address="",
        prefix_length=0,
        gateway="",
        mac="",
        driver=driver,
    )


def published_ports(record: Record) -> tuple[PortWish, ...]:
    """Return the ports to publish; none on a network mode that has none.

    Raises:
        InvalidArgument: for a malformed port, exposed ones included, or address.
    """
    for port in record.config.exposed_ports:
        parse_port(port, exposed=True)
    wanted = []
    bindings = {port: list(found or []) for port, found in record.host.port_bindings.items()}
    if record.host.publish_all_ports:
        exposed = [*record.config.exposed_ports, *(record.image_config.get("ExposedPorts") or {})]
        for port in exposed:
            if not bindings.get(port) and not port.endswith("/sctp"):
                bindings[port] = [PortBinding()]
    for port, targets in bindings.items():
        number, protocol = parse_port(port)
        for target in targets:
            first, last = _host_ports(target.host_port)
            _check_address(target.host_ip)
            wanted.append(PortWish(number, protocol, target.host_ip, first, last))
    return tuple(wanted)


def _host_ports(text: str) -> tuple[int, int]:
    """Return the first and last port of `8000-8010`, `80` or nothing."""
    first, dash, last = (text or "0").partition("-")
    last = last if dash else first
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) <= 65535):
        raise InvalidArgument(f"invalid port specification: {text!r}")
    return int(first), int(last)


def _check_address(text: str) -> None:
    try:
        ip_address(text or "0.0.0.0")
    except ValueError:
        raise InvalidArgument(f"invalid IP address: {text}") from None


def parse_port(port: str, *, exposed: bool = False) -> tuple[int, str]:
    """Return (number, protocol) of Docker's `80/tcp`; SCTP can be exposed but not published."""
    number, _, protocol = port.partition("/")
    protocol = protocol or "tcp"
    known = ("tcp", "udp", "sctp") if exposed else ("tcp", "udp")
    if not number.isdecimal() or not 0 < int(number) < 65536 or protocol not in known:
        raise InvalidArgument(f"invalid port specification: {port!r}")
    return int(number), protocol


def _user_of(record: Record) -> str:
    return record.config.user or str(record.image_config.get("User") or "")

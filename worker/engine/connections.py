"""Containers put on networks and taken off them, running or not."""

from swarmapi.errors import Conflict, Forbidden, Internal, InvalidArgument, NotFound
from worker.engine.endpoints import EndpointSpec
from worker.engine.events import EventBus, emit_network
from worker.engine.launcher import Launcher, join_request, to_state
from worker.engine.networks import Networks
from worker.engine.ports import NetworkInfo, Networking
from worker.engine.record import Container, Record
from worker.engine.table import ContainerTable


class Connections:
    """Changes which networks a container is on."""

    def __init__(
        self,
        table: ContainerTable,
        networks: Networks,
        networking: Networking,
        launcher: Launcher,
        bus: EventBus,
    ) -> None:
        self._table = table
        self._networks = networks
        self._networking = networking
        self._launcher = launcher
        self._bus = bus

    async def connect(self, network_ref: str, container_ref: str, spec: EndpointSpec) -> None:
        """Put a container on a network, now and at every later start.

        Raises:
            Forbidden: when it is on it already and runs.
            InvalidArgument: when it shares or has no network, or the address cannot be had.
        """
        network = await self._networks.find(network_ref)
        container = self._table.get(container_ref)
        async with container.lock:
            record = container.record
            _check_pluggable(record)
            self._networks.check_endpoint(network, spec)
            if record.running and network.name in record.joined:
                raise Forbidden(
                    f"endpoint with name {record.name} already exists in network {network.name}"
                )
            spec.network_id = network.id
            spec.attached = network.scope != "local"
            before = record.endpoints
            record.endpoints = {**before, network.name: spec}
            if record.running:
                try:
                    joined = await self._networking.connect(join_request(record, network.name))
                except BaseException:
                    record.endpoints = before
                    raise
                record.joined[network.name] = to_state(joined)
                await self._launcher.write_files(record)
            await self._table.save(container)
        self._emit(network, "connect", record)

    async def disconnect(self, network_ref: str, container_ref: str, *, force: bool) -> None:
        """Take a container off a network; with `force` one that is gone is fine.

        Raises:
            NotFound: when there is no such network or container.
            Internal: when it is not on it (Docker's status for this).
        """
        network = await self._networks.find(network_ref)
        try:
            container = self._table.get(container_ref)
        except NotFound:
            if force:
                return
            raise
        async with container.lock:
            record = container.record
            if record.host.network_mode in ("host", "none"):
                raise Forbidden(
                    "container cannot be disconnected from host network"
                    " or connected to host network"
                    if record.host.network_mode == "host"
                    else "container cannot be disconnected from none network"
                )
            if network.name not in record.endpoints:
                raise Internal(f"container {record.id} is not connected to network {network.name}")
            await self._unplug(container, network.name)
        self._emit(network, "disconnect", record)

    async def sever(self, container_ref: str, name: str) -> None:
        """Take a container off a network that is no longer this machine's."""
        container = self._table.get(container_ref)
        async with container.lock:
            await self._unplug(container, name)

    async def _unplug(self, container: Container, name: str) -> None:
        record = container.record
        spec = record.endpoints[name]
        record.endpoints = {k: v for k, v in record.endpoints.items() if k != name}
        if record.running and record.joined.pop(name, None) is not None:
            await self._networking.disconnect(record.id, spec.network_id)
            await self._launcher.write_files(record)
        await self._table.save(container)

    async def unlink(self, name: str) -> None:
        """Take away a link, `parent/alias`.

        Raises:
            NotFound: when there is none.
            Conflict: for a container's own name.
        """
        target = self._table.get(name).record.id
        parent, slash, alias = name.removeprefix("/").partition("/")
        if not slash:
            raise Conflict("Conflict, cannot remove the default link name of the container")
        container = self._table.get(parent)
        async with container.lock:
            record = container.record
            record.host.links = [one for one in record.host.links if one != f"{target}:{alias}"]
            await self._table.save(container)
            if record.running:
                await self._launcher.write_files(record)

    async def renamed(self, record: Record) -> None:
        """Let a container that runs answer to its new name."""
        if record.running and record.owns_network:
            await self._networking.rename(join_request(record))

    def _emit(self, network: NetworkInfo, action: str, record: Record) -> None:
        emit_network(self._bus, action, network.id, network.name, network.driver, record.id)


def _check_pluggable(record: Record) -> None:
    mode = record.host.network_mode
    if record.status in ("removing", "dead"):
        raise Conflict("container is marked for removal and cannot be connected or disconnected")
    if mode.startswith("container:"):
        raise InvalidArgument(
            "container sharing network namespace with another container or host"
            " cannot be connected to any other network"
        )
    if not record.owns_network:
        raise InvalidArgument(
            "container cannot be connected to multiple networks"
            f" with one of the networks in {'private (none)' if mode == 'none' else mode} mode"
        )

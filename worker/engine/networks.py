"""The networks of this machine: predefined, user-defined (durable), and the cluster's."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address

import msgspec

from swarmapi.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    InvalidArgument,
    NotFound,
    Unsupported,
)
from worker.engine.endpoints import EndpointSpec
from worker.engine.events import EventBus
from worker.engine.journal import Journal
from worker.engine.links import resolve_links
from worker.engine.network_spec import PREDEFINED
from worker.engine.ports import NetworkInfo, Networking
from worker.engine.record import Record

BRIDGE_ID, HOST_ID, NONE_ID = (
    hashlib.sha256(f"predefined network {name}".encode()).hexdigest() for name in PREDEFINED
)
"""The same on every machine; their short forms differ."""
BRIDGE_POOL = (
    "172.17.0.0/16,172.18.0.0/15,172.20.0.0/14,172.24.0.0/14,172.28.0.0/14,192.168.0.0/16:20"
)
"""Docker's pools: everything a bridge's subnet is cut from."""


class Networks:
    """All networks by name and id; the user-defined ones are kept in a journal."""

    def __init__(
        self,
        journal: Journal,
        networking: Networking,
        bus: EventBus,
        now_ns: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        records: Callable[[], Iterable[Record]],
        find: Callable[[str], Record],
    ) -> None:
        self._journal = journal
        self._networking = networking
        self._bus = bus
        self._now_ns = now_ns
        self._random_bytes = random_bytes
        self._records = records
        self._find = find
        self._creating: set[str] = set()

    async def open(self) -> None:
        """Read the journal and say what there is; nothing of the machine is touched yet."""
        self._journal.open()
        stored = [msgspec.msgpack.decode(raw, type=NetworkInfo) for raw in self._journal.values()]
        await self._networking.open(stored)

    def close(self) -> None:
        """Sync and close the journal."""
        self._journal.close()

    def all(self) -> Sequence[NetworkInfo]:
        """Return every network."""
        return self._networking.networks()

    def get(self, reference: str) -> NetworkInfo:
        """Return the network of a name, an id, or a unique prefix of one.

        Raises:
            NotFound: when there is none.
            InvalidArgument: when a prefix fits several.
        """
        everything = self.all()
        for network in everything:
            if reference == network.id:
                return network
        for network in everything:
            if reference == network.name:
                return network
        found = [n for n in everything if reference and n.id.startswith(reference)]
        if len(found) > 1:
            raise InvalidArgument(
                f"network {reference} is ambiguous ({len(found)} matches found on ID prefix)"
            )
        if not found:
            raise NotFound(f"network {reference} not found")
        return found[0]

    def members(self, network_id: str) -> list[Record]:
        """Return the running containers on a network."""
        return [
            record
            for record in self._records()
            if any(state.network_id == network_id for state in record.joined.values())
        ]

    async def create(self, wanted: NetworkInfo) -> NetworkInfo:
        """Make a network durable and real.

        Raises:
            AlreadyExists: when the name is taken.
            InvalidArgument: when its subnet or its bridge is another network's.
            OSError: when it cannot be made durable; it is not made then.
        """
        if wanted.name in self._creating or any(n.name == wanted.name for n in self.all()):
            raise AlreadyExists(f"network with name {wanted.name} already exists")
        self._creating.add(wanted.name)
        try:
            network_id = self._random_bytes(32).hex()
            made = await self._networking.create(
                replace(wanted, id=network_id, created_ns=self._now_ns())
            )
            try:
                self._journal.put(made.id, msgspec.msgpack.encode(made))
                await self._journal.commit()
            except OSError:
                self._journal.delete(made.id)
                await self._networking.remove(made.id)
                raise
        finally:
            self._creating.discard(wanted.name)
        self._emit(made, "create")
        return made

    async def remove(self, reference: str) -> None:
        """Take a user-defined network away.

        Raises:
            Forbidden: for a predefined network, or one that running containers are on.
        """
        network = self.get(reference)
        if network.name in PREDEFINED:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        if network.scope != "local":
            raise Unsupported(f"network {network.name} belongs to the cluster: ask a manager")
        members = self.members(network.id)
        if members:
            users = " ".join(f'name:"{m.name}" id:"{m.id[:12]}"' for m in members)
            raise Forbidden(
                "error while removing network: "
                f"network {network.name} has active endpoints ({users})"
            )
        try:
            await self._networking.remove(network.id)
        except Conflict as error:
            raise Forbidden(f"error while removing network: {error.message}") from error
        self._journal.delete(network.id)
        self._emit(network, "destroy")
        await self._journal.commit()

    async def find(self, reference: str) -> NetworkInfo:
        """Return a network, also one of the cluster that is not in use here.

        Raises:
            NotFound: when there is none. Unavailable: when the managers cannot be asked.
        """
        try:
            found = self.get(reference)
        except NotFound:
            return await self._networking.find(reference)
        return found if found.scope == "local" else await self._networking.find(found.id)

    async def resolve(self, record: Record) -> None:
        """Make a new record's endpoints name networks that are here, its mode's first.

        What is discarded is told in the record's warnings.

        Raises:
            InvalidArgument: for a network or container that is not here (NotFound would make
                clients pull the image), for wishes that contradict each other or the network.
            Forbidden: for a network only services can use.
        """
        try:
            await self._resolve(record)
        except NotFound as error:
            raise InvalidArgument(error.message) from error

    async def _resolve(self, record: Record) -> None:
        mode = record.host.network_mode = record.host.network_mode or "default"
        _check_extra_hosts(record.host.extra_hosts)
        record.host.links = resolve_links(record, self._find)
        if mode.startswith("container:"):
            self._find(mode.removeprefix("container:"))
            _check_shared(record)
        if not record.owns_network:
            _check_unplugged(record)
            record.endpoints = {}
            return
        given, record.endpoints = record.endpoints, {}
        internal = []
        for reference in (mode, *given):
            spec = given.get(reference, EndpointSpec())
            name = "bridge" if reference == "default" else reference
            network = self.get(name) if spec.leased else await self.find(name)
            known = record.endpoints.get(network.name)
            if known is not None and reference not in given:
                continue
            self.check_endpoint(network, spec)
            spec.network_id = network.id
            spec.attached = network.scope != "local" and not spec.leased
            record.endpoints[network.name] = spec
            internal.append(network.internal)
        first = next(iter(record.endpoints.values()))
        first.mac_address = first.mac_address or record.config.mac_address
        if record.host.port_bindings and all(internal):
            record.warnings.append("Published ports are discarded on internal networks")

    @staticmethod
    def check_endpoint(network: NetworkInfo, spec: EndpointSpec) -> None:
        """Refuse an endpoint the network cannot give."""
        if network.name in ("host", "none"):
            raise InvalidArgument(
                "container cannot be connected to multiple networks"
                f" with one of the networks in {network.name} mode"
            )
        if network.scope != "local" and not spec.leased and not network.attachable:
            raise Forbidden(
                f"Could not attach to network {network.name}: rpc error: code = PermissionDenied "
                f"desc = network {network.name} not manually attachable"
            )
        if network.scope != "local" and not spec.leased and spec.mac_address:
            raise Unsupported(
                f"a MAC address on network {network.name}: an overlay's follow from the addresses"
            )
        if network.id == BRIDGE_ID and (spec.ipv4_address or spec.ipv6_address):
            raise InvalidArgument(
                "user specified IP address is supported on user defined networks only"
            )
        for version, address, has in (
            (4, spec.ipv4_address, network.ipv4),
            (6, spec.ipv6_address, network.ipv6),
        ):
            family = f"IPv{version}"
            if address and version in network.allotted:
                raise InvalidArgument(
                    f"user specified IP address {address} is supported only when connecting to"
                    f" networks with user configured subnets: create {network.name} with --subnet"
                )
            if address and not has:
                raise InvalidArgument(
                    f"{family} address {address} on network {network.name},"
                    f" which has none of that family: create it with --{family.lower()}"
                )
        if network.id == BRIDGE_ID and (spec.aliases or spec.links):
            kind = "alias" if spec.aliases else "link"
            raise InvalidArgument(
                f"network-scoped {kind} is supported only for containers in user defined networks"
            )

    def _emit(self, network: NetworkInfo, action: str) -> None:
        attributes = {"name": network.name, "type": network.driver}
        self._bus.emit("network", action, network.id, attributes)


def _check_extra_hosts(entries: Iterable[str]) -> None:
    for entry in entries:
        name, _, address = entry.partition(":")
        if not name:
            raise InvalidArgument(f"bad format for add-host: {entry!r}")
        if address == "host-gateway":
            continue
        try:
            ip_address(address)
        except ValueError:
            raise InvalidArgument(f"invalid IP address in add-host: {address!r}") from None


def _check_shared(record: Record) -> None:
    """Refuse what belongs to the container whose network is shared, in Docker's words."""
    host, config = record.host, record.config
    conflicts: Mapping[str, object] = {
        "hostname and the network mode": config.hostname,
        "mac-address and the network mode": config.mac_address,
        "dns and the network mode": host.dns,
        "custom host-to-IP mapping and the network mode": host.extra_hosts,
        "port publishing and the container type network mode": (
            host.port_bindings or host.publish_all_ports
        ),
        "port exposing and the container type network mode": config.exposed_ports,
    }
    for words, given in conflicts.items():
        if given:
            raise InvalidArgument(f"conflicting options: {words}")


def _check_unplugged(record: Record) -> None:
    mode = record.host.network_mode
    if any(name not in (mode, "default") for name in record.endpoints):
        raise InvalidArgument(
            "conflicting options: cannot attach both user-defined and"
            " non-user-defined network-modes"
        )
    for spec in record.endpoints.values():
        if spec.ipv4_address or spec.ipv6_address or spec.aliases or spec.mac_address:
            raise InvalidArgument(
                f"conflicting options: an address or an alias and the network mode {mode}"
            )
    if record.host.port_bindings or record.host.publish_all_ports:
        record.warnings.append(f"Published ports are discarded when using {mode} network mode")

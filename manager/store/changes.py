"""Changes: the only way the state moves. Reconcilers return them, Raft stores them.

Every change has a stable tag, because logs outlive programs. A tag once used is never given
another meaning; new fields have defaults.
"""

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import msgspec

from manager.store.ports import has_place_or_source, ports_of
from swarmapi.model.objects import (
    ApiToken,
    Cluster,
    Config,
    GenericShare,
    JobStatus,
    Network,
    NetworkLease,
    NetworkPool,
    Node,
    NodeDescription,
    NodeState,
    NodeTLS,
    Rebalance,
    Secret,
    Service,
    ServiceEndpoint,
    SpecVersion,
    Task,
    TaskEndpointLease,
    TaskState,
    TaskStatus,
    UpdateStatus,
)
from swarmapi.model.objects import NetworkAddress as TaskAddress
from swarmapi.model.spec import NodeSpec, PortConfig
from swarmapi.override import override

FORMAT: Final = 1


def _level_of_ports(ports: Iterable[PortConfig]) -> int:
    return 1 if any(map(has_place_or_source, ports)) else 0


class ChangeBase(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """Root of all changes; `reason` in words becomes the task's story."""

    reason: str = ""

    @property
    def level(self) -> int:
        """The level managers must have to apply it (see `manager.store.level`)."""
        return 0


class PutCluster(ChangeBase, frozen=True, tag="put_cluster"):
    """Create or replace the cluster object. `expect_version`: None = any, 0 = must be new."""

    cluster: Cluster
    expect_version: int | None = None

    @property
    @override
    def level(self) -> int:
        root = self.cluster.root_ca
        return 1 if root is not None and root.rotation is not None else 0


class PutNode(ChangeBase, frozen=True, tag="put_node"):
    """Create or replace a node; what the allocator gave it is kept."""

    node: Node
    expect_version: int | None = None


class SetNodeSpec(ChangeBase, frozen=True, tag="set_node_spec"):
    """Replace a node's spec, by somebody who read the node at the version `read_index`.

    The version moves with each session and description too, which are nothing to the writer:
    only a spec written after that read is a conflict.
    """

    node_id: str
    spec: NodeSpec
    read_index: int


class PutService(ChangeBase, frozen=True, tag="put_service"):
    """Create or replace a service; its endpoint is kept (see SetServiceEndpoint)."""

    service: Service
    expect_version: int | None = None

    @property
    @override
    def level(self) -> int:
        return _level_of_ports((*ports_of(self.service.spec), *self.service.endpoint.ports))


class PutNetwork(ChangeBase, frozen=True, tag="put_network"):
    """Create or replace a network; its allocation is kept (see SetNetworkAllocation)."""

    network: Network
    expect_version: int | None = None

    @property
    @override
    def level(self) -> int:
        return 1 if self.network.spec.enable_ipv6 else 0


class PutLease(ChangeBase, frozen=True, tag="put_lease"):
    """Create or replace a lease; an address that is not asked to be another is kept."""

    lease: NetworkLease


class SetLeaseAddress(ChangeBase, frozen=True, tag="set_lease_address"):
    """Give a lease its address, or the reason why not."""

    lease_id: str
    address: str = ""
    error: str = ""
    ipv6_address: str = ""


class PutSecret(ChangeBase, frozen=True, tag="put_secret"):
    """Create a secret; `replaces` is the id of the one whose name it takes over."""

    secret: Secret
    replaces: str = ""


class PutConfig(ChangeBase, frozen=True, tag="put_config"):
    """Create a config; `replaces` is the id of the one whose name it takes over."""

    secret: Config
    replaces: str = ""


class SetLabels(ChangeBase, frozen=True, tag="set_labels"):
    """Replace the labels of a secret or config; `object` is which."""

    object: str
    id: str
    labels: dict[str, str]
    expect_version: int


class PutSpecVersion(ChangeBase, frozen=True, tag="put_spec_version"):
    """Store one version of a service's spec; a version that exists is never overwritten."""

    record: SpecVersion

    @property
    @override
    def level(self) -> int:
        return _level_of_ports(ports_of(self.record.spec))


class PutTask(ChangeBase, frozen=True, tag="put_task"):
    """Create a task; ignored when the id exists or the service is gone."""

    task: Task


class SetTaskStatus(ChangeBase, frozen=True, tag="set_task_status"):
    """Store an observation; one that does not move the state up is dropped."""

    task_id: str
    status: TaskStatus


class SetDesired(ChangeBase, frozen=True, tag="set_desired"):
    """Raise a task's desired state; a lower one is dropped."""

    task_id: str
    desired: TaskState


class AssignTask(ChangeBase, frozen=True, tag="assign_task"):
    """PENDING to ASSIGNED on a node; dropped when task or node no longer allow it."""

    task_id: str
    node_id: str
    generic: tuple[GenericShare, ...] = ()


class SetAddresses(ChangeBase, frozen=True, tag="set_addresses"):
    """Give a NEW task its addresses (perhaps none), which makes it PENDING."""

    task_id: str
    addresses: tuple[TaskAddress, ...] = ()


class SetEndpoint(ChangeBase, frozen=True, tag="set_endpoint"):
    """Change a task's endpoint lease; `lease.index` is filled in by apply."""

    task_id: str
    lease: TaskEndpointLease


class SetExplanation(ChangeBase, frozen=True, tag="set_explanation"):
    """Store why a task is not placed: msgpack of `Explanation`."""

    task_id: str
    explanation: bytes


class SetNodeStatus(ChangeBase, frozen=True, tag="set_node_status"):
    """Store whether a node is reachable."""

    node_id: str
    state: NodeState
    message: str = ""


class SetDisappearance(ChangeBase, frozen=True, tag="set_disappearance"):
    """Begin (`disappeared_ns`) or end (0) the pause of rescheduling."""

    disappeared_ns: int = 0
    counted_from_ns: int = 0


class SetNodeDescription(ChangeBase, frozen=True, tag="set_node_description"):
    """Store what a node says of itself in a new session; empty addresses leave the old ones."""

    node_id: str
    description: NodeDescription
    address: str = ""
    data_path: str = ""
    manager_address: str = ""


class SetNodeMesh(ChangeBase, frozen=True, tag="set_node_mesh"):
    """Give a node its ingress address and its share of mesh source ports."""

    node_id: str
    ingress_address: str
    mesh_slot: int
    ingress_ipv6: str = ""


class SetNodeLock(ChangeBase, frozen=True, tag="set_node_lock"):
    """Note that a manager's keys follow the unlock key of this index; a lower one is dropped."""

    node_id: str
    lock_index: int


class SetNodeLevel(ChangeBase, frozen=True, tag="set_node_level"):
    """Store up to which level a manager knows changes, and the version of its program."""

    node_id: str
    known: int
    version: str = ""


class RaiseLevel(ChangeBase, frozen=True, tag="raise_level"):
    """Allow changes up to a level; dropped when they are allowed already."""

    to: int

    @property
    @override
    def level(self) -> int:
        return self.to


class SetNodeTLS(ChangeBase, frozen=True, tag="set_node_tls"):
    """Store what a node shows and trusts."""

    node_id: str
    tls: NodeTLS


class FinishRotation(ChangeBase, frozen=True, tag="finish_rotation"):
    """Put the new root in the place of the old one; dropped when another one is on its way."""

    digest: str


class SetNetworkAllocation(ChangeBase, frozen=True, tag="set_network_allocation"):
    """Give a network its subnets, gateways and VXLAN id, or the reason why not."""

    network_id: str
    subnet: str = ""
    gateway: str = ""
    vni: int = 0
    error: str = ""
    further: tuple[NetworkPool, ...] = ()


class SetServiceEndpoint(ChangeBase, frozen=True, tag="set_service_endpoint"):
    """Give a service its VIPs and ports, or the reason why not."""

    service_id: str
    endpoint: ServiceEndpoint

    @property
    @override
    def level(self) -> int:
        return _level_of_ports(self.endpoint.ports)


class SetUpdateStatus(ChangeBase, frozen=True, tag="set_update_status"):
    """Store update progress; dropped when the service has another spec version by now."""

    service_id: str
    spec_version: int
    status: UpdateStatus | None = None


class SetJobStatus(ChangeBase, frozen=True, tag="set_job_status"):
    """Store where a job stands; dropped when the service has another spec version by now."""

    service_id: str
    spec_version: int
    status: JobStatus


class Delete(ChangeBase, frozen=True, tag="delete"):
    """Delete an object; `object` is node, service, network, lease, secret, config, task or
    quarantined.
    """

    object: str
    id: str
    expect_version: int | None = None


class OrphanTasksOfNode(ChangeBase, frozen=True, tag="orphan_tasks_of_node"):
    """Give up every live task of a node: their fate is unknown."""

    node_id: str


class SetRebalance(ChangeBase, frozen=True, tag="set_rebalance"):
    """Begin, go on with, or end a rebalancing."""

    state: Rebalance


class PutApiToken(ChangeBase, frozen=True, tag="put_api_token"):
    """Add a token of the API, whose id and name must be new."""

    token: ApiToken

    @property
    @override
    def level(self) -> int:
        return 1


class DropApiToken(ChangeBase, frozen=True, tag="drop_api_token"):
    """Remove a token of the API."""

    token_id: str

    @property
    @override
    def level(self) -> int:
        return 1


class CheckState(ChangeBase, frozen=True, tag="check_state"):
    """What leaders of former versions said of the state: its digest is not comparable any more."""

    as_of: int
    digest: str


class AgreeState(ChangeBase, frozen=True, tag="agree_state"):
    """Compare: the state as of an entry has this digest. Nothing changes by it."""

    as_of: int
    digest: str
    """Of `manager.store.digest`, in hex."""
    by_most: bool = False
    """Most of the managers have it; otherwise it is the leader's word alone."""


class Unknown(ChangeBase, frozen=True, tag="unknown"):
    """A change of a newer version: kept in place, applied as nothing."""

    tag: str = ""


Change: TypeAlias = (
    PutCluster
    | PutNode
    | SetNodeSpec
    | PutService
    | PutNetwork
    | PutLease
    | SetLeaseAddress
    | PutSecret
    | PutConfig
    | SetLabels
    | PutSpecVersion
    | PutTask
    | SetTaskStatus
    | SetDesired
    | AssignTask
    | SetAddresses
    | SetEndpoint
    | SetExplanation
    | SetNodeStatus
    | SetDisappearance
    | SetNodeDescription
    | SetNodeMesh
    | SetNodeLock
    | SetNodeLevel
    | RaiseLevel
    | CheckState
    | AgreeState
    | SetNodeTLS
    | FinishRotation
    | SetNetworkAllocation
    | SetServiceEndpoint
    | SetUpdateStatus
    | SetJobStatus
    | Delete
    | OrphanTasksOfNode
    | SetRebalance
    | PutApiToken
    | DropApiToken
    | Unknown
)


class Transaction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One Raft command: all of `changes` or none. `request_id` makes a retry harmless."""

    request_id: str
    changes: tuple[Change, ...] = ()
    format: int = FORMAT


class _RawTransaction(msgspec.Struct, frozen=True, kw_only=True):
    request_id: str = ""
    changes: tuple[msgspec.Raw, ...] = ()
    format: int = FORMAT


class _Tag(msgspec.Struct, frozen=True):
    kind: str = ""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Transaction)
_raw_decoder = msgspec.msgpack.Decoder(_RawTransaction)
_change_decoder = msgspec.msgpack.Decoder(Change)
_tag_decoder = msgspec.msgpack.Decoder(_Tag)


def encode(transaction: Transaction) -> bytes:
    """Return the msgpack form of a transaction."""
    return _encoder.encode(transaction)


def parts(changes: Iterable[Change], limit_bytes: int) -> Iterator[tuple[Change, ...]]:
    """Cut changes, in order, into runs of at most `limit_bytes`; a longer one stands alone."""
    part: list[Change] = []
    size_bytes = 0
    for change in changes:
        length = len(_encoder.encode(change))
        if part and size_bytes + length > limit_bytes:
            yield tuple(part)
            part, size_bytes = [], 0
        part.append(change)
        size_bytes += length
    if part:
        yield tuple(part)


def decode(data: bytes) -> Transaction:
    """Return the transaction in `data`; fields not known are ignored.

    A change whose tag is not known becomes `Unknown` and is applied as nothing: a member of an
    older version then differs from the others, which is told (see `manager.statecheck`).

    Raises:
        msgspec.DecodeError: when `data` is no transaction at all.
    """
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError:
        raw = _raw_decoder.decode(data)
        changes = tuple(_tolerant(item) for item in raw.changes)
        return Transaction(request_id=raw.request_id, changes=changes, format=raw.format)


def _tolerant(raw: msgspec.Raw) -> Change:
    try:
        change: Change = _change_decoder.decode(raw)
    except msgspec.ValidationError:
        return Unknown(tag=_tag_decoder.decode(raw).kind)
    return change

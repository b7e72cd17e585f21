"""Objects: what the store holds. Frozen, versioned by Raft index, times in unix nanoseconds.

Who writes which field is in ARCHITECTURE.md. Docker's JSON of an object is made by
`manager/api/render.py`; inside they travel as msgpack.
"""

from enum import IntEnum, StrEnum
from typing import ClassVar, Final

import msgspec

from swarmapi.model.spec import (
    Availability,
    ClusterSpec,
    LogDriver,
    NetworkSpec,
    NodeRole,
    NodeSpec,
    Platform,
    PortConfig,
    SecretSpec,
    ServiceSpec,
)
from swarmapi.model.tables import EndpointState
from swarmapi.override import override


class Stored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Root of all stored records."""


class Meta(Stored, frozen=True):
    """`version` is the Raft index of the last change; set by apply, never by a proposer."""

    version: int = 0
    created_ns: int = 0
    updated_ns: int = 0


class TaskState(IntEnum):
    """A task's life, a lamport clock: the greater of two observations is right.

    Values and gaps are SwarmKit's. REMOVE is only ever desired.
    """

    NEW = 0
    PENDING = 64
    ASSIGNED = 192
    ACCEPTED = 256
    PREPARING = 320
    READY = 384
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576
    SHUTDOWN = 640
    FAILED = 704
    REJECTED = 768
    REMOVE = 800
    ORPHANED = 832

    @property
    def is_terminal(self) -> bool:
        """True once the attempt has ended."""
        return self > TaskState.RUNNING


class TaskStatus(Stored, frozen=True):
    """What was observed of a task.

    Managers write it up to ASSIGNED, the node's agent afterwards; ORPHANED and the enforcer's
    REJECTED are the managers' two exceptions.
    """

    state: TaskState
    timestamp_ns: int = 0
    """The reporter's clock."""
    message: str = ""
    error: str = ""
    container_id: str = ""
    pid: int = 0
    exit_code: int | None = None
    applied_ns: int = 0
    """Cluster time when the leader took the report."""
    ready: bool = True
    """Of a RUNNING one: whether it is to get connections."""
    ending: bool = False
    """Its health check failed: its node stops it once the managers know that nobody sends to it."""


def hosts(*addresses: str) -> tuple[str, ...]:
    """Return the addresses that are given, without their prefix lengths."""
    return tuple(address.partition("/")[0] for address in addresses if address)


class Placed(Stored, frozen=True, kw_only=True):
    """A place on a network that the allocator gave, with prefix lengths."""

    address: str = ""
    """IPv4."""
    ipv6_address: str = ""
    """Empty where the network has no IPv6."""

    def hosts(self) -> tuple[str, ...]:
        """Return its addresses without prefix lengths."""
        return hosts(self.address, self.ipv6_address)


class NetworkAddress(Placed, frozen=True):
    """A task's place on one network."""

    network_id: str
    aliases: tuple[str, ...] = ()


class TaskEndpointLease(Stored, frozen=True):
    """The acknowledged drain (one per task, for all its networks)."""

    state: EndpointState = EndpointState.WITHDRAWN
    index: int = 0
    """Raft index of the change to this state; nodes acknowledge a revision of at least this."""
    deadline_ns: int = 0
    """Withdrawn: the stop happens now even without all acknowledgements. 0 = none."""
    then: TaskState = TaskState.SHUTDOWN
    """Withdrawn with a deadline: the desired state that follows."""
    drained: bool = False
    """Withdrawn because it is ending, and every node has acknowledged: its node may stop it."""


class GenericShare(Stored, frozen=True):
    """Generic resources of one kind, of a node or given to a task: names, else a count."""

    kind: str
    count: int = 0
    names: tuple[str, ...] = ()


class Task(Stored, frozen=True):
    """One attempt to fill one slot; bound to at most one node; its spec never changes."""

    id: str
    service_id: str
    spec_version: int
    """Key of the SpecVersion this task runs, with service_id."""
    slot: int = 0
    """1-based for replicated services and jobs; 0 for global ones (the slot is the node)."""
    node_id: str = ""
    desired: TaskState = TaskState.RUNNING
    status: TaskStatus = TaskStatus(state=TaskState.NEW)
    meta: Meta = Meta()
    service_name: str = ""
    not_before_ns: int = 0
    """Parked in READY until then (restart delay). 0 = no delay."""
    waits_for: str = ""
    """Parked in READY until this older task has stopped, 1 minute at most after not_before_ns."""
    addresses: tuple[NetworkAddress, ...] = ()
    endpoint: TaskEndpointLease = TaskEndpointLease()
    job_iteration: int | None = None
    """The iteration of a job it belongs to; None for tasks of services."""
    by_update: bool = False
    """Made by a rolling update; its early end counts as a failure of that update."""
    early_ends: int = 0
    """Attempts in a row before it that ended early: their delay is due to it."""
    by_move: bool = False
    """Made to take a drained node's task; until it runs it is a share of the parallelism."""
    running_ns: int = 0
    """Cluster time when it was first observed RUNNING; kept by apply."""
    replaces: str = ""
    """Made by rebalancing: it runs before this older task of its slot is stopped."""
    explanation: bytes = b""
    """Why it is not placed: msgpack of `Explanation`, empty when placed."""
    generic: tuple[GenericShare, ...] = ()
    """What it has of its node's generic resources; given with the node."""
    log_driver: LogDriver | None = None
    """The cluster's default when it was made; a service's own comes first."""

    @property
    def number(self) -> int:
        """The slot as Docker's clients and templates count it: those of jobs begin with 0."""
        return self.slot - 1 if self.slot and self.job_iteration is not None else self.slot

    @property
    def goal(self) -> TaskState:
        """The desired state of an attempt whose turn has come."""
        return TaskState.RUNNING if self.job_iteration is None else TaskState.COMPLETE


class FilterRefusal(Stored, frozen=True):
    """What one scheduler filter said: how many nodes, why, and some of them by name."""

    filter: str
    count: int
    reason: str
    examples: tuple[str, ...] = ()


class Explanation(Stored, frozen=True):
    """Every filter's refusals for a task that fits nowhere."""

    nodes: int
    refusals: tuple[FilterRefusal, ...] = ()

    def text(self) -> str:
        """`no suitable node: 3 nodes: needs 512 MiB, …; 1 node: label disk==ssd missing`."""
        parts = [f"{r.count} node{'s' if r.count != 1 else ''}: {r.reason}" for r in self.refusals]
        return "no suitable node" + (": " + "; ".join(parts) if parts else " (no nodes)")


class StoryLine(Stored, frozen=True):
    """One thing that happened, at a cluster time, and why."""

    time_ns: int
    what: str
    reason: str = ""


class Story(Stored, frozen=True):
    """What happened to one task or service, the oldest first."""

    id: str
    lines: tuple[StoryLine, ...] = ()


FAILURES_KEPT: Final = 5
"""More failures of a spec version on one node say nothing new."""


class RegistryAuth(Stored, frozen=True):
    """A login at the registry of a service's image; the nodes that run it get it.

    No answer holds it, and its text form hides it from logs and stories.
    """

    encoded: str
    """X-Registry-Auth as it came: base64url of Docker's AuthConfig in JSON."""

    @override
    def __repr__(self) -> str:
        return "RegistryAuth(…)"


class SpecVersion(Stored, frozen=True):
    """One accepted version of a service's spec; kept while a service or task refers to it."""

    service_id: str
    version: int
    spec: ServiceSpec
    networks: tuple[str, ...] = ()
    """Ids of the networks its tasks attach to, the ingress network last where ports need it."""
    registry_auth: RegistryAuth | None = None
    """What its image is pulled with."""
    failures: dict[str, tuple[int, ...]] = {}
    """Cluster times of the last failures by node id, at most FAILURES_KEPT each; kept by apply.

    Records of the tasks do not tell: the history limit deletes them.
    """


class VirtualIP(Placed, frozen=True):
    network_id: str


class ServiceEndpoint(Stored, frozen=True):
    """What the allocator gave a service."""

    mode: str = "vip"
    ports: tuple[PortConfig, ...] = ()
    """Effective ports: every published port filled in."""
    vips: tuple[VirtualIP, ...] = ()
    error: str = ""
    """Why it is not allocated; empty when it is."""
    spec_version: int = 0
    """The spec version this allocation is for."""


class UpdateState(StrEnum):
    UPDATING = "updating"
    PAUSED = "paused"
    COMPLETED = "completed"
    ROLLBACK_STARTED = "rollback_started"
    ROLLBACK_PAUSED = "rollback_paused"
    ROLLBACK_COMPLETED = "rollback_completed"


class UpdateStatus(Stored, frozen=True):
    """Progress of a rolling update; everything that decides is here, so a new leader goes on."""

    state: UpdateState
    started_ns: int = 0
    completed_ns: int = 0
    message: str = ""
    dirty_slots: int = 0
    """Slots to replace when it began: the divisor of the failure ratio."""
    failed_tasks: tuple[str, ...] = ()
    """Ids already counted as failures."""
    done_ns: int = 0
    """When the last slot was replaced; the final monitor runs from here."""
    forgiven: int = 0
    """Failures from before it was resumed: the ratio does not count them again."""


class JobOutcome(StrEnum):
    """How an iteration of a job ended; MISSED and SKIPPED never began."""

    COMPLETE = "complete"
    FAILED = "failed"
    DEADLINE = "deadline exceeded"
    REPLACED = "replaced"
    MISSED = "missed"
    SKIPPED = "skipped"


class JobRun(Stored, frozen=True):
    """One run of a cron job that is over, or did not come about (iteration 0)."""

    outcome: JobOutcome
    iteration: int = 0
    scheduled_ns: int = 0
    """0 = asked for by hand."""
    started_ns: int = 0
    ended_ns: int = 0
    message: str = ""


class JobStatus(Stored, frozen=True):
    """Where a job stands; all that decides about its runs is here, so a new leader goes on."""

    iteration: int = 0
    last_execution_ns: int = 0
    """Start of the iteration; 0 = a cron job that has not run yet."""
    ended_ns: int = 0
    """0 = it goes on."""
    outcome: JobOutcome | None = None
    message: str = ""
    scheduled_ns: int = 0
    """The start on the schedule that this iteration is for."""
    next_start_ns: int = 0
    """Cron: the next start on the schedule; 0 = to be computed."""
    queued_ns: int = 0
    """Cron with overlap `queue`: the start that waits for the end of this iteration."""
    runs: tuple[JobRun, ...] = ()
    """Cron: the runs before this iteration, the oldest first."""

    @property
    def is_running(self) -> bool:
        return self.last_execution_ns > 0 and not self.ended_ns


class Service(Stored, frozen=True):
    id: str
    spec: ServiceSpec
    spec_version: int
    meta: Meta = Meta()
    previous_spec_version: int = 0
    """What rollback returns to; 0 = nothing."""
    older_spec_versions: tuple[int, ...] = ()
    """What `rollback --to` may return to as well, the newest first."""
    endpoint: ServiceEndpoint = ServiceEndpoint()
    update_status: UpdateStatus | None = None
    job_status: JobStatus | None = None


class NodeState(StrEnum):
    UNKNOWN = "unknown"
    DOWN = "down"
    READY = "ready"


class NodeDescription(Stored, frozen=True):
    """What the machine says of itself."""

    hostname: str = ""
    platform: Platform = Platform()
    cpu_nanos: int = 0
    memory_bytes: int = 0
    engine_version: str = ""
    labels: dict[str, str] = {}
    generic: tuple[GenericShare, ...] = ()
    routes: tuple[str, ...] = ()
    """Prefixes that its own routes lead to, the default and the mesh left out."""
    ipv6: bool = True
    """Whether its kernel knows IPv6; one that does not say so is taken to."""


class NodeTLS(Stored, frozen=True):
    """What a node shows and trusts; digests of roots as join tokens have them."""

    issuer: str = ""
    """Of the root that issued its certificate; empty when it is none of the cluster's."""
    key: str = ""
    """SHA-256 of its public key: who was left out of a rotation is known again by it."""
    trusts: tuple[str, ...] = ()


class Node(Stored, frozen=True):
    id: str
    spec: NodeSpec = NodeSpec()
    spec_index: int = 0
    """Raft index of the last write of the spec; set by apply."""
    meta: Meta = Meta()
    description: NodeDescription = NodeDescription()
    state: NodeState = NodeState.UNKNOWN
    message: str = ""
    address: str = ""
    """IPv4 address other nodes reach it by."""
    data_path: str = ""
    """IPv4 underlay address for VXLAN."""
    state_changed_ns: int = 0
    manager_address: str = ""
    """`host:port` of its Raft and gRPC; empty on workers."""
    ingress_address: str = ""
    """Its own address on the ingress network, with prefix; the allocator's."""
    mesh_slot: int = -1
    """Index of its share of mesh source ports; -1 = none yet."""
    lock_index: int = 0
    """A manager's: its keys on its disk follow the unlock key of this index; its locker's."""
    tls: NodeTLS = NodeTLS()
    """As its agent told in a session."""
    ingress_ipv6: str = ""
    """As `ingress_address`; empty where the ingress network has no IPv6."""
    level: int = 0
    """A manager's: up to which level it knows changes, by its own word; 0 = from before levels."""
    manager_version: str = ""

    def ingress_hosts(self) -> tuple[str, ...]:
        """Return its addresses on the ingress network without prefix lengths."""
        return hosts(self.ingress_address, self.ingress_ipv6)

    @property
    def is_fit(self) -> bool:
        """False when replicated tasks must leave it: down, or drained."""
        return self.state != NodeState.DOWN and self.spec.availability != Availability.DRAIN

    @property
    def is_manager(self) -> bool:
        return self.spec.role == NodeRole.MANAGER


class NetworkPool(Stored, frozen=True):
    """One subnet of a network."""

    subnet: str
    gateway: str


class Network(Stored, frozen=True):
    id: str
    spec: NetworkSpec
    meta: Meta = Meta()
    subnet: str = ""
    """Given by the allocator; empty until then."""
    gateway: str = ""
    vni: int = 0
    error: str = ""
    table_index: int = 0
    """Raft index of the last change to what its endpoint table holds; kept by apply."""
    further: tuple[NetworkPool, ...] = ()
    """Its subnets of either family besides `subnet`, which is IPv4; the allocator's."""

    def pools(self) -> tuple[NetworkPool, ...]:
        """Return all its subnets; none until they are given."""
        first = NetworkPool(subnet=self.subnet, gateway=self.gateway)
        return (first, *self.further) if self.subnet else ()

    def has_ipv6(self) -> bool:
        """Tell whether who is on it has an IPv6 address."""
        return any(":" in pool.subnet for pool in self.further)


class NetworkLease(Placed, frozen=True):
    """An attachable network's address for a container that is no task's."""

    id: str
    """`network id/container id`."""
    network_id: str
    node_id: str
    container_id: str
    wanted: str = ""
    """The one address that will do, without prefix length; empty for any."""
    names: tuple[str, ...] = ()
    """What others find it by; the first is its name."""
    is_up: bool = True
    """Whether the container is on the network now; the address is kept for it meanwhile."""
    wanted_ipv6: str = ""
    error: str = ""
    """Why there is no address."""
    meta: Meta = Meta()


class Secret(Stored, frozen=True):
    """Bytes for the containers that use them, never changed: a replacement is another object."""

    kind: ClassVar[str] = "secret"
    id: str
    spec: SecretSpec
    meta: Meta = Meta()
    revision: int = 1
    """1 for the first of its name; the greatest is in force, the name means it."""


class Config(Secret, frozen=True):
    """Like a secret, but shown to everyone."""

    kind: ClassVar[str] = "config"


class RootRotation(Stored, frozen=True):
    """The root that takes over once every node has a certificate of it and trusts it."""

    cert_pem: bytes
    key_pem: bytes
    cross_pem: bytes
    """The new root's name and key, signed by the present one: sent along with certificates."""
    join_token_worker: str
    join_token_manager: str
    skip_down: bool = False
    """Nodes that are down do not hold it up."""


class FormerRoot(Stored, frozen=True):
    """A root that was replaced; nobody trusts it, except nodes that were away."""

    cert_pem: bytes
    cross_pem: bytes
    """Its successor, signed by it: such a node still knows the managers by it."""
    until_ns: int


class RootCA(Stored, frozen=True):
    """The cluster's certificate authority; the key is in the managers' Raft state only."""

    cert_pem: bytes
    key_pem: bytes
    join_token_worker: str
    join_token_manager: str
    rotation: RootRotation | None = None
    former: tuple[FormerRoot, ...] = ()
    """The newest last."""


class Rebalance(Stored, frozen=True):
    """A rebalancing of replicated services, under way until `ended_ns`."""

    started_ns: int = 0
    ended_ns: int = 0
    stopping: bool = False
    """No move begins any more."""
    moved: int = 0
    skipped: tuple[str, ...] = ()
    """Ids of services of which a move failed or, at the end, an update was not over."""


class ApiToken(Stored, frozen=True):
    """Opens the API to its bearer, with a role; `digest` is SHA-256 of its text, in hex."""

    id: str
    name: str
    role: str
    digest: str
    created_ns: int = 0
    expires_ns: int = 0
    """0 = never."""


class Cluster(Stored, frozen=True):
    """The one cluster object."""

    id: str
    spec: ClusterSpec = ClusterSpec()
    meta: Meta = Meta()
    root_ca: RootCA | None = None
    address_pools: tuple[str, ...] = ("10.0.0.0/8",)
    subnet_size: int = 24
    removed_nodes: tuple[str, ...] = ()
    """Ids whose certificates are refused for ever."""
    last_vni: int = 4096
    rebalance: Rebalance | None = None
    disappeared_ns: int = 0
    """Since when rescheduling is paused because many nodes went at once; 0 = it is not."""
    counted_from_ns: int = 0
    """Nodes lost before are no part of a disappearance: it was called off."""
    unlock_key: str = ""
    """What managers lock their keys with; empty without autolock. Never shown with the object."""
    api_tokens: tuple[ApiToken, ...] = ()
    """Never shown with the object."""
    lock_index: int = 0
    """Raft index of the last change of the unlock key; set by apply."""
    level: int = 0
    """Up to which changes may be made: every manager knows them. It never falls."""


class Quarantined(Stored, frozen=True):
    """An address, VIP or port that was released but may still be named by a node's tables."""

    id: str
    """`network_id/address` for addresses."""
    network_id: str
    address: str
    index: int
    """Raft index of the release: free again when every node has acknowledged that revision."""
    meta: Meta = Meta()

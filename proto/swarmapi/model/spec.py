"""Specs: what users ask for, in Docker's JSON names (Engine API 1.50).

A field that is here is honoured. A field that is not here is refused at the REST edge by
`swarmapi.model.decode`, unless its value is blank. Blanks are stored as given; defaults apply
at use (`swarmapi.model.defaults`). Durations are nanoseconds, memory is bytes, CPUs are
billionths of a core.
"""

from enum import StrEnum
from typing import Any

import msgspec

from swarmapi.override import override


class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """Root of all specs: frozen, PascalCase in JSON, blanks left out."""


class Limits(Spec, frozen=True):
    """The most a task may use; 0 is unlimited."""

    cpu_nanos: int = msgspec.field(default=0, name="NanoCPUs")
    memory_bytes: int = 0
    pids: int = 0


class DiscreteResource(Spec, frozen=True):
    kind: str = ""
    value: int = 0


class GenericResource(Spec, frozen=True):
    """So many of a kind that nodes advertise; which ones by name is the scheduler's choice."""

    discrete_resource_spec: DiscreteResource | None = None


class Reservations(Spec, frozen=True):
    """What the scheduler sets aside on a node for a task."""

    cpu_nanos: int = msgspec.field(default=0, name="NanoCPUs")
    memory_bytes: int = 0
    generic_resources: tuple[GenericResource, ...] | None = None


class Resources(Spec, frozen=True):
    limits: Limits | None = None
    reservations: Reservations | None = None


class RestartCondition(StrEnum):
    NONE = "none"
    ON_FAILURE = "on-failure"
    ANY = "any"


class RestartPolicy(Spec, frozen=True):
    condition: RestartCondition | None = None
    delay: int | None = None
    max_attempts: int | None = None
    window: int | None = None


class SpreadOver(Spec, frozen=True):
    spread_descriptor: str = ""


class PlacementPreference(Spec, frozen=True):
    spread: SpreadOver | None = None


class Platform(Spec, frozen=True):
    architecture: str = ""
    os: str = msgspec.field(default="", name="OS")


class Placement(Spec, frozen=True):
    constraints: tuple[str, ...] | None = None
    preferences: tuple[PlacementPreference, ...] | None = None
    max_replicas: int = 0
    platforms: tuple[Platform, ...] | None = None


class HealthConfig(Spec, frozen=True):
    """Docker's health check; `test` is `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", line]`."""

    test: tuple[str, ...] | None = None
    interval: int = 0
    timeout: int = 0
    retries: int = 0
    start_period: int = 0
    start_interval: int = 0


class TmpfsOptions(Spec, frozen=True):
    size_bytes: int = 0
    mode: int = 0
    options: tuple[tuple[str, ...], ...] | None = None
    """Pairs of a name and a value, or a name alone."""


class BindOptions(Spec, frozen=True):
    propagation: str = ""
    non_recursive: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False
    create_mountpoint: bool = False


class DriverConfig(Spec, frozen=True):
    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Spec, frozen=True):
    no_copy: bool = False
    labels: dict[str, str] | None = None
    subpath: str = ""
    driver_config: DriverConfig | None = None


class Mount(Spec, frozen=True):
    """A mount of a task; what it may be is in `swarmapi.model.mounts`."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class Ulimit(Spec, frozen=True):
    name: str = ""
    soft: int = 0
    hard: int = 0


class DNSConfig(Spec, frozen=True):
    nameservers: tuple[str, ...] | None = None
    search: tuple[str, ...] | None = None
    options: tuple[str, ...] | None = None


class ReferenceFile(Spec, frozen=True):
    """Where a secret or config appears in a container; a secret's name may be relative."""

    name: str = ""
    uid: str = msgspec.field(default="", name="UID")
    gid: str = msgspec.field(default="", name="GID")
    mode: int | None = None


class Reference(Spec, frozen=True):
    """A task's use of a secret or config: `id` pins what it had, `follow` takes what replaces it.

    Without an id, the one in force by that name is meant; stored are both.
    """

    id: str = ""
    name: str = ""
    file: ReferenceFile | None = None
    follow: bool | None = None
    """None in an update is as before: Docker's clients read a spec and write it without this."""
    swap: bool | None = None
    """What replaces it is swapped into running containers instead of replacing them."""
    signal: str = ""
    """What a container's first process is sent after a swap."""


class SecretReference(Reference, frozen=True):
    id: str = msgspec.field(default="", name="SecretID")
    name: str = msgspec.field(default="", name="SecretName")


class ConfigReference(Reference, frozen=True):
    id: str = msgspec.field(default="", name="ConfigID")
    name: str = msgspec.field(default="", name="ConfigName")


class SeccompOptions(Spec, frozen=True):
    """`mode` is default, unconfined, or custom with a profile in Docker's JSON."""

    mode: str = ""
    profile: bytes = b""
    """Base64 in JSON."""


class AppArmorOptions(Spec, frozen=True):
    """`mode` is default or disabled."""

    mode: str = ""


class Privileges(Spec, frozen=True):
    """What confines a task's programs beside capabilities."""

    no_new_privileges: bool = False
    seccomp: SeccompOptions | None = None
    app_armor: AppArmorOptions | None = msgspec.field(default=None, name="AppArmor")


class ContainerSpec(Spec, frozen=True):
    """What runs in a task: Docker's TaskTemplate.ContainerSpec as far as it is honoured."""

    image: str = ""
    labels: dict[str, str] | None = None
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    hostname: str = ""
    env: tuple[str, ...] | None = None
    dir: str = ""
    user: str = ""
    tty: bool = msgspec.field(default=False, name="TTY")
    open_stdin: bool = False
    read_only: bool = False
    mounts: tuple[Mount, ...] | None = None
    stop_signal: str = ""
    stop_grace_period: int | None = None
    health_check: HealthConfig | None = msgspec.field(default=None, name="Healthcheck")
    hosts: tuple[str, ...] | None = None
    dns_config: DNSConfig | None = msgspec.field(default=None, name="DNSConfig")
    sysctls: dict[str, str] | None = None
    capability_add: tuple[str, ...] | None = None
    capability_drop: tuple[str, ...] | None = None
    ulimits: tuple[Ulimit, ...] | None = None
    secrets: tuple[SecretReference, ...] | None = None
    configs: tuple[ConfigReference, ...] | None = None
    init: bool | None = None
    groups: tuple[str, ...] | None = None
    oom_score_adj: int = 0
    privileges: Privileges | None = None
    isolation: str = ""
    """Blank or default: the others are for other systems."""


class NetworkAttachmentConfig(Spec, frozen=True):
    """A network of a service; `target` is an id or a name, stored as an id."""

    target: str = ""
    aliases: tuple[str, ...] | None = None


class LogDriver(Spec, frozen=True):
    """`name` is json-file or none, empty for the node's own; options are the driver's."""

    name: str = ""
    options: dict[str, str] | None = None


class TaskTemplate(Spec, frozen=True):
    container_spec: ContainerSpec | None = None
    resources: Resources | None = None
    restart_policy: RestartPolicy | None = None
    placement: Placement | None = None
    networks: tuple[NetworkAttachmentConfig, ...] | None = None
    force_update: int = 0
    log_driver: LogDriver | None = None


class Replicated(Spec, frozen=True):
    replicas: int | None = None


class Global(Spec, frozen=True):
    pass


class ReplicatedJob(Spec, frozen=True):
    """Run to completion `total_completions` times, `max_concurrent` at once."""

    max_concurrent: int | None = None
    total_completions: int | None = None


class GlobalJob(Spec, frozen=True):
    pass


class Overlap(StrEnum):
    """What a run that is due does while the one before it goes on."""

    SKIP = "skip"
    QUEUE = "queue"
    REPLACE = "replace"


class Cron(Spec, frozen=True):
    """When the iterations of a job begin; not in Docker's API."""

    schedule: str = ""
    """Five fields: minute, hour, day of month, month, day of week; or `@daily` and its kin."""
    time_zone: str = ""
    """A name of the IANA database; UTC when blank."""
    overlap: Overlap | None = None
    missed_run_window: int = 0
    """A start that is late by no more than this is caught up with, once."""
    history: int | None = None
    """Runs whose tasks are kept."""


class ServiceMode(Spec, frozen=True):
    """One of the first four; `deadline` and `cron` are ours and go with the two jobs."""

    replicated: Replicated | None = None
    global_: Global | None = msgspec.field(default=None, name="Global")
    replicated_job: ReplicatedJob | None = None
    global_job: GlobalJob | None = None
    deadline: int | None = None
    """How long one iteration may take; 0 is for ever."""
    cron: Cron | None = None


class UpdateConfig(Spec, frozen=True):
    """Rolling update or rollback: `parallelism` 0 is all at once."""

    parallelism: int = 0
    delay: int = 0
    failure_action: str = ""
    monitor: int = 0
    max_failure_ratio: float = 0.0
    order: str = ""
    progress_deadline: int | None = None
    """How long a new task may take until it runs; 0 is for ever. No field of Docker's: a spec that
    comes back without it keeps the one before."""


class PortConfig(Spec, frozen=True):
    name: str = ""
    protocol: str = ""
    target_port: int = 0
    published_port: int = 0
    publish_mode: str = ""
    source: str = ""
    """Ours: whom a task of the mesh sees: blank or `client`; `snat`: an address of the node;
    `proxy-protocol` (version 2) or `proxy-protocol-v1`: the node, and the client in a header."""
    address: str = ""
    """Ours: an address, or a prefix of addresses, of the nodes; blank for every one."""
    interface: str = ""
    """Ours: the link whose addresses it is published on, instead of `address`."""


class EndpointSpec(Spec, frozen=True):
    mode: str = ""
    ports: tuple[PortConfig, ...] | None = None
    load_balancing: str = ""
    """Ours: `sticky` sends a client's connections to one task; blank or `random` to any."""


class ServiceSpec(Spec, frozen=True):
    """What `POST /services/create` takes."""

    name: str = ""
    labels: dict[str, str] | None = None
    task_template: TaskTemplate = TaskTemplate()
    mode: ServiceMode = ServiceMode()
    update_config: UpdateConfig | None = None
    rollback_config: UpdateConfig | None = None
    networks: tuple[NetworkAttachmentConfig, ...] | None = None
    endpoint_spec: EndpointSpec | None = None


class NodeRole(StrEnum):
    WORKER = "worker"
    MANAGER = "manager"


class Availability(StrEnum):
    ACTIVE = "active"
    PAUSE = "pause"
    DRAIN = "drain"


class NodeSpec(Spec, frozen=True):
    name: str = ""
    labels: dict[str, str] | None = None
    role: NodeRole = NodeRole.WORKER
    availability: Availability = Availability.ACTIVE


class OrchestrationConfig(Spec, frozen=True):
    task_history_retention_limit: int | None = None


class RaftSettings(Spec, frozen=True):
    """How managers keep the log; 0 of interval and entries is the default."""

    snapshot_interval: int = 0
    """Entries between two snapshots."""
    keep_old_snapshots: int | None = None
    """Kept on the disk besides the one in force."""
    log_entries_for_slow_followers: int = 0
    """Kept behind a snapshot, so that a follower that is behind needs none."""
    heartbeat_tick: int = 0
    election_tick: int = 0


class TaskDefaults(Spec, frozen=True):
    """What a new task has where its service says nothing."""

    log_driver: LogDriver | None = None


class DispatcherConfig(Spec, frozen=True):
    heartbeat_period: int = 0


class CAConfig(Spec, frozen=True):
    """`node_cert_expiry` in nanoseconds; 0 is 90 days.

    Another `force_rotate` than the stored one replaces the root, by the signing certificate
    where one is given. That and its key are never stored with the spec.
    """

    node_cert_expiry: int = 0
    force_rotate: int = 0
    signing_ca_cert: str = msgspec.field(default="", name="SigningCACert")
    signing_ca_key: str = msgspec.field(default="", name="SigningCAKey")


class EncryptionConfig(Spec, frozen=True):
    auto_lock_managers: bool = False


class ClusterSpec(Spec, frozen=True):
    """What `POST /swarm/update` takes."""

    name: str = ""
    labels: dict[str, str] | None = None
    orchestration: OrchestrationConfig | None = None
    raft: RaftSettings | None = None
    task_defaults: TaskDefaults | None = None
    dispatcher: DispatcherConfig | None = None
    encryption_config: EncryptionConfig | None = None
    ca_config: CAConfig | None = msgspec.field(default=None, name="CAConfig")


class IPAMPool(Spec, frozen=True):
    subnet: str = ""
    gateway: str = ""
    ip_range: str = msgspec.field(default="", name="IPRange")
    """The part of the subnet that addresses are chosen from; empty for all of it."""
    auxiliary_addresses: dict[str, str] | None = None
    """Name to an address that nobody is given."""


class IPAMConfig(Spec, frozen=True):
    driver: str = ""
    config: tuple[IPAMPool, ...] | None = None
    options: dict[str, str] | None = None


class NetworkSpec(Spec, frozen=True):
    """A cluster network: `POST /networks/create` with driver overlay."""

    name: str = ""
    labels: dict[str, str] | None = None
    driver: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    options: dict[str, str] | None = None
    ipam: IPAMConfig | None = msgspec.field(default=None, name="IPAM")
    enable_ipv4: bool | None = msgspec.field(default=None, name="EnableIPv4")
    enable_ipv6: bool = msgspec.field(default=False, name="EnableIPv6")
    """IPv6 addresses too."""


class SecretSpec(Spec, frozen=True):
    """What `POST /secrets/create` takes, and `/configs/create`.

    Its text form hides the data from logs and stories.
    """

    name: str = ""
    labels: dict[str, str] | None = None
    data: bytes = b""
    """Base64 in JSON."""
    templating: DriverConfig | None = None
    """Driver golang: the data is a template, rendered for each task."""

    @override
    def __repr__(self) -> str:
        return f"SecretSpec({self.name!r}, …)"


class ApiTokenSpec(Spec, frozen=True):
    """What a new token of the API is to be; `expires_in` 0 is never."""

    name: str = ""
    role: str = ""
    expires_in: int = 0


def to_json(spec: Spec) -> Any:
    """Return the spec as plain data in Docker's names."""
    return msgspec.to_builtins(spec)

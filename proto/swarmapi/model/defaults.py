"""Defaults of a service spec, applied at use: what is stored keeps the blanks as given.

Source of the numbers: SwarmKit's constants (Engine API 1.50, ServiceSpec).
"""

import posixpath
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from swarmapi.model.spec import (
    ClusterSpec,
    ContainerSpec,
    EndpointSpec,
    IPAMPool,
    LogDriver,
    NetworkSpec,
    RaftSettings,
    Reference,
    RestartCondition,
    RestartPolicy,
    ServiceSpec,
    TaskTemplate,
    UpdateConfig,
    to_json,
)

R = TypeVar("R", bound=Reference)
SECOND_NS = 1_000_000_000
STOP_GRACE_PERIOD_NS = 10 * SECOND_NS
RESTART_DELAY_NS = 5 * SECOND_NS
UPDATE_MONITOR_NS = 5 * SECOND_NS
PROGRESS_DEADLINE_NS = 600 * SECOND_NS
SPECS_KEPT = 5
SPECS_KEPT_LABEL = "specs.kept"
DISAPPEARANCE_SHARE = 0.5
DISAPPEARANCE_LABEL = "disappearance.share"
HISTORY_LIMIT = 5
HEARTBEAT_PERIOD_NS = SECOND_NS
SNAPSHOT_INTERVAL = 5000
LOG_ENTRIES_KEPT = 500
HEARTBEAT_TICK, ELECTION_TICK = 1, 10
"""Of Raft, in ticks of 100 ms; fixed."""
VXLAN_OPTION = "com.docker.network.driver.overlay.vxlanid_list"
STRATEGY_LABEL = "placement.strategy"
DYNAMIC_PORTS = (30000, 32767)
MISSED_RUN_WINDOW_NS = 300 * SECOND_NS
RUNS_KEPT = 5


def container(spec: ServiceSpec) -> ContainerSpec:
    """Return the container part, empty when absent."""
    return spec.task_template.container_spec or ContainerSpec()


def references(spec: ServiceSpec) -> Iterator[tuple[str, Reference]]:
    """Yield `secret` or `config` and the reference, for all a service's tasks use."""
    own = container(spec)
    for secret in own.secrets or ():
        yield "secret", secret
    for config in own.configs or ():
        yield "config", config


class ChangeReference(Protocol):
    """Returns what a reference becomes; the first argument is `secret` or `config`."""

    def __call__(self, kind: str, reference: R, /) -> R: ...


def with_references(spec: ServiceSpec, change: ChangeReference) -> ServiceSpec:
    """Return the spec with each reference changed."""
    own = spec.task_template.container_spec
    if own is None or not (own.secrets or own.configs):
        return spec
    own = replace(
        own,
        secrets=own.secrets and tuple(change("secret", r) for r in own.secrets),
        configs=own.configs and tuple(change("config", r) for r in own.configs),
    )
    return replace(spec, task_template=replace(spec.task_template, container_spec=own))


def reference_target(kind: str, name: str) -> str:
    """Return where a reference's file appears; relative names are of `/run/secrets` and of `/`."""
    return posixpath.normpath(posixpath.join("/run/secrets" if kind == "secret" else "/", name))


def swapped_directories(spec: ServiceSpec) -> set[str]:
    """Return the directories whose files are swapped in running containers: bound as a whole."""
    return {
        posixpath.dirname(reference_target(kind, r.file.name))
        for kind, r in references(spec)
        if r.swap and r.file is not None
    }


def in_force(own: ServiceSpec, current: ServiceSpec) -> ServiceSpec:
    """Return a task's spec with what is swapped as the service's current spec has it."""
    ids = {(kind, r.name, r.file): r.id for kind, r in references(current) if r.swap}

    def moved(kind: str, reference: R) -> R:
        found = ids.get((kind, reference.name, reference.file))
        return replace(reference, id=found) if found and reference.swap else reference

    return with_references(own, moved)


def replicas(spec: ServiceSpec) -> int:
    """Return how many tasks a replicated service wants (1 when blank)."""
    wanted = spec.mode.replicated.replicas if spec.mode.replicated else None
    return 1 if wanted is None else wanted


def is_global(spec: ServiceSpec) -> bool:
    """Tell whether it runs one task per node."""
    return spec.mode.global_ is not None


def mode(spec: ServiceSpec) -> str:
    """Return Docker's word for a mode: replicated, global, replicated-job or global-job."""
    given = spec.mode
    if given.global_ is not None:
        return "global"
    if given.global_job is not None:
        return "global-job"
    return "replicated-job" if given.replicated_job is not None else "replicated"


def is_job(spec: ServiceSpec) -> bool:
    """Tell whether its tasks run to completion."""
    return spec.mode.replicated_job is not None or spec.mode.global_job is not None


def is_per_node(spec: ServiceSpec) -> bool:
    """Tell whether its slots are the nodes."""
    return spec.mode.global_ is not None or spec.mode.global_job is not None


def max_concurrent(spec: ServiceSpec) -> int:
    """Return how many tasks of a replicated job may run at once (1 when blank)."""
    job = spec.mode.replicated_job
    return 1 if job is None or job.max_concurrent is None else job.max_concurrent


def total_completions(spec: ServiceSpec) -> int:
    """Return how often a replicated job must complete (as many as run at once when blank)."""
    job = spec.mode.replicated_job
    if job is None or job.total_completions is None:
        return max_concurrent(spec)
    return job.total_completions


def restart_policy(spec: ServiceSpec) -> RestartPolicy:
    """Return the policy with every blank filled (any, 5 s, no limit, whole life)."""
    given = spec.task_template.restart_policy or RestartPolicy()
    return RestartPolicy(
        condition=given.condition or RestartCondition.ANY,
        delay=RESTART_DELAY_NS if given.delay is None else given.delay,
        max_attempts=given.max_attempts or 0,
        window=given.window or 0,
    )


def update_config(given: UpdateConfig | None) -> UpdateConfig:
    """Return the update or rollback settings; parallelism 1 only when the block is absent."""
    if given is None:
        given = UpdateConfig(parallelism=1)
    return UpdateConfig(
        parallelism=given.parallelism,
        delay=given.delay,
        failure_action=given.failure_action or "pause",
        monitor=given.monitor or UPDATE_MONITOR_NS,
        max_failure_ratio=given.max_failure_ratio,
        order=given.order or "stop-first",
        progress_deadline=given.progress_deadline,
    )


def progress_deadline_ns(config: UpdateConfig) -> int:
    """Return how long a new task may take until it runs (10 min when blank); 0 is for ever."""
    given = config.progress_deadline
    return PROGRESS_DEADLINE_NS if given is None else given


def stop_grace_period_ns(spec: ServiceSpec) -> int:
    """Return how long a task may take to stop before it is killed."""
    given = container(spec).stop_grace_period
    return STOP_GRACE_PERIOD_NS if given is None else given


def endpoint_mode(spec: ServiceSpec) -> str:
    """Return `vip` or `dnsrr`."""
    return (spec.endpoint_spec.mode if spec.endpoint_spec else "") or "vip"


def is_sticky(spec: ServiceSpec) -> bool:
    """Tell whether a client's address decides which task it gets."""
    return spec.endpoint_spec is not None and spec.endpoint_spec.load_balancing == "sticky"


def task_template(spec: ServiceSpec) -> TaskTemplate:
    """Return what tasks are made of, with the defaults that matter to them."""
    own = container(spec)
    return replace(
        spec.task_template,
        container_spec=replace(
            own,
            stop_grace_period=stop_grace_period_ns(spec),
            isolation=own.isolation or "default",
        ),
        restart_policy=restart_policy(spec),
    )


def endpoint(spec: ServiceSpec) -> EndpointSpec:
    """Return the endpoint with every blank filled (vip, tcp, ingress)."""
    ports = (spec.endpoint_spec.ports if spec.endpoint_spec else None) or ()
    filled = (
        replace(p, protocol=p.protocol or "tcp", publish_mode=p.publish_mode or "ingress")
        for p in ports
    )
    return EndpointSpec(mode=endpoint_mode(spec), ports=tuple(filled))


def placement_strategy(spec: ClusterSpec) -> str:
    """Return the strategy of services that name none: the cluster's label, else spread.

    A label, because a client of Docker's sends those back when it changes another setting.
    """
    return (spec.labels or {}).get(STRATEGY_LABEL, "") or "spread"


def raft(spec: ClusterSpec) -> RaftSettings:
    """Return how managers keep the log, every field set."""
    given = spec.raft or RaftSettings()
    return RaftSettings(
        snapshot_interval=given.snapshot_interval or SNAPSHOT_INTERVAL,
        keep_old_snapshots=given.keep_old_snapshots or 0,
        log_entries_for_slow_followers=given.log_entries_for_slow_followers or LOG_ENTRIES_KEPT,
        heartbeat_tick=HEARTBEAT_TICK,
        election_tick=ELECTION_TICK,
    )


def log_driver(spec: ClusterSpec) -> LogDriver | None:
    """Return what a new task logs with where its service does not say."""
    return spec.task_defaults.log_driver if spec.task_defaults else None


def specs_kept(spec: ClusterSpec) -> int:
    """Return how many specs before the one in force a rollback can return to (a label)."""
    return int((spec.labels or {}).get(SPECS_KEPT_LABEL, "") or SPECS_KEPT)


def disappearance_share(spec: ClusterSpec) -> float:
    """Return the share of nodes whose loss within a minute pauses rescheduling (a label)."""
    return float((spec.labels or {}).get(DISAPPEARANCE_LABEL, "") or DISAPPEARANCE_SHARE)


def mean_the_same(one: Any, other: Any) -> bool:
    """Tell whether two parts of specs differ in nothing but empty blocks, lists and maps.

    Clients send back what they read, in which blanks have become `{}`.
    """
    return bool(_without_empties(to_json(one)) == _without_empties(to_json(other)))


def _without_empties(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    pruned = {key: _without_empties(entry) for key, entry in value.items()}
    return {key: entry for key, entry in pruned.items() if entry not in ({}, [], (), None)}


def pool_asked(spec: NetworkSpec, subnet: str) -> IPAMPool:
    """Return what a network's spec says of a subnet; nothing where it leaves that open."""
    asked = (spec.ipam and spec.ipam.config) or ()
    same = (pool for pool in asked if pool.subnet and ip_network(pool.subnet) == ip_network(subnet))
    return next(same, IPAMPool())


def vxlan_id(spec: NetworkSpec) -> int:
    """Return the VXLAN id that a network asks for; 0 for any."""
    given = (spec.options or {}).get(VXLAN_OPTION, "")
    return int(given) if given.isascii() and given.isdigit() else 0

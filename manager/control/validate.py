"""What a spec must satisfy before it is proposed; messages begin with the path of the field."""

import ipaddress
import re
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Final

import msgspec
from msgspec import to_builtins

from manager.orchestrator.crontab import parse as parse_schedule
from manager.scheduler.constraints import STRATEGIES, parse
from manager.store.ports import collides, is_ingress, key_of
from swarmapi.errors import InvalidArgument, Unsupported
from swarmapi.ids import check_service_name
from swarmapi.model import defaults
from swarmapi.model.expand import ANYWHERE, expanded
from swarmapi.model.generic import is_kind
from swarmapi.model.mounts import OPTIONS, check_mount, mount_target
from swarmapi.model.readiness import readiness
from swarmapi.model.spec import (
    ClusterSpec,
    ContainerSpec,
    Cron,
    EndpointSpec,
    HealthConfig,
    IPAMPool,
    LogDriver,
    Mount,
    NetworkSpec,
    Placement,
    PortConfig,
    Privileges,
    RaftSettings,
    ReplicatedJob,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskDefaults,
    UpdateConfig,
)

MIN_CPU_NANOS: Final = 1_000_000
MIN_MEMORY_BYTES: Final = 4 << 20
MIN_HEALTH_NS: Final = 1_000_000
LOG_DRIVERS: Final = ("json-file", "none")
MAX_OLD_SNAPSHOTS: Final = 100
MAX_LOG_ENTRIES: Final = 1_000_000
MAX_REPLICAS: Final = 100_000
MAX_HISTORY: Final = 100
MISSED_RUN_WINDOW_NS: Final = (defaults.SECOND_NS, 168 * 3_600 * defaults.SECOND_NS)
MAX_SPECS_KEPT: Final = 100
MTU_OPTION: Final = "com.docker.network.driver.mtu"
_NUMBERS: Final = {MTU_OPTION: (68, 65_535), defaults.VXLAN_OPTION: (1, (1 << 24) - 1)}
"""Options of an overlay, each with its least and greatest value."""
SOURCES: Final = ("snat", "proxy-protocol", "proxy-protocol-v1")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:\-]*(@sha256:[0-9a-f]{64})?\Z")
_LINK_NAME = re.compile(r"([^\s/%:,]{1,15})?", re.ASCII)
_SHARE = re.compile(r"(0(\.\d{1,9})?|1(\.0{1,9})?)\Z", re.ASCII)
_SPREAD = re.compile(r"(node|engine)\.labels\..+\Z", re.IGNORECASE)


def check_service(spec: ServiceSpec) -> None:
    """Refuse a service spec that can never run as written.

    Raises:
        InvalidArgument, Unsupported: with the path of the field.
    """
    try:
        check_service_name(spec.name)
    except InvalidArgument as error:
        raise InvalidArgument(f"Name: {error.message}") from error
    check_mode(spec)
    template = expanded(spec, ANYWHERE).task_template
    _check_container("TaskTemplate.ContainerSpec", template.container_spec)
    _check_resources("TaskTemplate.Resources", spec.task_template.resources)
    _check_restart("TaskTemplate.RestartPolicy", spec.task_template.restart_policy)
    _check_placement("TaskTemplate.Placement", spec.task_template.placement)
    _check_log_driver("TaskTemplate.LogDriver", spec.task_template.log_driver)
    _check_update("UpdateConfig", spec.update_config, ("pause", "continue", "rollback"))
    _check_update("RollbackConfig", spec.rollback_config, ("pause", "continue"))
    _check_endpoint("EndpointSpec", spec.endpoint_spec)
    if spec.networks and spec.task_template.networks:
        raise InvalidArgument("Networks: give TaskTemplate.Networks or Networks, not both")


def check_mode(spec: ServiceSpec) -> None:
    """Refuse a mode that is none, and settings that do not go with it.

    Raises:
        InvalidArgument: with the path of the field.
    """
    mode = spec.mode
    given = (mode.replicated, mode.global_, mode.replicated_job, mode.global_job)
    if sum(m is not None for m in given) > 1:
        raise InvalidArgument(
            "Mode: must specify only one service mode of Replicated, Global, ReplicatedJob and "
            "GlobalJob"
        )
    _within("Mode.Replicated.Replicas", defaults.replicas(spec), 0, MAX_REPLICAS)
    job = mode.replicated_job or ReplicatedJob()
    _within("Mode.ReplicatedJob.MaxConcurrent", job.max_concurrent or 0, 0, MAX_REPLICAS)
    _within("Mode.ReplicatedJob.TotalCompletions", job.total_completions or 0, 0, MAX_REPLICAS)
    if defaults.is_job(spec):
        for name, config in (("Update", spec.update_config), ("Rollback", spec.rollback_config)):
            if config is not None:
                raise InvalidArgument(
                    f"{name}Config: jobs have no rolling {name.lower()}: leave it out"
                )
    elif mode.deadline or mode.cron is not None:
        name = "Deadline" if mode.deadline else "Cron"
        raise InvalidArgument(f"Mode.{name}: goes with ReplicatedJob and GlobalJob only")
    _not_negative("Mode.Deadline", mode.deadline or 0)
    if mode.cron is not None:
        _check_cron("Mode.Cron", mode.cron)


def _check_cron(path: str, cron: Cron) -> None:
    try:
        schedule = parse_schedule(cron.schedule, cron.time_zone)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error.message}") from error
    if schedule.after(0) is None:
        raise InvalidArgument(f"{path}.Schedule: {cron.schedule!r} never comes")
    if cron.missed_run_window:
        low, high = MISSED_RUN_WINDOW_NS
        if not low <= cron.missed_run_window <= high:
            raise InvalidArgument(f"{path}.MissedRunWindow: must be between 1s and 168h")
    if cron.history is not None:
        _within(f"{path}.History", cron.history, 0, MAX_HISTORY)


def check_network(spec: NetworkSpec) -> None:
    """Refuse a network spec that cannot be made.

    Raises:
        InvalidArgument: with the path of the field.
    """
    try:
        check_service_name(spec.name)
    except InvalidArgument as error:
        raise InvalidArgument(f"Name: {error.message}") from error
    if spec.driver not in ("", "overlay"):
        raise InvalidArgument(f"Driver: cluster networks use overlay, not {spec.driver!r}")
    if spec.enable_ipv4 is False:
        raise Unsupported("EnableIPv4: a network of the cluster always has IPv4: leave it out")
    for option, value in (spec.options or {}).items():
        if option == "encrypted":
            raise Unsupported(
                "Options.encrypted: not supported: it needs WireGuard or ESP, and without them an "
                "overlay would send in clear: leave it out"
            )
        if option not in _NUMBERS:
            raise InvalidArgument(f"Options.{option}: not supported: leave it out")
        if not (value.isascii() and value.isdigit()):
            raise InvalidArgument(f"Options.{option}: a number is expected")
        _within(f"Options.{option}", int(value), *_NUMBERS[option])
    ipam = spec.ipam
    if ipam is None:
        return
    if ipam.driver not in ("", "default"):
        raise InvalidArgument(f"IPAM.Driver: {ipam.driver!r} is not supported: leave it out")
    if ipam.options:
        raise InvalidArgument("IPAM.Options: not supported: leave it out")
    for position, pool in enumerate(ipam.config or ()):
        _check_pool(f"IPAM.Config[{position}]", pool, ipv6=spec.enable_ipv6)


LEAST_CERT_EXPIRY_NS = 3_600 * 10**9


def check_cluster(spec: ClusterSpec) -> None:
    """Refuse cluster settings out of range.

    Raises:
        InvalidArgument: with the path of the field.
    """
    if spec.name not in ("", "default"):
        raise InvalidArgument("Name: the cluster's name is default and cannot be changed")
    labels = spec.labels or {}
    kept = labels.get(defaults.SPECS_KEPT_LABEL, "1")
    if not kept.isascii() or not kept.isdigit() or not 1 <= int(kept) <= MAX_SPECS_KEPT:
        raise InvalidArgument(
            f"Labels.{defaults.SPECS_KEPT_LABEL}: must be between 1 and {MAX_SPECS_KEPT}"
        )
    if not _SHARE.match(labels.get(defaults.DISAPPEARANCE_LABEL, "1")):
        raise InvalidArgument(
            f"Labels.{defaults.DISAPPEARANCE_LABEL}: must be a share between 0 and 1"
        )
    strategy = defaults.placement_strategy(spec)
    if strategy not in STRATEGIES:
        raise InvalidArgument(
            f"Labels.{defaults.STRATEGY_LABEL}: must be one of {', '.join(STRATEGIES)}"
        )
    expiry_ns = spec.ca_config.node_cert_expiry if spec.ca_config else 0
    if expiry_ns and expiry_ns < LEAST_CERT_EXPIRY_NS:
        raise InvalidArgument("CAConfig.NodeCertExpiry: must be at least 1h")
    period = spec.dispatcher.heartbeat_period if spec.dispatcher else 0
    _not_negative("Dispatcher.HeartbeatPeriod", period)
    if 0 < period < 100_000_000:
        raise InvalidArgument("Dispatcher.HeartbeatPeriod: must be at least 100ms")
    _check_raft("Raft", spec.raft or RaftSettings())
    _check_log_driver("TaskDefaults.LogDriver", (spec.task_defaults or TaskDefaults()).log_driver)


def _check_raft(path: str, raft: RaftSettings) -> None:
    _within(f"{path}.SnapshotInterval", raft.snapshot_interval, 0, MAX_LOG_ENTRIES)
    _within(f"{path}.KeepOldSnapshots", raft.keep_old_snapshots or 0, 0, MAX_OLD_SNAPSHOTS)
    entries = raft.log_entries_for_slow_followers
    _within(f"{path}.LogEntriesForSlowFollowers", entries, 0, MAX_LOG_ENTRIES)
    for name, ticks, fixed in (
        ("HeartbeatTick", raft.heartbeat_tick, defaults.HEARTBEAT_TICK),
        ("ElectionTick", raft.election_tick, defaults.ELECTION_TICK),
    ):
        if ticks not in (0, fixed):
            raise Unsupported(f"{path}.{name}: it is {fixed} and cannot be changed: leave it out")


def _check_log_driver(path: str, driver: LogDriver | None) -> None:
    if driver is not None and driver.name not in ("", *LOG_DRIVERS):
        raise Unsupported(f"{path}.Name: {driver.name!r} is not {' or '.join(LOG_DRIVERS)}")


def _check_pool(path: str, pool: IPAMPool, *, ipv6: bool) -> None:
    reserved = pool.auxiliary_addresses or {}
    if not pool.subnet:
        for key, given in (
            ("Gateway", pool.gateway),
            ("IPRange", pool.ip_range),
            ("AuxiliaryAddresses", reserved),
        ):
            if given:
                raise InvalidArgument(f"{path}.{key}: needs Subnet")
        return
    network = _prefix(f"{path}.Subnet", pool.subnet)
    if network.version == 6 and not ipv6:
        raise InvalidArgument(
            f"{path}.Subnet: {pool.subnet} needs EnableIPv6: create the network with --ipv6"
        )
    low, high = _PREFIX_LENGTHS[network.version]
    if not low <= network.prefixlen <= high:
        raise InvalidArgument(f"{path}.Subnet: prefix length must be {low} to {high}")
    if pool.ip_range:
        part = _prefix(f"{path}.IPRange", pool.ip_range)
        if not (part[0] in network and part[-1] in network):
            raise InvalidArgument(f"{path}.IPRange: {pool.ip_range} is not in {pool.subnet}")
    addresses = [("Gateway", pool.gateway)]
    addresses += [(f"AuxiliaryAddresses.{name}", given) for name, given in reserved.items()]
    for key, address in addresses:
        if address:
            _check_inside(f"{path}.{key}", address, network)


_IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_PREFIX_LENGTHS: Final = {4: (8, 29), 6: (16, 125)}


def _prefix(path: str, text: str) -> _IpNetwork:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidArgument(f"{path}: {error}") from error


def _check_inside(path: str, address: str, network: _IpNetwork) -> None:
    try:
        inside = ipaddress.ip_address(address) in network
    except ValueError as error:
        raise InvalidArgument(f"{path}: {error}") from error
    if not inside:
        raise InvalidArgument(f"{path}: {address} is not in {network}")


def _check_container(path: str, spec: ContainerSpec | None) -> None:
    if spec is None:
        raise InvalidArgument(f"{path}: is missing")
    if not spec.image:
        raise InvalidArgument(f"{path}.Image: image reference must be provided")
    if not _IMAGE.match(spec.image):
        raise InvalidArgument(f"{path}.Image: {spec.image!r} is not a valid repository/tag")
    _not_negative(f"{path}.StopGracePeriod", spec.stop_grace_period or 0)
    _check_names(path, spec)
    _check_mounts(path, spec.mounts or ())
    _check_health(f"{path}.Healthcheck", spec.health_check)
    _check_readiness(f"{path}.Labels", spec)
    _within(f"{path}.OomScoreAdj", spec.oom_score_adj, -1000, 1000)
    if spec.isolation not in ("", "default"):
        raise InvalidArgument(f"{path}.Isolation: {spec.isolation!r} is not for Linux")
    _check_privileges(f"{path}.Privileges", spec.privileges or Privileges())


def _check_privileges(path: str, privileges: Privileges) -> None:
    seccomp, app_armor = privileges.seccomp, privileges.app_armor
    if seccomp and seccomp.mode not in ("", "default", "unconfined", "custom"):
        raise InvalidArgument(f"{path}.Seccomp.Mode: must be default, unconfined or custom")
    if seccomp and (seccomp.mode == "custom") != bool(seccomp.profile):
        raise InvalidArgument(f"{path}.Seccomp.Profile: goes with Mode custom, which needs it")
    if seccomp and seccomp.profile:
        try:
            profile = msgspec.json.decode(seccomp.profile)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{path}.Seccomp.Profile: invalid JSON: {error}") from error
        if not isinstance(profile, dict):
            raise InvalidArgument(f"{path}.Seccomp.Profile: an object is expected")
    if app_armor and app_armor.mode not in ("", "default", "disabled"):
        raise InvalidArgument(f"{path}.AppArmor.Mode: must be default or disabled")


def _check_names(path: str, spec: ContainerSpec) -> None:
    """Check what goes into the container's hosts and resolv.conf."""
    for number, line in enumerate(spec.hosts or ()):
        address, _, names = line.strip().partition(" ")
        if not _is_address(address) or not names.strip():
            raise InvalidArgument(f"{path}.Hosts[{number}]: {line!r} is not `address name`")
    dns = spec.dns_config
    for number, address in enumerate((dns.nameservers if dns else None) or ()):
        if not _is_address(address):
            where = f"{path}.DNSConfig.Nameservers[{number}]"
            raise InvalidArgument(f"{where}: {address!r} is not an IP address")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _check_mounts(path: str, mounts: Iterable[Mount]) -> None:
    targets: set[str] = set()
    for number, mount in enumerate(mounts):
        where = f"{path}.Mounts[{number}]"
        if mount.type not in OPTIONS:
            raise InvalidArgument(f"{where}.Type: {mount.type!r} is not bind, volume or tmpfs")
        if not mount.target.startswith("/"):
            raise InvalidArgument(f"{where}.Target: {mount.target!r} is not an absolute path")
        if mount.type == "bind" and not mount.source.startswith("/"):
            raise InvalidArgument(f"{where}.Source: {mount.source!r} is not an absolute path")
        try:
            check_mount(to_builtins(mount))
        except (InvalidArgument, Unsupported) as error:
            raise InvalidArgument(f"{where}: {error.message}") from error
        target = mount_target(mount.target)
        if target in targets:
            raise InvalidArgument(f"{where}.Target: {target} is used by another mount")
        targets.add(target)


def _check_health(path: str, config: HealthConfig | None) -> None:
    if config is None:
        return
    for name, value in (
        ("Interval", config.interval),
        ("Timeout", config.timeout),
        ("StartPeriod", config.start_period),
        ("StartInterval", config.start_interval),
    ):
        if value < 0 or 0 < value < MIN_HEALTH_NS:
            raise InvalidArgument(f"{path}.{name}: must be 0 or at least 1ms")
    _not_negative(f"{path}.Retries", config.retries)


def _check_readiness(path: str, spec: ContainerSpec) -> None:
    try:
        readiness(spec.labels)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error.message}") from error


def _check_resources(path: str, resources: Resources | None) -> None:
    if resources is None:
        return
    for name, part in (("Limits", resources.limits), ("Reservations", resources.reservations)):
        if part is None:
            continue
        if part.cpu_nanos and part.cpu_nanos < MIN_CPU_NANOS:
            raise InvalidArgument(f"{path}.{name}.NanoCPUs: must be at least 0.001 CPU")
        if part.memory_bytes and part.memory_bytes < MIN_MEMORY_BYTES:
            raise InvalidArgument(f"{path}.{name}.MemoryBytes: must be at least 4MiB")
    reserved = resources.reservations
    kinds: set[str] = set()
    for number, resource in enumerate((reserved.generic_resources if reserved else None) or ()):
        where = f"{path}.Reservations.GenericResources[{number}].DiscreteResourceSpec"
        wanted = resource.discrete_resource_spec
        if wanted is None or not is_kind(wanted.kind) or wanted.value < 1:
            raise InvalidArgument(f"{where}: Kind and a Value of at least 1 are needed")
        if wanted.kind in kinds:
            raise InvalidArgument(f"{where}.Kind: {wanted.kind} is given twice")
        kinds.add(wanted.kind)
    if resources.limits is not None:
        _not_negative(f"{path}.Limits.Pids", resources.limits.pids)


def _check_restart(path: str, policy: RestartPolicy | None) -> None:
    if policy is None:
        return
    _not_negative(f"{path}.Delay", policy.delay or 0)
    _not_negative(f"{path}.Window", policy.window or 0)
    _not_negative(f"{path}.MaxAttempts", policy.max_attempts or 0)


def _check_placement(path: str, placement: Placement | None) -> None:
    if placement is None:
        return
    _not_negative(f"{path}.MaxReplicas", placement.max_replicas)
    for number, constraint in enumerate(placement.constraints or ()):
        where = f"{path}.Constraints[{number}]"
        try:
            parse(constraint)
        except InvalidArgument as error:
            raise InvalidArgument(f"{where}: {error.message}") from error
    for number, preference in enumerate(placement.preferences or ()):
        descriptor = preference.spread.spread_descriptor if preference.spread else ""
        if not _SPREAD.match(descriptor):
            raise InvalidArgument(
                f"{path}.Preferences[{number}].Spread.SpreadDescriptor: {descriptor!r} is not "
                "node.labels.X or engine.labels.X"
            )


def _check_update(path: str, config: UpdateConfig | None, actions: tuple[str, ...]) -> None:
    if config is None:
        return
    _not_negative(f"{path}.Parallelism", config.parallelism)
    _not_negative(f"{path}.Delay", config.delay)
    _not_negative(f"{path}.Monitor", config.monitor)
    _not_negative(f"{path}.ProgressDeadline", config.progress_deadline or 0)
    if not 0 <= config.max_failure_ratio <= 1:
        raise InvalidArgument(f"{path}.MaxFailureRatio: must be between 0 and 1")
    if config.failure_action not in ("", *actions):
        raise InvalidArgument(f"{path}.FailureAction: must be one of {', '.join(actions)}")
    if config.order not in ("", "stop-first", "start-first"):
        raise InvalidArgument(f"{path}.Order: must be stop-first or start-first")


def _check_endpoint(path: str, endpoint: EndpointSpec | None) -> None:
    if endpoint is None:
        return
    if endpoint.mode not in ("", "vip", "dnsrr"):
        raise InvalidArgument(f"{path}.Mode: must be vip or dnsrr")
    if endpoint.load_balancing not in ("", "random", "sticky"):
        raise InvalidArgument(f"{path}.LoadBalancing: must be random or sticky")
    if endpoint.mode == "dnsrr" and endpoint.load_balancing:
        raise InvalidArgument(f"{path}.LoadBalancing: in dnsrr mode the client chooses the task")
    published: list[PortConfig] = []
    for number, port in enumerate(endpoint.ports or ()):
        where = f"{path}.Ports[{number}]"
        if port.protocol not in ("", "tcp", "udp", "sctp"):
            raise InvalidArgument(f"{where}.Protocol: must be tcp, udp or sctp")
        if port.publish_mode not in ("", "ingress", "host"):
            raise InvalidArgument(f"{where}.PublishMode: must be ingress or host")
        _within(f"{where}.TargetPort", port.target_port, 1, 65_535)
        _within(f"{where}.PublishedPort", port.published_port, 0, 65_535)
        if endpoint.mode == "dnsrr" and port.publish_mode != "host":
            raise InvalidArgument(
                f"{where}: port published with ingress mode can't be used with dnsrr mode"
            )
        _check_place(where, port)
        _check_source(f"{where}.Source", port)
        if port.published_port and any(collides(port, other) for other in published):
            key = key_of(port)
            raise InvalidArgument(f"{where}: duplicate published port {key[1]}/{key[0]}")
        published.append(port)


def _check_source(where: str, port: PortConfig) -> None:
    if port.source in ("", "client"):
        return
    if port.source not in SOURCES:
        raise InvalidArgument(f"{where}: must be client, {' or '.join(SOURCES)}")
    if not is_ingress(port):
        raise InvalidArgument(
            f"{where}: {port.source} is the routing mesh's: in host mode tasks see the client"
        )
    if port.source != "snat" and port.protocol not in ("", "tcp"):
        raise InvalidArgument(
            f"{where}: {port.source} goes before the bytes of a TCP connection: {port.protocol}"
            " has none: publish with client or snat"
        )


def _check_place(where: str, port: PortConfig) -> None:
    if port.address and port.interface:
        raise InvalidArgument(f"{where}: Address and Interface exclude each other")
    if not _LINK_NAME.fullmatch(port.interface):
        raise InvalidArgument(f"{where}.Interface: {port.interface!r} names no network interface")
    if port.address:
        try:
            ip_network(port.address)
        except ValueError as error:
            raise InvalidArgument(f"{where}.Address: {error}") from error
        if "/" in port.address and not is_ingress(port):
            raise InvalidArgument(f"{where}.Address: in host mode a port is at one address")
    if port.interface and not is_ingress(port):
        raise InvalidArgument(f"{where}.Interface: in host mode a port is at one address")


def _not_negative(path: str, value: int) -> None:
    if value < 0:
        raise InvalidArgument(f"{path}: cannot be negative")


def _within(path: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidArgument(f"{path}: must be between {low} and {high}, not {value}")

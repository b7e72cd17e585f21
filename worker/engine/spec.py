"""What a container is asked to be: Docker's Config and HostConfig, decoded strictly.

Clients send every key they know, mostly empty. A key we do not serve is refused by name unless its
value is null, zero, empty or Docker's documented default.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from runtime.supervisor import restart
from swarmapi.errors import InvalidArgument, Unsupported
from worker.engine.endpoints import EndpointSpec, check_mac, decode_endpoints

_S = TypeVar("_S", bound=msgspec.Struct)


class Healthcheck(msgspec.Struct, rename="pascal", omit_defaults=True):
    """Docker's HealthConfig; durations are nanoseconds, zero means inherit or default."""

    test: list[str] = []
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(msgspec.Struct, rename="pascal", kw_only=True):
    """The portable part of a container: Docker's Config."""

    hostname: str = ""
    domainname: str = ""
    mac_address: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Any] = {}
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] = []
    cmd: list[str] | None = None
    healthcheck: Healthcheck | None = None
    image: str = ""
    volumes: dict[str, Any] = {}
    working_dir: str = ""
    entrypoint: list[str] | None = None
    labels: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout: int | None = None


class RestartPolicy(msgspec.Struct, rename="pascal"):
    """`Name` is no, always, unless-stopped or on-failure."""

    name: str = "no"
    maximum_retry_count: int = 0

    def to_runtime(self) -> restart.RestartPolicy:
        """Return it in the supervisor's form."""
        return restart.RestartPolicy(self.name or "no", self.maximum_retry_count)


class LogSpec(msgspec.Struct, rename="pascal"):
    """`Type` is json-file, none, or empty for the daemon's; options are max-size and max-file."""

    type: str = ""
    config: dict[str, str] = {}


class PortBinding(msgspec.Struct, rename={"host_ip": "HostIp", "host_port": "HostPort"}):
    """Where a container's port appears on the host; an empty port is chosen at start."""

    host_ip: str = ""
    host_port: str = ""


class Mount(msgspec.Struct, rename="pascal"):
    """One entry of HostConfig.Mounts (`--mount`)."""

    type: str = "volume"
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: dict[str, Any] | None = None
    volume_options: dict[str, Any] | None = None
    tmpfs_options: dict[str, Any] | None = None


class Ulimit(msgspec.Struct, rename="pascal"):
    """One resource limit; -1 is unlimited."""

    name: str
    soft: int
    hard: int


class Device(msgspec.Struct, rename="pascal"):
    """One host device shown in the container; permissions are a subset of rwm."""

    path_on_host: str
    path_in_container: str = ""
    cgroup_permissions: str = "rwm"


class WeightDevice(msgspec.Struct, rename="pascal"):
    """The weight of a container's I/O on one block device."""

    path: str
    weight: int


class ThrottleDevice(msgspec.Struct, rename="pascal"):
    """The most bytes or operations per second on one block device."""

    path: str
    rate: int


class HostConfig(msgspec.Struct, rename="pascal", kw_only=True):
    """The part of a container that depends on its host: Docker's HostConfig."""

    binds: list[str] = []
    volumes_from: list[str] = []
    log_config: LogSpec = msgspec.field(default_factory=LogSpec)
    network_mode: str = "default"
    port_bindings: dict[str, list[PortBinding] | None] = {}
    restart_policy: RestartPolicy = msgspec.field(default_factory=RestartPolicy)
    auto_remove: bool = False
    mounts: list[Mount] = []
    cap_add: list[str] = []
    cap_drop: list[str] = []
    dns: list[str] = []
    dns_options: list[str] = []
    dns_search: list[str] = []
    extra_hosts: list[str] = []
    group_add: list[str] = []
    links: list[str] = []
    init: bool = False
    ipc_mode: str = ""
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    runtime: str = ""
    """One of `RUNTIMES`; they all are the one there is."""
    security_opt: list[str] = []
    tmpfs: dict[str, str] = {}
    userns_mode: str = ""
    uts_mode: str = msgspec.field(default="", name="UTSMode")
    container_id_file: str = msgspec.field(default="", name="ContainerIDFile")
    """Where the client has written the id; only shown."""
    shm_size: int = 0
    storage_opt: dict[str, str] = {}
    sysctls: dict[str, str] = {}
    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] = []
    blkio_device_read_bps: list[ThrottleDevice] = []
    blkio_device_write_bps: list[ThrottleDevice] = []
    blkio_device_read_iops: list[ThrottleDevice] = msgspec.field(
        default_factory=list, name="BlkioDeviceReadIOps"
    )
    blkio_device_write_iops: list[ThrottleDevice] = msgspec.field(
        default_factory=list, name="BlkioDeviceWriteIOps"
    )
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    cgroupns_mode: str = ""
    cgroup_parent: str = ""
    """Below the root of each hierarchy, with or without a slash in front."""
    device_cgroup_rules: list[str] = []
    devices: list[Device] = []
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    pids_limit: int | None = None
    ulimits: list[Ulimit] = []
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    console_size: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    annotations: dict[str, str] = {}


class Networking(msgspec.Struct, rename="pascal"):
    """The networks a container joins, by name."""

    endpoints_config: dict[str, dict[str, Any] | None] | None = None


class CreateRequest(ContainerConfig, rename="pascal", kw_only=True):
    """The body of `POST /containers/create`, as documented; `decode_create` reads it."""

    host_config: HostConfig | None = None
    networking_config: Networking | None = None


class ContainerCreate(msgspec.Struct, kw_only=True):
    """Everything `Engine.create` needs; `name` empty means choose one."""

    name: str = ""
    config: ContainerConfig
    host: HostConfig = msgspec.field(default_factory=HostConfig)
    endpoints: dict[str, EndpointSpec] = {}


RUNTIMES = ("runc", "io.containerd.runc.v2", "swarm")
"""The names by which clients ask for the runtime every daemon has, and its own."""
ACCEPTED_DEFAULTS: dict[str, tuple[object, ...]] = {
    "VolumeDriver": ("local",),
    "Isolation": ("default",),
    "ArgsEscaped": (True,),
    "OnBuild": (),
}
"""HostConfig or Config key → the values, besides the empty ones, that ask for what we do anyway."""

_RESTART_NAMES = {"", "no", "always", "unless-stopped", "on-failure"}
_KEYED_BY_USER = frozenset((
    "Annotations", "EndpointsConfig", "ExposedPorts", "Labels", "PortBindings", "StorageOpt",
    "Sysctls", "Tmpfs", "Volumes",
))  # fmt: skip
"""Objects whose keys mean something even with null as their value."""


def decode_create(body: Mapping[str, Any], name: str = "") -> ContainerCreate:
    """Decode the body of `POST /containers/create`.

    Raises:
        InvalidArgument: for a value of the wrong type or outside its range.
        Unsupported: for a key we do not serve that asks for something.
    """
    body = {key: value for key, value in body.items() if value is not None}
    host_raw = body.pop("HostConfig", {})
    networking = body.pop("NetworkingConfig", {})
    config = decode_config(body)
    host = decode_host(host_raw)
    if not config.image:
        raise InvalidArgument("no image specified")
    return ContainerCreate(
        name=name, config=config, host=host, endpoints=decode_endpoints(networking)
    )


def decode_config(raw: Mapping[str, Any]) -> ContainerConfig:
    """Decode a Config; raises as `decode_create`."""
    body = {key: value for key, value in raw.items() if value is not None}
    for key in ("Cmd", "Entrypoint"):
        if isinstance(body.get(key), str):
            body[key] = [body[key]]
    if body.get("Entrypoint") == [""]:
        body["Entrypoint"] = []
    config = _convert(body, ContainerConfig, "config")
    check_mac(config.mac_address)
    return config


def decode_host(raw: object) -> HostConfig:
    """Decode a HostConfig and check what its types cannot say."""
    host = _convert(raw, HostConfig, "HostConfig")
    _check_restart(host.restart_policy)
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    _check_namespaces(host)
    if ".." in host.cgroup_parent.split("/"):
        raise InvalidArgument(f"invalid CgroupParent {host.cgroup_parent}: it must not hold '..'")
    if "\0" in host.cgroup_parent:
        raise InvalidArgument(f"invalid CgroupParent {host.cgroup_parent!r}: it holds a NUL byte")
    if host.runtime not in ("", *RUNTIMES):
        raise InvalidArgument(f"unknown or invalid runtime name: {host.runtime}")
    if host.network_mode == "container:":
        raise InvalidArgument("Invalid network mode: invalid container format container:<name|id>")
    return host


def _check_restart(policy: RestartPolicy) -> None:
    if policy.name not in _RESTART_NAMES:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{policy.name}';"
            " use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if policy.maximum_retry_count < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    if policy.maximum_retry_count and policy.name not in ("", "on-failure"):
        raise InvalidArgument(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        )


def _check_namespaces(host: HostConfig) -> None:
    for name, value, known, shared in (
        ("IpcMode", host.ipc_mode, ("", "private", "shareable", "host", "none"), True),
        ("UTSMode", host.uts_mode, ("", "host"), False),
        ("UsernsMode", host.userns_mode, ("", "host"), False),
        ("PidMode", host.pid_mode, ("", "host"), True),
        ("CgroupnsMode", host.cgroupns_mode, ("", "private", "host"), False),
    ):
        kind, _, container = value.partition(":")
        if value not in known and not (shared and kind == "container" and container):
            raise InvalidArgument(f"invalid {name}: {value}")


def _convert(raw: object, kind: type[_S], where: str) -> _S:
    if not isinstance(raw, Mapping):
        raise InvalidArgument(f"{where}: an object is expected")
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    kept = {}
    for key, value in raw.items():
        if key in known:
            if value is not None:
                kept[key] = _without_nulls(value, key in _KEYED_BY_USER)
        elif value and value not in ACCEPTED_DEFAULTS.get(key, ()):
            raise Unsupported(f"{where}.{key} is not supported")
    try:
        return msgspec.convert(kept, kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{where}: {error}") from error


def _without_nulls(value: Any, keep: bool = False) -> Any:
    """Drop what a client leaves null inside an object: to Docker it is as if it were not there."""
    if isinstance(value, Mapping):
        return {
            key: _without_nulls(inner) for key, inner in value.items() if keep or inner is not None
        }
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value

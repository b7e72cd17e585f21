"""Configuration of `swarmd`: every option of the daemon, declared once."""

import grp
import ipaddress
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.image.bounds import UnpackLimits
from runtime.image.registry.endpoint import BadRegistry, RegistrySettings
from runtime.supervisor.ids import IdMap
from swarmapi.access import ROLES, ApiRole
from swarmapi.errors import InvalidArgument, SwarmError
from swarmapi.model.generic import parse_generic
from swarmapi.model.objects import GenericShare
from swarmapi.rest import API_VERSION
from worker import options
from worker.api.version import SWARM_VERSION
from worker.bridge import BridgeOptions
from worker.engine import subids
from worker.engine.defaults import ContainerDefaults, parse_ulimit
from worker.engine.logoptions import parse_size
from worker.listening import Endpoint, parse_host
from worker.options import as_pairs, option

DEFAULT_CONFIG_PATH = Path("/etc/swarm/swarmd.toml")
_LOG_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
_SELINUX = Path("/sys/fs/selinux")


def _is_address(value: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise InvalidArgument(f"{value!r} is no IP address") from None


def _are_addresses(values: Sequence[str]) -> None:
    for value in values:
        _is_address(value)


def _are_subnets(values: Sequence[str]) -> None:
    for value in values:
        try:
            ipaddress.IPv4Network(value)
        except ValueError as error:
            raise InvalidArgument(f"{value!r} is no IPv4 subnet: {error}") from None


def _is_cgroup(value: str) -> None:
    if not value.strip("/") or ".." in value.split("/"):
        raise InvalidArgument(f"{value!r} names no cgroup")


def _is_unit(value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9:_.-]+", value.removesuffix(".service")):
        raise InvalidArgument(f"{value!r} names no systemd service")
    if not Path("/run/systemd/system").is_dir():
        raise InvalidArgument("systemd does not run this machine: leave it out")


def _is_group(value: str) -> None:
    try:
        grp.getgrnam(value)
    except KeyError:
        raise InvalidArgument(f"there is no group {value!r}: make it with groupadd") from None


def _is_on(value: bool) -> None:
    if not value:
        raise InvalidArgument("containers always outlive the daemon: false is not possible")


def _has_ids(value: str) -> None:
    if value:
        subids.find(value, subids.read_files())


def _no_selinux(value: bool) -> None:
    if value and not _SELINUX.exists():
        raise InvalidArgument("this kernel has no SELinux")
    if value:
        raise InvalidArgument("containers are not labelled by this engine: leave it out")


def _storage_options(values: Sequence[str]) -> None:
    for key, value in as_pairs(values):
        if key != "size":
            raise InvalidArgument(f"storage option {key!r} is not supported: leave it out")
        _is_size(value)


def _is_size(value: str) -> None:
    if parse_size(value) < 1 << 20:
        raise InvalidArgument(f"{value!r} is no size of at least 1m")


def _is_ratio(value: str) -> None:
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= 1_000_000:
        raise InvalidArgument(f"{value!r} is no whole number from 1 to 1000000")


def _are_labels(values: Sequence[str]) -> None:
    for key, _ in as_pairs(values):
        if not key or key.split() != [key]:
            raise InvalidArgument(f"{key!r} is no name of a label: write key=value")


def _are_generic(values: Sequence[str]) -> None:
    parse_generic(values)


def _are_ulimits(values: Sequence[str]) -> None:
    for value in values:
        parse_ulimit(value)


def _are_hosts(values: Sequence[str]) -> None:
    for value in values:
        parse_host(value)


def _are_mirrors(values: Sequence[str]) -> None:
    try:
        RegistrySettings(mirrors=tuple(values))
    except BadRegistry as error:
        raise InvalidArgument(str(error)) from None


def _are_insecure(values: Sequence[str]) -> None:
    try:
        RegistrySettings(insecure=tuple(values))
    except BadRegistry as error:
        raise InvalidArgument(str(error)) from None


_STORAGE, _REGISTRIES, _NETWORK, _API, _CONTAINERS, _CLUSTER = (
    "storage", "registries", "network", "API", "containers", "cluster",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """The settings of one daemon. Addresses are empty until the cluster needs them."""

    data_root: Path = option(
        Path("/var/lib/swarm"), "directory of images, containers and volumes",
        group=_STORAGE, short="-g", metavar="DIR",
    )  # fmt: skip
    run_dir: Path = option(
        Path("/run/swarm"), "directory of sockets and of what a reboot makes void",
        group=_STORAGE, metavar="DIR",
    )  # fmt: skip
    storage_driver: str = option(
        "overlay2", "how layers become a file system", group=_STORAGE, short="-s",
        values=("overlay2", "btrfs", "vfs"),
    )  # fmt: skip
    storage_opt: tuple[str, ...] = option(
        (), "option of the storage driver; size=SIZE, of containers, with btrfs",
        group=_STORAGE, metavar="KEY=VALUE", check=_storage_options,
    )  # fmt: skip

    image_max_size: str = option(
        "256g", "most that one image archive or layer may unpack to", group=_STORAGE,
        metavar="SIZE", check=_is_size,
    )  # fmt: skip
    image_max_ratio: str = option(
        "200", "how many times its own size an archive of over 1 GiB may unpack to",
        group=_STORAGE, metavar="NUMBER", check=_is_ratio,
    )  # fmt: skip

    registry_mirror: tuple[str, ...] = option(
        (), "asked before Docker Hub", group=_REGISTRIES, metavar="URL", check=_are_mirrors
    )
    insecure_registry: tuple[str, ...] = option(
        (), "may be asked without TLS or a valid certificate; loopback always may",
        group=_REGISTRIES, metavar="HOST[:PORT]|CIDR", check=_are_insecure,
    )  # fmt: skip

    bridge: str = option(
        "swarm0", "link of the default bridge, made when it is not there; none: no such network",
        group=_NETWORK, short="-b", metavar="LINK",
    )  # fmt: skip
    bip: str = option(
        "", "the default bridge's address and, by that, its subnet (default: a free one)",
        group=_NETWORK, metavar="ADDRESS/BITS",
    )  # fmt: skip
    fixed_cidr: str = option(
        "", "part of that subnet that containers get addresses from", group=_NETWORK,
        metavar="CIDR",
    )  # fmt: skip
    icc: bool = option(True, "containers on the default bridge reach each other", group=_NETWORK)
    ip_masq: bool = option(
        True, "containers on the default bridge leave with the host's address", group=_NETWORK
    )
    ip: str = option(
        "", "address ports are published at that name none (default 0.0.0.0)", group=_NETWORK,
        metavar="ADDRESS",
    )  # fmt: skip

    dns: tuple[str, ...] = option(
        (), "DNS server of containers that name none", group=_CONTAINERS, metavar="ADDRESS",
        check=_are_addresses,
    )  # fmt: skip
    dns_search: tuple[str, ...] = option(
        (), "DNS search domain of containers that name none", group=_CONTAINERS, metavar="DOMAIN"
    )
    log_driver: str = option(
        "json-file", "log driver of containers that name none", group=_CONTAINERS,
        values=("json-file", "none"),
    )  # fmt: skip
    log_opt: tuple[str, ...] = option(
        (), "option of that log driver", group=_CONTAINERS, metavar="KEY=VALUE"
    )
    default_ulimit: tuple[str, ...] = option(
        (), "limit of containers that do not set it", group=_CONTAINERS,
        metavar="NAME=SOFT[:HARD]", check=_are_ulimits,
    )  # fmt: skip
    cgroup_parent: str = option(
        "swarm", "cgroup below which every container lives", group=_CONTAINERS, metavar="CGROUP",
        check=_is_cgroup,
    )  # fmt: skip
    supervisor_unit: str = option(
        "", "systemd unit to run the containers' supervisor in (default: a child of ours)",
        group=_CONTAINERS, metavar="UNIT", check=_is_unit,
    )  # fmt: skip
    live_restore: bool = option(
        True, "containers outlive the daemon: always on", group=_CONTAINERS, check=_is_on
    )
    userns_remap: str = option(
        "", "run containers in user namespaces with the subordinate ids of this user and group",
        group=_CONTAINERS, metavar="USER[:GROUP]|default", check=_has_ids,
    )  # fmt: skip
    selinux_enabled: bool = option(
        False, "label containers for SELinux: not supported", group=_CONTAINERS, check=_no_selinux
    )

    host: tuple[str, ...] = option(
        (), "listen on unix://PATH or tcp://HOST:PORT (default unix://RUN_DIR/swarmd.sock)",
        group=_API, short="-H", metavar="URL", check=_are_hosts,
    )  # fmt: skip
    group: str = option(
        "swarm", "group whose members may use the unix sockets, where there is such a group",
        group=_API, short="-G", metavar="GROUP", check=_is_group,
    )  # fmt: skip
    tlsverify: bool = option(
        False, "ask every TCP client for a certificate or an API token; needed for TCP", group=_API
    )
    tlscacert: str = option("", "authority of the clients' certificates", group=_API, metavar="PEM")
    tlscert: str = option("", "the daemon's certificate", group=_API, metavar="PEM")
    tlskey: str = option("", "the daemon's private key", group=_API, metavar="PEM")
    tlscrl: str = option(
        "", "the authority's list of revoked certificates", group=_API, metavar="PEM"
    )
    tls_role: str = option(
        "operator", "role of a client's certificate that names none (OU=swarm-ROLE)", group=_API,
        values=(*ROLES, "none"),
    )  # fmt: skip
    debug: bool = option(False, "log level debug", group=_API, short="-D")
    log_level: str = option(
        "info", "what the daemon logs", group=_API, short="-l", values=tuple(_LOG_LEVELS)
    )
    label: tuple[str, ...] = option(
        (), "label of this machine's engine", group=_API, metavar="KEY=VALUE", check=_are_labels
    )

    listen_addr: str = option(
        "", "address the cluster's listeners bind to", group=_CLUSTER, metavar="ADDRESS[:PORT]"
    )
    advertise_addr: str = option(
        "", "address other nodes reach this one at", group=_CLUSTER, metavar="ADDRESS[:PORT]"
    )
    data_path_addr: str = option(
        "", "address of the overlay networks' traffic", group=_CLUSTER, metavar="ADDRESS"
    )

    default_addr_pool: tuple[str, ...] = option(
        (), "pool of a new cluster's networks (default 10.0.0.0/8)", group=_CLUSTER,
        metavar="SUBNET", check=_are_subnets,
    )  # fmt: skip

    node_generic_resource: tuple[str, ...] = option(
        (), "generic resource of this machine", group=_CLUSTER, metavar="KIND=NAME|COUNT",
        check=_are_generic,
    )  # fmt: skip

    @property
    def socket_path(self) -> Path:
        """Where the Docker Engine API listens unless `host` says otherwise."""
        return self.run_dir / "swarmd.sock"

    @property
    def endpoints(self) -> list[Endpoint]:
        """Where the API listens."""
        return [parse_host(host) for host in self.host or (f"unix://{self.socket_path}",)]

    @property
    def logging_level(self) -> int:
        """The level, in the numbers of `logging`."""
        return logging.DEBUG if self.debug else _LOG_LEVELS[self.log_level]

    @property
    def default_role(self) -> ApiRole | None:
        """The role of a client's certificate that names none; None: it is refused."""
        return ROLES.get(self.tls_role)

    @property
    def registry(self) -> RegistrySettings:
        """How registries are asked."""
        return RegistrySettings(self.registry_mirror, self.insecure_registry)

    @property
    def image_limits(self) -> UnpackLimits:
        """What one image archive may become."""
        size, ratio = parse_size(self.image_max_size), int(self.image_max_ratio)
        return UnpackLimits(size_bytes=size, ratio=ratio)

    @property
    def labels(self) -> dict[str, str]:
        """The engine's labels."""
        return dict(as_pairs(self.label))

    @property
    def generic(self) -> tuple[GenericShare, ...]:
        """What the machine offers to services by kind."""
        return parse_generic(self.node_generic_resource)

    @property
    def default_bridge(self) -> BridgeOptions:
        """How the default bridge is to be."""
        return BridgeOptions(
            link="" if self.bridge == "none" else self.bridge,
            address=self.bip,
            ip_range=self.fixed_cidr,
            talkative=self.icc,
            masquerade=self.ip_masq,
            host_address=self.ip,
        )

    @property
    def ids(self) -> IdMap | None:
        """What the ids of containers are on this host; None: the same."""
        return subids.find(self.userns_remap, subids.read_files()) if self.userns_remap else None

    @property
    def defaults(self) -> ContainerDefaults:
        """What containers get that do not ask for anything else."""
        return ContainerDefaults(
            log_driver=self.log_driver,
            log_options=dict(as_pairs(self.log_opt)),
            dns=self.dns,
            dns_search=self.dns_search,
            ulimits=tuple(parse_ulimit(text) for text in self.default_ulimit),
            storage_options=dict(as_pairs(self.storage_opt)),
        )


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Return the configuration in force: default < file < environment < flag.

    Raises:
        InvalidArgument: an unknown option, or a value that cannot be honoured, with its source.
        SystemExit: for `--help` and `--version`.
    """
    config = options.load(
        Config,
        argv,
        environ,
        prog="swarmd",
        description="The daemon of one machine: container engine, agent of the cluster, network. "
        "`swarmd check [--json]` tries out what the machine has and says what is missing.",
        version=f"swarmd {SWARM_VERSION}, API {API_VERSION}",
        config_path=DEFAULT_CONFIG_PATH,
    )
    _check_together(config)
    return config


def _check_together(config: Config) -> None:
    for key, value in (("tlscacert", config.tlscacert), ("tlscert", config.tlscert),
                       ("tlskey", config.tlskey), ("tlscrl", config.tlscrl)):  # fmt: skip
        if config.tlsverify and not value and key != "tlscrl":
            raise InvalidArgument(f"tlsverify needs {key}")
        if value and not config.tlsverify:
            raise InvalidArgument(f"{key} means nothing without tlsverify")
    for endpoint in config.endpoints:
        if not config.tlsverify and endpoint.kind == "tcp":
            raise InvalidArgument(
                f"host {endpoint}: TCP needs --tlsverify, also on loopback: "
                "every user of the machine reaches it, and the API is root here"
            )
    if config.storage_opt and config.storage_driver != "btrfs":
        raise InvalidArgument("storage-opt size needs storage-driver btrfs")
    config.default_bridge.check()
    try:
        config.defaults.check()
    except SwarmError as error:
        raise InvalidArgument(f"log-opt: {error.message}") from error

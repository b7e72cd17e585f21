"""Command line of `swarm-manager`."""

import argparse
import ipaddress
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swarmapi.errors import InvalidArgument
from swarmapi.tlsfiles import TLSFiles

SOCKET_NAME: Final = "manager.sock"
_LONGEST_SOCKET_PATH: Final = 107
"""Bytes a unix socket's path may have (unix(7))."""
_GENERATIONS: Final = 1000


@dataclass(frozen=True)
class Paths:
    """The manager's files."""

    state_dir: Path
    run_dir: Path

    @property
    def tls(self) -> TLSFiles:
        """This node's certificate and private key."""
        return TLSFiles(self.state_dir)

    @property
    def ca(self) -> Path:
        """The roots this node trusts."""
        return self.tls.ca

    @property
    def cert(self) -> Path:
        """This node's certificate."""
        return self.tls.cert

    @property
    def key(self) -> Path:
        """This node's private key."""
        return self.tls.key

    @property
    def keys(self) -> Path:
        """This node's keyring; everything in `raft` is sealed with it."""
        return self.state_dir / "raft.keys"

    @property
    def bootstrap(self) -> Path:
        """What `init` prepared for the first start; gone once it is committed."""
        return self.state_dir / "bootstrap.sealed"

    @property
    def raft(self) -> Path:
        """Journal and snapshots."""
        return self.state_dir / "raft"

    @property
    def tails(self) -> Path:
        """The last lines of tasks that ended."""
        return self.state_dir / "logs"

    @property
    def lock(self) -> Path:
        """Held by the one process of this state directory."""
        return self.state_dir / "manager.lock"

    @property
    def socket(self) -> Path:
        """The REST socket, for swarmd alone."""
        return self.run_dir / SOCKET_NAME

    def inner(self, name: str, generation: int = 0) -> Path:
        """Return a socket between the public port and a server of ours.

        With each certificate begins a generation; one that has gone lends its path.
        """
        return self.run_dir / f"manager-{name}-{generation % _GENERATIONS}.sock"


@dataclass(frozen=True)
class InitConfig:
    """`swarm-manager init`."""

    paths: Paths
    advertise: str
    pools: tuple[str, ...]
    subnet_size: int


@dataclass(frozen=True)
class RunConfig:
    """`swarm-manager run`. Addresses are `host:port`."""

    paths: Paths
    node_id: str
    listen: str
    advertise: str
    join: str
    unlock_key: str = ""
    """What opens this node's keys where they are locked."""
    known: tuple[str, ...] = ()
    """Other managers: with a damaged log this one comes back through them."""


@dataclass(frozen=True)
class RecoverConfig:
    """`swarm-manager recover`, or `restore` of a backup."""

    paths: Paths
    advertise: str
    unlock_key: str
    backup: str = ""


@dataclass(frozen=True)
class DescribeConfig:
    """`swarm-manager openapi`."""


def load(argv: Sequence[str]) -> InitConfig | RunConfig | RecoverConfig | DescribeConfig:
    """Return what the command line asks for.

    Raises:
        InvalidArgument: a value that cannot be.
        SystemExit: by argparse, for a wrong flag or `--help`.
    """
    flags = _parser().parse_args(argv)
    if flags.command == "openapi":
        return DescribeConfig()
    paths = Paths(Path(flags.state_dir), Path(flags.run_dir))
    for name in ("state_dir", "run_dir"):
        if not Path(getattr(flags, name)).is_absolute():
            raise InvalidArgument(f"--{name.replace('_', '-')} must be an absolute path")
    if len(bytes(paths.inner("join", _GENERATIONS - 1))) > _LONGEST_SOCKET_PATH:
        raise InvalidArgument(f"--run-dir {paths.run_dir} is too long for unix sockets")
    split(flags.listen_addr)
    split(flags.advertise_addr)
    if flags.command == "init":
        pools = tuple(flags.default_addr_pool or ("10.0.0.0/8",))
        _check_pools(pools, flags.subnet_size)
        return InitConfig(paths, flags.advertise_addr, pools, flags.subnet_size)
    unlock_key = sys.stdin.readline().strip() if flags.unlock_key_stdin else ""
    if flags.command in ("recover", "restore"):
        backup = flags.backup if flags.command == "restore" else ""
        return RecoverConfig(paths, flags.advertise_addr, unlock_key, backup)
    for address in (*flags.known, *([flags.join] if flags.join else ())):
        split(address)
    return RunConfig(
        paths,
        flags.node_id,
        flags.listen_addr,
        flags.advertise_addr,
        flags.join,
        unlock_key,
        tuple(flags.known),
    )


def split(address: str) -> tuple[str, int]:
    """Return (host, port) of `host:port`; raises InvalidArgument."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= int(port) < 65_536:
        raise InvalidArgument(f"address {address!r} must be host:port")
    return host, int(port)


def _check_pools(pools: tuple[str, ...], subnet_size: int) -> None:
    for pool in pools:
        try:
            network = ipaddress.IPv4Network(pool)
        except ValueError as error:
            raise InvalidArgument(f"--default-addr-pool: {error}") from error
        if not network.prefixlen <= subnet_size <= 29:
            raise InvalidArgument(
                f"--subnet-size {subnet_size} must be from {network.prefixlen} (of {pool}) to 29"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swarm-manager", description="the control plane")
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="prepare the first manager of a new cluster")
    run = commands.add_parser("run", help="serve until SIGTERM")
    commands.add_parser("openapi", help="print the document of the routes a manager answers")
    recover = commands.add_parser("recover", help="go on with this manager alone")
    restore = commands.add_parser("restore", help="make the first manager from a backup")
    restore.add_argument("--backup", required=True, help="the file")
    for command in (init, run, recover, restore):
        command.add_argument("--state-dir", required=True, help="certificate, journal, lock")
        command.add_argument("--run-dir", required=True, help="sockets")
        command.add_argument("--listen-addr", default="0.0.0.0:2377", help="host:port")
        command.add_argument("--advertise-addr", required=True, help="host:port for others")
    init.add_argument(
        "--default-addr-pool", action="append", help="pool of overlay subnets; may be repeated"
    )
    init.add_argument("--subnet-size", type=int, default=24, help="prefix length of a subnet")
    run.add_argument("--node-id", default="", help="refuse any other node's certificate")
    run.add_argument("--join", default="", help="host:port of a manager to enter Raft through")
    run.add_argument(
        "--known", action="append", default=[], help="host:port of another manager; repeatable"
    )
    for command in (run, recover, restore):
        command.add_argument(
            "--unlock-key-stdin", action="store_true", help="read the unlock key of locked keys"
        )
    return parser

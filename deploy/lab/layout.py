"""What a lab is called, where its files lie, which addresses its nodes have."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
STATE_ROOT = Path("/var/lib/swarm-lab")  # the nodes' disks
RUN_ROOT = Path("/run/swarm-lab")  # sockets, pid files, logs of the present boot
NODE_DIRS = {"lib": "/var/lib/swarm", "run": "/run/swarm", "etc": "/etc/swarm"}
CLIENT = "client"
MAX_NODES_PER_KIND = 90


class LabError(Exception):
    """Something the user can mend; the message says how."""


@dataclass
class Lab:
    """The description of one lab, stored as lab.json beside its disks.

    `index` is the third octet of its addresses; `groups` names the bridge of a partitioned port;
    `bin_dir` holds the swarmd and swarmctl under test.
    """

    name: str
    index: int
    nodes: list[str]
    bin_dir: str
    groups: dict[str, str] = field(default_factory=dict)

    @property
    def state_dir(self) -> Path:
        return STATE_ROOT / self.name

    @property
    def run_dir(self) -> Path:
        return RUN_ROOT / self.name

    @property
    def bridge_netns(self) -> str:
        return f"{self.name}-net"

    def netns(self, node: str) -> str:
        """Return the namespace's name under /run/netns."""
        return f"{self.name}-{node}"

    def address(self, node: str) -> str:
        """Return the IPv4 address: managers from .11, workers from .101, the client .250."""
        if node == CLIENT:
            return f"10.89.{self.index}.250"
        first = 10 if node[0] == "m" else 100
        return f"10.89.{self.index}.{first + int(node[1:])}"

    def ipv6_address(self, node: str) -> str:
        """Return the IPv6 address, whose end is that of the IPv4 one."""
        return f"fd89:{self.index:x}::{int(self.address(node).rpartition('.')[2]):x}"

    def disk(self, node: str, part: str) -> Path:
        """Return the directory behind one of NODE_DIRS; `run` does not survive a power cut."""
        root = self.run_dir if part == "run" else self.state_dir
        return root / node if part == "run" else root / node / part

    def socket(self, node: str) -> Path:
        """Return the path of the node's API socket as seen from outside."""
        return self.disk(node, "run") / "swarmd.sock"

    def pid_file(self, node: str) -> Path:
        return self.run_dir / f"{node}.pid"

    def log(self, node: str) -> Path:
        return self.state_dir / node / "console.log"

    def require(self, node: str) -> str:
        """Return the node's name; raises LabError for a node the lab does not have."""
        if node not in self.nodes:
            raise LabError(f"lab {self.name} has no node {node}: it has {' '.join(self.nodes)}")
        return node

    def save(self) -> None:
        """Write lab.json in one step."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        draft = self.state_dir / "lab.json.new"
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(self.state_dir / "lab.json")


def check_name(name: str) -> str:
    """Return a lab's name; it becomes part of namespace and link names."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", name):
        raise LabError(f"lab name {name!r}: use a-z, 0-9 and -, at most 20, a letter first")
    return name


def load(name: str) -> Lab:
    """Read a lab's description; raises LabError where it is not up."""
    try:
        found = json.loads((STATE_ROOT / check_name(name) / "lab.json").read_text())
    except FileNotFoundError:
        raise LabError(f"lab {name} is not up: run `lab --name {name} up`") from None
    names = {known.name for known in fields(Lab)}  # a lab of another version has its subnet, too
    return Lab(**{key: value for key, value in found.items() if key in names})


def existing() -> list[str]:
    """List the names of all labs of this machine that have a description."""
    return sorted(path.parent.name for path in STATE_ROOT.glob("*/lab.json"))


def forget(name: str) -> None:
    """Remove the state directory of a lab that was interrupted before its description was kept."""
    if (STATE_ROOT / name).exists():
        shutil.rmtree(STATE_ROOT / name)
    if STATE_ROOT.exists() and not any(STATE_ROOT.iterdir()):
        STATE_ROOT.rmdir()


def create(name: str, managers: int, workers: int, bin_dir: str) -> Lab:
    """Reserve a name and a subnet; raises LabError where the lab exists or is too large."""
    check_name(name)
    if not 1 <= managers <= MAX_NODES_PER_KIND or not 0 <= workers <= MAX_NODES_PER_KIND:
        raise LabError(f"a lab has 1 to {MAX_NODES_PER_KIND} managers and at most as many workers")
    nodes = [f"m{n + 1}" for n in range(managers)] + [f"w{n + 1}" for n in range(workers)]
    with locked():
        if (STATE_ROOT / name).exists():
            raise LabError(f"lab {name} exists: run `lab --name {name} down` first")
        taken = {load(other).index for other in existing()}
        free = [index for index in range(1, 251) if index not in taken]
        if not free:
            raise LabError("all 250 lab subnets are in use: take a lab down first")
        lab = Lab(name, free[0], nodes, bin_dir)
        lab.save()
    return lab


@contextmanager
def locked() -> Iterator[None]:
    """Hold the machine's lab lock: subnets are handed out and shared directories removed under it.

    The lock is on the directory above, so that STATE_ROOT itself can be removed.
    """
    STATE_ROOT.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(STATE_ROOT.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        STATE_ROOT.mkdir(exist_ok=True)
        yield
    finally:
        os.close(fd)

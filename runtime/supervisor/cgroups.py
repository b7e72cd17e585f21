"""Cgroups of containers: where they lie, limits, freezing, killing, counters, removal.

Version 2 is the main path; where controllers are held by version 1 (also in a hybrid of both)
limits and counters use those. A child enters v2 by CLONE_INTO_CGROUP and v1 by writing `0` to
`tasks` itself: `cgroup.procs` of v1 costs an RCU grace period each.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from runtime.errors import StartFailed, SysError, Unsupported
from runtime.supervisor import demands

_V1_USED = ("cpu", "cpuacct", "memory", "pids", "blkio")


@dataclass(frozen=True)
class Layout:
    """Directories below which containers' cgroups are made; v1 by controller."""

    v2: str
    v1: dict[str, str]
    v2_controllers: tuple[str, ...]
    bpf_devices: bool

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible fields."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Layout:
        """Rebuild from `as_dict`."""
        return cls(
            fields["v2"], fields["v1"], tuple(fields["v2_controllers"]), fields["bpf_devices"]
        )


def write(path: str, value: str | bytes) -> None:
    """Write one control file; raises SysError."""
    raw = value.encode() if isinstance(value, str) else value
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, raw)
        finally:
            os.close(fd)
    except OSError as error:
        raise SysError("write", error.errno or 0, path) from error


def read(path: str) -> str:
    """Return a control file's text, empty when it does not exist."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def _mounts() -> list[tuple[str, str, str, set[str]]]:
    """Return (filesystem type, root, mount point, options) of the cgroup mounts one can reach.

    mountinfo also lists what a later mount covers, at the same point or above it.
    """
    found: list[tuple[str, str, str, set[str]]] = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split()[:3]
            fields = left.split()
            found = [m for m in found if not (m[2] + "/").startswith(fields[4].rstrip("/") + "/")]
            if kind in ("cgroup", "cgroup2"):
                found.append((kind, fields[3], fields[4], set(options.split(","))))
    return found


def _own_paths() -> dict[str, str]:
    """Return this process's cgroup path by v1 controller; v2's under the empty name."""
    own = {}
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                own[controller] = path
    return own


def _place(root: str, mount_point: str, own: str, parent: str) -> str:
    if root.startswith("/.."):
        raise Unsupported(
            f"cgroup mount {mount_point} lies above this cgroup namespace: mount cgroups afresh"
        )
    path = parent if parent.startswith("/") else f"{own.rstrip('/')}/{parent}"
    if root != "/":
        if path != root and not path.startswith(root + "/"):
            raise Unsupported(f"cgroup {path} is not visible at {mount_point}, which shows {root}")
        path = path[len(root) :]
    return os.path.normpath(f"{mount_point}/{path.lstrip('/')}")


def detect(parent: str, bpf_devices: bool) -> Layout:
    """Find the hierarchies and make the parent cgroup in each.

    A relative `parent` lies below the caller's own cgroup of that hierarchy, an absolute one below
    the hierarchy's root; so does a relative one in v2 where the caller shares its cgroup with other
    processes, as that hands no controllers down. Raises Unsupported where no place can be named.
    """
    own = _own_paths()
    v2, v1, controllers = "", {}, []
    for kind, root, point, options in _mounts():
        if kind == "cgroup2" and not v2:
            path = own.get("", "/")
            if parent != "." and _is_shared(_place(root, point, path, ".")):
                path = root
            v2 = _place(root, point, path, parent)
            os.makedirs(v2, exist_ok=True)
            controllers = _delegate(v2, point)
        for name in (*_V1_USED, "cpuset", "devices", "freezer"):
            if kind == "cgroup" and name in options and name not in v1:
                v1[name] = _place(root, point, own.get(name, "/"), parent)
                os.makedirs(v1[name], exist_ok=True)
                if name == "cpuset":
                    _inherit_cpuset(v1[name], point)
    if not v2 and not v1:
        raise Unsupported("no cgroup hierarchy is mounted: mount cgroup2 at /sys/fs/cgroup")
    return Layout(v2, v1, tuple(controllers), bool(v2) and bpf_devices)


def handed_down(layout: Layout) -> Layout:
    """Hand v2's controllers down to the layout's parent cgroup again; return what it has now.

    For a service whose cgroup was its only process's own until that moved below the parent.
    """
    points = [point for kind, _, point, _ in _mounts() if kind == "cgroup2"]
    if not layout.v2 or not points:
        return layout
    return replace(layout, v2_controllers=tuple(_delegate(layout.v2, points[0])))


def _is_shared(directory: str) -> bool:
    """Tell whether a v2 cgroup with controllers to hand down has processes besides us."""
    others = set(read(f"{directory}/cgroup.procs").split()) - {str(os.getpid())}
    return bool(others) and bool(read(f"{directory}/cgroup.controllers").split())


def _delegate(directory: str, mount_point: str) -> list[str]:
    """Enable what controllers we can from the mount point down; return those enabled.

    Below the root, a cgroup with processes hands none down, and to ask it for a threaded one makes
    its children unusable (cgroup-v2.rst, "No Internal Process Constraint" and "Threads").
    """
    chain = [directory]
    while chain[-1] != mount_point and len(chain[-1]) > len(mount_point):
        chain.append(os.path.dirname(chain[-1]))
    for node in reversed(chain):
        if os.path.exists(f"{node}/cgroup.type") and read(f"{node}/cgroup.procs").strip():
            break
        for name in read(f"{node}/cgroup.controllers").split():
            if name in ("cpu", "cpuset", "io", "memory", "pids"):
                # a controller that the one above does not hand down; its limit is refused later
                with contextlib.suppress(SysError):
                    write(f"{node}/cgroup.subtree_control", f"+{name}")
    return read(f"{directory}/cgroup.subtree_control").split()


def _inherit_cpuset(directory: str, mount_point: str) -> None:
    """Fill empty cpuset files from the parent upwards: a v1 cpuset without CPUs takes no task."""
    if directory == mount_point:
        return
    parent = os.path.dirname(directory)
    _inherit_cpuset(parent, mount_point)
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not read(f"{directory}/{name}").strip():
            write(f"{directory}/{name}", read(f"{parent}/{name}"))


def _limit(value: int | None) -> str:
    return "max" if value is None or value <= 0 else str(value)


class Group:
    """The cgroups of one container."""

    def __init__(self, layout: Layout, name: str) -> None:
        self.layout = layout
        self.name = name
        self.v2 = f"{layout.v2}/{name}" if layout.v2 else ""

    def v1(self, controller: str) -> str:
        """Return the v1 directory of a controller, empty when v1 does not hold it."""
        base = self.layout.v1.get(controller)
        return f"{base}/{self.name}" if base else ""

    def _own(self, resources: dict[str, Any]) -> list[str]:
        names = list(_V1_USED)
        cpu = resources.get("cpu") or {}
        if cpu.get("cpus") or cpu.get("mems"):
            names.append("cpuset")
        if not self.layout.bpf_devices:
            names.append("devices")
        if not self.v2:
            names.append("freezer")
        return [n for n in names if n in self.layout.v1]

    def create(self, resources: dict[str, Any], device_rules: list[dict[str, Any]]) -> list[str]:
        """Make the cgroups and set limits; returns the `tasks` files the child must enter."""
        names = self._own(resources)
        directories = [self.v1(name) for name in names]
        for directory in [*directories, self.v2]:
            if directory:
                _make(directory)
        if "cpuset" in names:
            _inherit_cpuset(self.v1("cpuset"), self.layout.v1["cpuset"])
        self.update(resources)
        self._set_devices(device_rules)
        return [f"{directory}/tasks" for directory in directories]

    def _set_devices(self, entries: list[dict[str, Any]]) -> None:
        from runtime.supervisor import devices

        rules = devices.rules_of(entries)
        if not rules or (len(rules) == 1 and rules[0][:4] == (True, "a", -1, -1)):
            return
        if self.layout.bpf_devices:
            fd = os.open(self.v2, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                devices.attach(fd, rules)
            finally:
                os.close(fd)
            return
        directory = self.v1("devices")
        if not directory:
            raise StartFailed("device rules need a bpf device program or cgroup v1 devices")
        for file, line in devices.v1_lines(rules):
            write(f"{directory}/{file}", line)

    def prefer(self, times: int) -> None:
        """Give the group a multiple of a container's usual share of busy processors."""
        if self.v1("cpu"):
            write(f"{self.v1('cpu')}/cpu.shares", str(times * 1024))
        elif "cpu" in self.layout.v2_controllers:
            write(f"{self.v2}/cpu.weight", str(times * 100))

    # ---- limits ----------------------------------------------------------------------------

    def update(self, resources: dict[str, Any]) -> None:
        """Apply OCI `linux.resources`; raises Unsupported for what cannot be limited here."""
        memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
        pids, block = resources.get("pids") or {}, resources.get("blockIO") or {}
        demands.check_resources(resources)
        if memory:
            self._memory(memory)
        if cpu:
            self._cpu(cpu)
        if "limit" in pids:
            write(self._need("pids") + "/pids.max", _limit(pids["limit"]))
        if block:
            self._block(block)
        for file, value in (resources.get("unified") or {}).items():
            if not self.v2 or "/" in file:
                raise Unsupported(f"linux.resources.unified {file} needs cgroup v2")
            write(f"{self.v2}/{file}", str(value))

    def _need(self, controller: str) -> str:
        directory = self.v1(controller)
        if directory:
            return directory
        if controller in self.layout.v2_controllers:
            return self.v2
        raise Unsupported(f"cgroup controller {controller} is not available for containers here")

    def _memory(self, memory: dict[str, Any]) -> None:
        directory = self._need("memory")
        if self.v1("memory"):
            self._memory_v1(memory, directory)
        else:
            self._memory_v2(memory, directory)

    @staticmethod
    def _memory_v1(memory: dict[str, Any], directory: str) -> None:
        limit, swap = memory.get("limit"), memory.get("swap")
        todo = [("limit_in_bytes", limit), ("memsw.limit_in_bytes", swap)]
        if limit is not None and swap is not None:
            now = int(read(f"{directory}/memory.memsw.limit_in_bytes") or 0)
            if limit > now > 0 or limit < 0:
                todo.reverse()  # the sum may never be below the memory limit
        todo.append(("soft_limit_in_bytes", memory.get("reservation") or None))
        todo.append(("swappiness", memory.get("swappiness")))
        todo.append(("oom_control", 1 if memory.get("disableOOMKiller") else None))
        for file, value in todo:
            if value is not None:
                write(f"{directory}/memory.{file}", str(value))

    @staticmethod
    def _memory_v2(memory: dict[str, Any], directory: str) -> None:
        limit, swap = memory.get("limit"), memory.get("swap")
        if memory.get("disableOOMKiller"):
            raise Unsupported("disabling the oom killer needs cgroup v1")
        if memory.get("swappiness") is not None:
            raise Unsupported("memory swappiness needs cgroup v1")
        if limit is not None:
            write(f"{directory}/memory.max", _limit(limit))
        if swap is not None:
            above = "max" if swap < 0 else str(max(swap - (limit or 0), 0))
            write(f"{directory}/memory.swap.max", above)
        if memory.get("reservation"):
            write(f"{directory}/memory.low", _limit(memory["reservation"]))

    def _cpu(self, cpu: dict[str, Any]) -> None:
        shares, quota, period = cpu.get("shares"), cpu.get("quota"), cpu.get("period")
        if shares or quota or period:
            directory = self._need("cpu")
            if self.v1("cpu"):
                for file, value in (
                    ("cpu.shares", shares),
                    ("cpu.cfs_period_us", period),
                    ("cpu.cfs_quota_us", quota),
                ):
                    if value:
                        write(f"{directory}/{file}", str(value))
            else:
                if shares:
                    weight = 1 + (max(shares, 2) - 2) * 9999 // 262142  # as runc and crun map it
                    write(f"{directory}/cpu.weight", str(weight))
                if quota or period:
                    write(f"{directory}/cpu.max", f"{_limit(quota)} {period or 100000}")
        for key in ("cpus", "mems"):
            if cpu.get(key):
                self._cpuset()
                write(f"{self._need('cpuset')}/cpuset.{key}", cpu[key])

    def _cpuset(self) -> None:
        """Make the v1 cpuset on demand and move a running container into it."""
        directory = self.v1("cpuset")
        if not directory or os.path.isdir(directory):
            return
        _make(directory)
        _inherit_cpuset(directory, self.layout.v1["cpuset"])
        for pid in self.processes():
            with contextlib.suppress(SysError):
                write(f"{directory}/cgroup.procs", str(pid))

    def _block(self, block: dict[str, Any]) -> None:
        weights = [("", block["weight"])] if block.get("weight") else []
        weights += [
            (f"{entry['major']}:{entry['minor']} ", entry["weight"])
            for entry in block.get("weightDevice") or []
        ]
        for device, weight in weights:
            self._block_weight(device, weight)
        for way, unit, file in (
            ("throttleReadBpsDevice", "rbps", "read_bps"),
            ("throttleWriteBpsDevice", "wbps", "write_bps"),
            ("throttleReadIOPSDevice", "riops", "read_iops"),
            ("throttleWriteIOPSDevice", "wiops", "write_iops"),
        ):
            for entry in block.get(way) or []:
                device = f"{entry['major']}:{entry['minor']}"
                if self.v1("blkio"):
                    path = f"{self.v1('blkio')}/blkio.throttle.{file}_device"
                    write(path, f"{device} {entry['rate']}")
                else:
                    write(f"{self._need('io')}/io.max", f"{device} {unit}={entry['rate']}")

    def _block_weight(self, device: str, weight: int) -> None:
        """Set a weight, of a device ("8:0 ") or of all: bfq's file where there is one."""
        v1 = self.v1("blkio")
        directory = v1 or self._need("io")
        suffix = "_device" if device and v1 else ""
        names = ("blkio.bfq.weight", "blkio.weight") if v1 else ("io.bfq.weight", "io.weight")
        for name in names:
            if os.path.exists(f"{directory}/{name}{suffix}"):
                if name == "io.weight":  # 10 to 1000 onto 1 to 10000, as runc and crun map it
                    weight = 1 + (weight - 10) * 9999 // 990
                write(f"{directory}/{name}{suffix}", f"{device}{weight}")
                return
        raise Unsupported("blockIO.weight needs a proportional io scheduler here")

    # ---- processes -------------------------------------------------------------------------

    def _listing(self) -> str:
        if self.v2:
            return f"{self.v2}/cgroup.procs"
        return f"{self.v1('pids') or self.v1('memory')}/cgroup.procs"

    def processes(self) -> list[int]:
        """Return the pids of all processes of the container and its execs."""
        return [int(pid) for pid in read(self._listing()).split()]

    def freeze(self, frozen: bool) -> None:
        """Stop or continue every process; returns once the kernel confirms it."""
        if self.v2:
            write(f"{self.v2}/cgroup.freeze", "1" if frozen else "0")
            path, wanted = f"{self.v2}/cgroup.events", f"frozen {int(frozen)}"
        else:
            word = "FROZEN" if frozen else "THAWED"
            path, wanted = f"{self.v1('freezer')}/freezer.state", word
            write(path, word)
        for _ in range(200):
            if wanted in read(path):
                return
            time.sleep(0.001)
        raise SysError("freeze", errno.ETIMEDOUT, path)

    def kill(self) -> None:
        """SIGKILL every process, also of a frozen container."""
        if self.v2 and os.path.exists(f"{self.v2}/cgroup.kill"):
            with contextlib.suppress(SysError):
                write(f"{self.v2}/cgroup.kill", "1")
            return
        for _ in range(16):
            pids = self.processes()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                break
        if self.v1("freezer") and not self.v2:
            with contextlib.suppress(SysError):  # a frozen v1 task dies only when thawed
                write(f"{self.v1('freezer')}/freezer.state", "THAWED")

    def oom_kills(self) -> int:
        """Return how many processes the kernel's oom killer took here."""
        if self.v1("memory"):
            text = read(f"{self.v1('memory')}/memory.oom_control")
        else:
            text = read(f"{self.v2}/memory.events")
        fields = dict(line.split() for line in text.splitlines() if line.count(" ") == 1)
        return int(fields.get("oom_kill", 0))

    def remove(self) -> bool:
        """Remove the cgroups; false when processes still hold one."""
        clean = True
        places = [self.v1(name) for name in self.layout.v1]
        for directory in [*places, self.v2]:
            if directory and not _remove(directory):
                clean = False
        return clean


def _make(directory: str) -> None:
    try:
        os.mkdir(directory)
    except FileExistsError:
        pass
    except OSError as error:
        raise SysError("mkdir", error.errno or 0, directory) from error


def _remove(directory: str) -> bool:
    try:
        os.rmdir(directory)
        return True
    except FileNotFoundError:
        return True
    except OSError:
        pass
    # a container may have made cgroups of its own below
    for path, children, _ in os.walk(directory, topdown=False):
        for child in children:
            with contextlib.suppress(OSError):
                os.rmdir(f"{path}/{child}")
    with contextlib.suppress(OSError):
        os.rmdir(directory)
    return not os.path.isdir(directory)

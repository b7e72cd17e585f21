"""Cloning: turn a request into a running child, with everything prepared before it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
from dataclasses import dataclass
from typing import Any

from runtime.errors import StartFailed, Unsupported
from runtime.supervisor import (
    compose,
    entering,
    kernel,
    native,
    pidone,
    process,
    sealed,
    seccomp,
    userns,
    usher,
    wire,
)
from runtime.supervisor.cgroups import Group
from runtime.supervisor.entering import Entrant
from runtime.supervisor.ids import IdMap
from runtime.supervisor.plan import NOT_OPEN, REPORT_SIZE, Plan, Slot

_CHILD_NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWCGROUP
)
_POOL_SIZE = 4
_BIRTH_MS = 10_000
"""A container in a user namespace that is not born by then, in a frozen cgroup say, never is."""


@dataclass
class Child:
    """A cloned child that has not reported yet."""

    pid: int
    pidfd: int
    report_fd: int
    labels: list[str]
    streams: list[str]
    stream_fds: list[int]
    master: int = -1
    gate_fd: int = -1
    """Of a container: a byte written here lets it run its program; its end ends it."""


class Launcher:
    """Knows this process's own pid namespace and makes children from plans."""

    def __init__(self) -> None:
        self.own_pid_ns = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.own_netns = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.pool: list[int] = []
        self.init_fd = self.usher_fd = -1
        self.cradle = native.Cradle()
        self.null = kernel.open_null()
        while self.null < 3:
            self.null = os.dup(self.null)

    def pool_short(self) -> bool:
        """Tell whether a network namespace should be made while nothing else is to do."""
        return len(self.pool) < _POOL_SIZE

    def fill_pool(self) -> None:
        """Make one network namespace ahead of its container: 0.5 ms a start then saves."""
        self.pool.append(kernel.new_netns(self.own_netns))

    def clone(
        self,
        plan: Plan,
        report_fd: int,
        keep: list[int],
        flags: int,
        group: Group,
        pid_ns: int,
    ) -> tuple[int, int]:
        """Run the plan in a child, which reports to `report_fd`; returns (pid, pidfd).

        It uses the descriptors of `keep` besides. Where the kernel may kill it for the container's
        want of memory, or a tracer is already there, it must not share ours.
        """
        cgroup = group.v2
        share = pid_ns < 0 and "memory" not in group.layout.v2_controllers
        cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_CLOEXEC) if cgroup else -1
        joined = False
        try:
            if pid_ns >= 0:
                kernel.syscall("setns", pid_ns, kernel.CLONE_NEWPID)
                joined = True
            return self._bear(plan, report_fd, keep, flags, cgroup_fd, share=share)
        finally:
            if joined:
                kernel.syscall("setns", self.own_pid_ns, kernel.CLONE_NEWPID)
            if cgroup_fd >= 0:
                os.close(cgroup_fd)

    def start(
        self, request: dict[str, Any], group: Group, bpf: bytes, netns_fd: int, warnings: list[str]
    ) -> tuple[Child, list[str]]:
        """Start a container's first process; returns the child and its v1 `tasks` files."""
        config = request["config"]
        linux = config.get("linux") or {}
        resources = dict(linux.get("resources") or {})
        tasks = group.create(resources, resources.get("devices") or [])
        settings = config.get("process") or {}
        theirs: list[int] = []
        ours: list[int] = []
        site = compose.Site((-1, -1, -1), tasks, bpf, warnings=warnings)
        site.overlay, site.netns, site.netns_fd = request["overlay"], request["netns"], netns_fd
        try:
            self._namespaces(linux, site)
            streams = self._streams(request, settings, site, theirs, ours)
            site.v1_groups = _co_mounted(group, tasks)
            site.gate = os.pipe2(os.O_CLOEXEC)
            theirs.append(site.gate[0])
            ours.append(site.gate[1])
            if request["init"]:
                site.init_fd = self._init()
            report, site.report_fd = _report_of(site)
            ours.append(report)
            theirs.append(site.report_fd)
            composed = compose.compose(config, site)
            keep = [*theirs, *site.fds, *site.stdio, site.netns_fd, site.init_fd]
            pid, pidfd = self.clone(
                composed.plan, site.report_fd, keep, composed.flags, group, composed.pid_ns_fd
            )
            if site.userns is not None:
                wire.close_all(theirs)
                theirs.clear()
                pid, pidfd = _await_birth(report, pidfd, composed.plan.labels, settings["args"])
        except BaseException:
            wire.close_all(ours)
            raise
        finally:
            wire.close_all(theirs + site.fds)
        ours = [fd for fd in ours if fd not in (report, site.gate[1])]
        child = Child(pid, pidfd, report, composed.plan.labels, streams, ours)
        child.gate_fd = site.gate[1]
        if settings.get("terminal"):
            child.master = ours[0]
        return child, tasks

    def _namespaces(self, linux: dict[str, Any], site: compose.Site) -> None:
        """Find the user namespace asked for, and the network namespace where it is to be new."""
        namespaces = linux.get("namespaces") or []
        if not any(one["type"] == "user" for one in namespaces):
            if site.netns == "new" and self.pool:
                site.netns_fd = self.pool.pop()
                site.fds.append(site.netns_fd)
            return
        if site.netns == "host":
            raise Unsupported("a user namespace needs a network namespace of its own")
        ids = IdMap.from_oci(linux)
        if site.netns == "new":
            joined = next((one["path"] for one in namespaces if one.get("path")), "")
            site.netns_fd = self.new_netns(ids, joined)
            site.fds.append(site.netns_fd)
        owner = userns.owner(site.netns_fd)
        site.fds.append(owner)
        if userns.is_own(owner):
            raise StartFailed(
                "the namespaces to join are of a container without a user namespace: "
                "it takes --userns host to share them"
            )
        site.userns = userns.UserNamespace(owner, ids)

    def new_netns(self, ids: IdMap, joined: str = "") -> int:
        """Return a network namespace in a new user namespace with this map.

        With `joined`, the path of a namespace, in the user namespace that one belongs to.
        """
        near, far = os.pipe2(os.O_CLOEXEC)
        gate = os.pipe2(os.O_CLOEXEC)
        fds = [near, far, *gate]
        plan, bits = Plan(), kernel.CLONE_NEWNET
        try:
            plan.call("close", gate[1], allow=NOT_OPEN)
            if joined:
                with open(joined, "rb") as namespace:
                    fds.append(userns.owner(namespace.fileno()))
                if not userns.is_own(fds[-1]):
                    plan.call("setns", fds[-1], kernel.CLONE_NEWUSER, label="user namespace")
            else:
                bits |= kernel.CLONE_NEWUSER
            plan.call("unshare", bits, label="network namespace")
            plan.call("write", far, "n", 1)
            plan.gate(gate[0])
            pid, pidfd = self._bear(plan, far, [gate[0], *fds[4:]])
            fds.append(pidfd)
            os.close(far)
            fds.remove(far)
            told = os.read(near, REPORT_SIZE)
            if told != b"n":
                raise StartFailed(process.report_words(told, plan.labels, [""]))
            if not joined:
                userns.give_ids(pid, ids)
            fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            wire.close_all(fds)  # without the gate the process ends
        kernel.bring_up_lo(fd, self.own_netns)
        return fd

    def _bear(
        self, plan: Plan, report_fd: int, keep: list[int], flags: int = 0, cgroup_fd: int = -1,
        *, share: bool = True,
    ) -> tuple[int, int]:  # fmt: skip
        if self.cradle.usable:
            return self.cradle.bear(plan, report_fd, keep, flags, cgroup_fd, share)
        block = plan.link()
        pid, pidfd = kernel.clone3(flags, cgroup_fd)
        if pid == 0:
            plan.run(report_fd)
        del block
        return pid, pidfd

    def _streams(
        self, request: dict[str, Any], settings: dict[str, Any], site: compose.Site,
        theirs: list[int], ours: list[int],
    ) -> list[str]:  # fmt: skip
        if settings.get("terminal"):
            streams = self._terminal(settings, site, theirs, ours)
        else:
            streams = self._pipes(request, site, theirs, ours)
        if site.userns is not None:
            userns.give(site.userns.ids, site.stdio, settings.get("user") or {})
        return streams

    def _init(self) -> int:
        if self.init_fd < 0:
            self.init_fd = sealed.open_sealed("docker-init", pidone.LISTINGS)
        return self.init_fd

    def _pipes(
        self, request: dict[str, Any], site: compose.Site, theirs: list[int], ours: list[int]
    ) -> list[str]:
        streams = ["out", "err"]
        stdin = self.null
        ends = []
        for _ in streams:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            ours.append(reader)
            theirs.append(writer)
            ends.append(writer)
        if request["stdin_open"]:
            stdin, writer = os.pipe2(os.O_CLOEXEC)
            theirs.append(stdin)
            ours.append(writer)
            streams.append("in")
        site.stdio = (stdin, ends[0], ends[1])
        return streams

    def _terminal(
        self, settings: dict[str, Any], site: compose.Site, theirs: list[int], ours: list[int]
    ) -> list[str]:
        gid = userns.TTY_GID
        if site.userns is not None:
            _, gid = site.userns.ids.outside(0, gid)
        options = {"ptmxmode": "0666", "mode": "0620", "gid": str(gid)}
        site.devpts_fd = kernel.new_devpts(options)
        theirs.append(site.devpts_fd)
        master, slave = kernel.open_pty(site.devpts_fd)
        ours.append(master)
        theirs.append(slave)
        set_size(master, settings.get("consoleSize") or {})
        site.stdio = (slave, slave, slave)
        return ["tty"]

    def execute(
        self,
        settings: dict[str, Any],
        target: tuple[int, int],
        group: Group,
        tasks: list[str],
        bpf: bytes,
        stdio: list[int],
    ) -> Entrant:
        """Start another process in the container whose (pid, pidfd) is `target`."""
        pid, pidfd = target
        entrant = Entrant(settings["args"])
        theirs = [entrant.report_fd]
        try:
            mapped = userns.of_other(pid)
            if settings.get("terminal"):
                entrant.master, slave = _terminal_of(pid)
                theirs.append(slave)
                set_size(entrant.master, settings.get("consoleSize") or {})
                stdio = [slave, slave, slave]
            elif len(stdio) != 3:
                stdio = [self.null, self.null, self.null]
            if mapped:
                userns.give(userns.ids_of(pid), stdio, settings.get("user") or {})
            door = self._door(settings, bpf, entrant.report_fd)
            plan, joined, pid_ns = Plan(), _CHILD_NAMESPACES, -1
            if door is None:
                plan.call("setsid")
                pid_ns = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
                theirs.append(pid_ns)
            else:
                joined |= kernel.CLONE_NEWPID
            for path in tasks:
                plan.call("openat", kernel.AT_FDCWD, path, os.O_WRONLY | os.O_CLOEXEC, 0, slot=6)
                plan.call("write", Slot(6), "0", 1, label=f"enter cgroup {path}")
                plan.call("close", Slot(6))
            process.adjust_oom_score(plan, settings)
            if mapped:
                process.limit(plan, settings, entrant.warnings)
                joined |= kernel.CLONE_NEWUSER
            plan.call("setns", pidfd, joined, label="join namespaces")
            if mapped:
                process.become_root(plan)
            plan.call("umask", 0)
            process.open_root(plan)
            given = (stdio[0], stdio[1], stdio[2])
            process.finish(
                plan, settings, given, bpf, entrant.warnings, make_cwd=False, door=door,
                mapped=mapped,
            )  # fmt: skip
            entrant.labels = plan.labels
            keep = [*stdio, pidfd, self.usher_fd]
            cloned = self.clone(plan, entrant.report_fd, keep, 0, group, pid_ns)
            entrant.cloned(*cloned, inside=door is None)
        except BaseException:
            entrant.close()
            raise
        finally:
            wire.close_all(theirs)
        return entrant

    def _door(self, settings: dict[str, Any], bpf: bytes, report_fd: int) -> process.Door | None:
        """Return the usher; None where the seccomp profile would not let it do its work."""
        needs = [*usher.NEEDS, *([usher.TERMINAL_NEED] if settings.get("terminal") else [])]
        refused = next((need[0] for need in needs if bpf and not seccomp.allows(bpf, *need)), "")
        if not refused:
            if self.usher_fd < 0:
                self.usher_fd = sealed.open_sealed("exec", usher.LISTINGS)
            return process.Door(self.usher_fd, report_fd)
        if "CAP_SYS_PTRACE" in ((settings.get("capabilities") or {}).get("bounding") or []):
            raise Unsupported(
                f"exec with CAP_SYS_PTRACE needs the call {refused}, which the container's seccomp "
                "profile refuses: its processes could trace the fork server's"
            )
        return None


def _report_of(site: compose.Site) -> tuple[int, int]:
    """Return the ends of what a child reports to."""
    if site.userns is None:
        return os.pipe2(os.O_CLOEXEC)
    near, far = entering.open_report()
    return near.detach(), far


def _await_birth(report: int, pidfd: int, labels: list[str], args: list[str]) -> tuple[int, int]:
    """Return (pid, pidfd) of the child's own child, the container's first process."""
    ready = select.poll()
    ready.register(report, select.POLLIN)
    told, pid = b"", 0
    with socket.socket(fileno=os.dup(report)) as near:
        if ready.poll(_BIRTH_MS):
            told, pid = entering.read_report(near)
        os.close(pidfd)
        if len(told) == 1:
            with contextlib.suppress(ProcessLookupError):
                return pid, os.pidfd_open(pid)
            told, _ = entering.read_report(near)  # it has failed meanwhile
    raise StartFailed(process.report_words(told, labels, args))


def set_size(master: int, size: dict[str, int]) -> None:
    """Set a terminal's rows and columns from an OCI consoleSize object."""
    import termios

    if size.get("height") and size.get("width"):
        termios.tcsetwinsize(master, (size["height"], size["width"]))


def _co_mounted(group: Group, tasks: list[str]) -> list[str]:
    """Return v1 hierarchies the child joined, as mount options (`cpu,cpuacct`)."""
    joined = {os.path.dirname(path) for path in tasks}
    by_directory: dict[str, list[str]] = {}
    for name in group.layout.v1:
        if group.v1(name) in joined:
            by_directory.setdefault(group.v1(name), []).append(name)
    return [",".join(sorted(names)) for names in by_directory.values()]


def _terminal_of(pid: int) -> tuple[int, int]:
    """Open a new terminal in a running container's own devpts."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    devpts = -1
    try:
        rules = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS
        devpts = kernel.openat2(root, "dev/pts", os.O_PATH | os.O_DIRECTORY, rules)
        if kernel.filesystem_magic(devpts) != kernel.DEVPTS_SUPER_MAGIC:
            raise StartFailed("/dev/pts of the container is not a devpts: no terminal to give")
        master, slave = kernel.open_pty(devpts)
    finally:
        with contextlib.suppress(OSError):
            os.close(root)
            if devpts >= 0:
                os.close(devpts)
    if not stat.S_ISCHR(os.fstat(slave).st_mode):
        wire.close_all([master, slave])
        raise Unsupported("terminal of the container is not a character device")
    return master, slave

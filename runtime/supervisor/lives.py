"""The lives of containers: cloned, followed to their end, probed, started again, taken over."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from runtime import errors
from runtime.supervisor import demands, launch, process, wire
from runtime.supervisor.cgroups import Group, Layout, detect
from runtime.supervisor.container import Container
from runtime.supervisor.entering import Entrant
from runtime.supervisor.health import Health, HealthCheck
from runtime.supervisor.journal import Journal
from runtime.supervisor.loop import Loop
from runtime.supervisor.probing import Prober
from runtime.supervisor.profiles import Profiles
from runtime.supervisor.requests import Requests
from runtime.supervisor.restart import (
    LONGEST_DELAY_S,
    RestartPolicy,
    next_delay_s,
    should_restart,
)

_NOT_STARTED = 128
_LOST = "the supervisor ended while the container ran"


class Lives:
    """All containers of the machine; `announce` is told each change of state.

    `stranger_exited` is told the exit of every process that is no container's first and no probe.
    """

    def __init__(
        self, holder: socket.socket, pump: socket.socket, state_dir: str, layout: Layout,
        loop: Loop, announce: Callable[[Container], None],
        stranger_exited: Callable[[int, int], None],
    ) -> None:  # fmt: skip
        self.holder, self.pump, self.layout, self.loop = holder, pump, layout, loop
        self.announce, self.stranger_exited = announce, stranger_exited
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            self.boot_id = file.read().strip()
        self.launcher = launch.Launcher()
        self.journal = Journal(f"{state_dir}/supervisor.journal")
        self.requests = Requests(f"{state_dir}/launches")
        self.profiles = Profiles(f"{state_dir}/seccomp")
        self.prober = Prober(loop, self.execute, self.changed)
        self.containers: dict[str, Container] = {}
        self.by_pid: dict[int, str] = {}
        self.starting: dict[str, Callable[[], None]] = {}
        self.failures: dict[str, Callable[[], None]] = {}
        self.entering: dict[Entrant, Callable[[Entrant], None]] = {}
        self.ending: set[str] = set()
        self.unremoved: dict[str, Layout] = {}

    def adopt(self) -> None:
        """Take over what the holder kept and settle what did not survive."""
        exits: list[dict[str, Any]] = []
        known: set[str] = set()
        for key, record in self.journal.records.items():
            self.containers[key] = Container.from_record(record)
        self._end_unrecorded()
        self.requests.keep_only(self.containers)
        while True:
            message, fds = wire.receive(self.holder)
            if message is None or message["op"] == "go":
                break
            if message["op"] == "exit":
                exits.append(message)
                continue
            container = self.containers.get(message["id"])
            if container is None or container.status == "stopped":
                wire.close_all(fds)
                wire.send(self.holder, {"op": "drop", "id": message["id"]})
                wire.send(self.pump, {"op": "finish", "id": message["id"]})
                continue
            known.add(container.id)
            self._take_over(container, message["streams"], fds)
        for container in self.containers.values():
            if container.status != "stopped" and container.id not in known:
                self._lost(container)
        self.end_strangers()
        for message in exits:
            self.exited(message)

    def _take_over(self, container: Container, streams: list[str], fds: list[int]) -> None:
        for name, fd in zip(streams, fds, strict=True):
            if name == "pidfd" and container.has_process:
                container.pidfd = fd
            elif name == "tty" and container.has_process:
                container.master = fd
            elif name == "netns":
                container.netns_fd = fd
            else:
                os.close(fd)
        if container.status == "restarting":
            if "pidfd" in streams:  # the end before or the start after it is not in the journal
                self.group(container).kill()
                wire.send(self.pump, {"op": "finish", "id": container.id})
            self._await_restart(container)
            return
        self.by_pid[container.pid] = container.id
        with contextlib.suppress(OSError, ValueError):
            self._read_check(container, self.requests.get(container.id))
        self.prober.begin(container)

    def _lost(self, container: Container) -> None:
        group = self.group(container)
        group.kill()
        self.unremoved[container.id] = group.layout
        container.status, container.exit_code, container.error = "stopped", None, _LOST
        container.finished_ns = time.time_ns()
        self.journal.put(container.id, container.record())

    def strangers(self) -> list[str]:
        """Return the names of cgroups that belong to no container and are not on their way out."""
        # every hierarchy: a removal may have been cut short between two of them
        bases = {*self.layout.v1.values(), self.layout.v2} - {""}
        found = {e.name for base in bases for e in os.scandir(base) if e.is_dir()}
        return sorted(found - {"supervisor", *self.containers, *self.unremoved})

    def end_strangers(self) -> None:
        """End what a crash left between clone and journal: cgroups nobody answers for."""
        for name in self.strangers():
            Group(self.layout, name).kill()
            self.unremoved[name] = self.layout

    def _end_unrecorded(self) -> None:
        """End what a crash left there below a parent of its own; only its request tells of it."""
        for name in self.requests.names() - set(self.containers):
            with contextlib.suppress(OSError, ValueError, errors.RuntimeFailure):
                parent = _cgroup_parent(self.requests.get(name))
                if parent:
                    group = Group(detect(parent, self.layout.bpf_devices), name)
                    group.kill()
                    self.unremoved[name] = group.layout

    def sweep(self) -> None:
        """Try again to remove the cgroups whose processes were not gone yet."""
        for name, layout in list(self.unremoved.items()):
            if Group(layout, name).remove():
                del self.unremoved[name]

    def group(self, container: Container) -> Group:
        """Return the container's cgroups."""
        layout = self.layout if container.layout is None else Layout.from_dict(container.layout)
        return Group(layout, container.id)

    # ---- starts ----------------------------------------------------------------------------

    def start(
        self, request: dict[str, Any], fds: list[int],
        started: Callable[[Container], None], failed: Callable[[Container], None],
    ) -> None:  # fmt: skip
        """Start a new container; one of the two is called once its fate is known.

        Raises RuntimeFailure or OSError when it fails at once.
        """
        demands.check_start(request)
        name = request["container"]
        if name in self.containers:
            raise errors.ContainerExists(name)
        if name == "supervisor" or "/" in name or name in ("", ".", ".."):
            raise errors.Unsupported(f"container id {name!r} is not a usable name")
        policy = RestartPolicy(**request["restart"])
        container = Container(name, "created", self.boot_id, policy=policy)
        if parent := _cgroup_parent(request):
            container.layout = detect(parent, self.layout.bpf_devices).as_dict()
        container.netns_fd = _netns_of(request["netns"], fds)
        self.requests.put(name, request)

        def gave_up() -> None:
            self._forget(container)
            failed(container)

        try:
            self._launch(container, request, lambda: started(container), gave_up)
        except BaseException:
            self._forget(container)
            raise
        self.containers[name] = container

    def _forget(self, container: Container) -> None:
        wire.close_all([container.netns_fd])
        self.containers.pop(container.id, None)
        self.requests.drop(container.id)

    def _launch(
        self, container: Container, request: dict[str, Any],
        started: Callable[[], None], failed: Callable[[], None],
    ) -> None:  # fmt: skip
        """Clone the first process; `started` or `failed` is called once its fate is known."""
        name, key = container.id, request["seccomp"]
        bpf = self.profiles.get(key)
        if key and not bpf:
            raise errors.StartFailed(f"seccomp profile {key} was not sent before")
        group = self.group(container)
        warnings: list[str] = []
        self.unremoved.pop(name, None)
        try:
            child, tasks = self.launcher.start(request, group, bpf, container.netns_fd, warnings)
        except BaseException:  # also what a malformed bundle leads to
            self._remove_group(group)
            wire.send(self.pump, {"op": "forsake", "id": name})
            raise
        settings = request["config"]["process"]
        container.status, container.pid, container.started_ns = "created", child.pid, time.time_ns()
        container.finished_ns, container.exit_code, container.error = 0, None, ""
        container.oom_killed, container.warnings, container.tasks = False, warnings, tasks
        container.terminal, container.bpf_key = bool(settings.get("terminal")), key
        container.pidfd, container.master = child.pidfd, child.master
        container.args, container.health = settings["args"], None
        self._read_check(container, request)
        container.stop_signal = process.stop_signal_of(request["config"])
        log = request["log"]
        self._keep(container, ["pidfd", *child.streams], [child.pidfd, *child.stream_fds], log)
        add = {"op": "add", "id": name, "streams": child.streams, "log": log}
        wire.send(self.pump, add, child.stream_fds)
        wire.close_all([fd for fd in child.stream_fds if fd != child.master])
        self.by_pid[child.pid] = name
        self.journal.put(name, container.record() | {"status": "running"})
        with contextlib.suppress(BrokenPipeError):  # a child that has failed already
            os.write(child.gate_fd, b"1")  # it is on record: nobody will start it twice
        os.close(child.gate_fd)

        def reported() -> None:
            report = self.take_report(child.report_fd)
            del self.starting[name]
            if report:
                container.error = process.report_words(report, child.labels, container.args)
                self.failures[name] = failed  # told once its exit has left nothing behind
                return
            container.status = "running"
            started()
            self.announce(container)
            self.prober.begin(container)

        self.starting[name] = reported
        self.loop.watch(child.report_fd, reported)

    def _keep(
        self, container: Container, streams: list[str], fds: list[int], log: dict[str, Any]
    ) -> None:
        """Let the holder keep these descriptors instead of what it had of the container."""
        if container.netns_fd >= 0:
            streams, fds = [*streams, "netns"], [*fds, container.netns_fd]
        message = {"op": "keep", "id": container.id, "streams": streams, "log": log}
        wire.send(self.holder, message | {"stop_signal": container.stop_signal}, fds)

    @staticmethod
    def _read_check(container: Container, request: dict[str, Any]) -> None:
        check = request.get("health")
        container.check = None if check is None else HealthCheck(**check)
        if container.check is not None and container.health is None:
            container.health = Health()

    def take_report(self, fd: int) -> bytes:
        """Read and close the report of a child that has made one or was executed."""
        self.loop.forget(fd)
        report = os.read(fd, 8)
        os.close(fd)
        return report

    # ---- ends ------------------------------------------------------------------------------

    def exited(self, message: dict[str, Any]) -> None:
        """Take the exit of any process, as the holder reaped it."""
        pid, status = message["pid"], message["status"]
        name = self.by_pid.pop(pid, None)
        code = os.waitstatus_to_exitcode(status)
        code = 128 - code if code < 0 else code
        if name is None:
            for entrant in list(self.entering):  # it may have told of itself only just now
                self._heard(entrant)
                if entrant.pid == pid and entrant in self.entering:
                    self._entered(entrant)
            if not self.prober.exited(pid, code):
                self.stranger_exited(pid, code)
            wire.send(self.holder, {"op": "ack", "pid": pid})
            return
        if name in self.starting:
            self.starting[name]()  # its report is there: the child is dead
        container = self.containers[name]
        group = self.group(container)
        self.prober.stop(container)
        container.exit_code, container.finished_ns = code, time.time_ns()
        container.oom_killed = group.oom_kills() > 0
        if container.pidfd >= 0:
            os.close(container.pidfd)
            container.pidfd = -1
        self.ending.add(name)
        wire.send(self.pump, {"op": "finish", "id": name})
        self._remove_group(group)

    def _remove_group(self, group: Group) -> None:
        if group.processes():
            group.kill()
        if not group.remove():
            self.unremoved[group.name] = group.layout

    def pump_said(self) -> None:
        """Take a message of the pump."""
        message, fds = wire.receive(self.pump)
        wire.close_all(fds)
        if message is None:
            return
        name = message["id"]
        container = self.containers.get(name)
        if message["op"] == "stdin-closed":
            wire.send(self.holder, {"op": "drop-stdin", "id": name})
        elif message["op"] == "warn" and container is not None:
            container.warnings.append(message["text"])
        elif message["op"] == "finished" and container is not None and name in self.ending:
            self.ending.discard(name)
            if container.master >= 0:
                os.close(container.master)
                container.master = -1
            pid, failed = container.pid, self.failures.pop(name, None)
            if failed is None:
                self._settle(container)
            else:
                failed()
            if name not in self.containers:
                self.journal.put(name, None)
                wire.send(self.holder, {"op": "drop", "id": name})
            wire.send(self.holder, {"op": "ack", "pid": pid})

    # ---- restarts --------------------------------------------------------------------------

    def _settle(self, container: Container) -> None:
        """Decide what becomes of a container that has ended, or could not be started again."""
        again = should_restart(container.policy, container.exit_code or 0, container.restart_count)
        if container.stop_asked or not again:
            self._stopped(container)
            return
        ran_s = (container.finished_ns - container.started_ns) / 1e9
        container.restart_delay_s = next_delay_s(container.restart_delay_s, ran_s)
        container.next_start_ns = time.time_ns() + int(container.restart_delay_s * 1e9)
        container.status = "restarting"
        self.changed(container)
        self._await_restart(container)

    def _stopped(self, container: Container) -> None:
        container.status = "stopped"
        wire.close_all([container.netns_fd])
        container.netns_fd = -1
        self.changed(container)
        wire.send(self.holder, {"op": "drop", "id": container.id})

    def _await_restart(self, container: Container) -> None:
        self._keep(container, [], [], {})
        due_ns = container.next_start_ns
        delay_s = min((due_ns - time.time_ns()) / 1e9, LONGEST_DELAY_S)
        self.loop.after(max(delay_s, 0), partial(self._restart, container, due_ns))

    def _restart(self, container: Container, due_ns: int) -> None:
        if container.status != "restarting" or container.next_start_ns != due_ns:
            return
        container.restart_count += 1

        def failed() -> None:
            self._settle(container)

        try:
            request = self.requests.get(container.id)
            self._launch(container, request, lambda: None, failed)
        except (errors.RuntimeFailure, OSError, ValueError, KeyError) as error:
            container.error, container.exit_code = str(error), _NOT_STARTED
            container.started_ns = container.finished_ns = time.time_ns()
            self._settle(container)

    def end(self, container: Container) -> None:
        """Start the container no more: someone asked for its end."""
        container.stop_asked = True
        if container.status == "restarting":
            self._stopped(container)
        else:
            self.journal.put(container.id, container.record())

    def set_policy(self, container: Container, policy: RestartPolicy) -> None:
        """Decide otherwise what follows the container's end."""
        container.policy = policy
        code = container.exit_code or 0
        if container.status == "restarting" and not should_restart(
            policy, code, container.restart_count
        ):
            self._stopped(container)
        else:
            self.journal.put(container.id, container.record())

    def changed(self, container: Container) -> None:
        """Make the container's state durable and known."""
        self.journal.put(container.id, container.record())
        self.announce(container)

    def forget(self, container: Container) -> None:
        """Drop a container that is stopped."""
        self.journal.put(container.id, None)
        self._forget(container)

    def execute(
        self, container: Container, settings: dict[str, Any], fds: list[int],
        known: Callable[[Entrant], None],
    ) -> None:  # fmt: skip
        """Start a further process; `known` is called once it runs or has failed to.

        Raises RuntimeFailure or OSError when it fails at once.
        """
        entrant = self.launcher.execute(
            settings, (container.pid, container.pidfd), self.group(container), container.tasks,
            self.profiles.get(container.bpf_key), fds,
        )  # fmt: skip
        self.entering[entrant] = known
        self.loop.watch(entrant.report.fileno(), partial(self._heard, entrant))

    def _heard(self, entrant: Entrant) -> None:
        if entrant.hear():
            self._entered(entrant)

    def _entered(self, entrant: Entrant) -> None:
        self.loop.forget(entrant.report.fileno())
        self.entering.pop(entrant)(entrant)
        entrant.close()


def _cgroup_parent(request: dict[str, Any]) -> str:
    """Return the absolute parent that OCI's cgroupsPath asks for, empty for the machine's."""
    linux = request["config"].get("linux")
    path = str((linux.get("cgroupsPath") if isinstance(linux, dict) else "") or "")
    parent, _, name = path.rpartition("/")
    if path and (name != request["container"] or not parent.startswith("/") or "/../" in path):
        raise errors.Unsupported(
            f"linux.cgroupsPath {path} is not an absolute parent and the container's id"
        )
    return parent


def _netns_of(mode: str, fds: list[int]) -> int:
    """Return a descriptor of the namespace that is given, to start in it again; -1 for others."""
    if mode == "fd":
        return os.dup(fds[0])
    if mode.startswith("container:"):
        pid = int(mode.partition(":")[2])
        return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    return -1

"""Boot, kill and enter a lab node: one set of net, pid, mnt, uts, ipc and cgroup namespaces."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket as sockets
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import cgroups
import kernel
import network
from layout import NODE_DIRS, RUN_ROOT, STATE_ROOT, Lab, LabError, locked

ALL_NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWCGROUP
)
DAEMONS = {"swarmd", "swarm-manager", "worker.main", "manager.main"}
INIT = Path(__file__).resolve().parent / "node_init.py"
STOP_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 30.0
HOST = "unix:///run/swarm/swarmd.sock"


def boot(lab: Lab, node: str) -> None:
    """Start a node that is off: namespaces, cgroups, link, pid 1. Raises LabError if it runs."""
    if running_pid(lab, node) is not None:
        raise LabError(f"node {node} is running: use `restart {node}` or `kill {node}` first")
    cut_power(lab, node)  # what an interrupted kill or boot left behind
    for part, inside in NODE_DIRS.items():
        lab.disk(node, part).mkdir(parents=True, exist_ok=True)
        Path(inside).mkdir(parents=True, exist_ok=True)  # the mount points; empty on the host
    write_hosts(lab, node)
    network.plug(lab, node)
    leaves = cgroups.create(lab.name, node)
    pid = _fork_init(lab, node, leaves)
    lab.pid_file(node).write_text(f"{pid} {start_time(pid)}")


def write_hosts(lab: Lab, node: str) -> None:
    """Write the node's /etc/hosts: every node of the lab by name."""
    lines = ["127.0.0.1 localhost"] + [f"{lab.address(name)} {name}" for name in lab.nodes]
    (lab.state_dir / node / "hosts").write_text("\n".join(lines) + "\n")


def _fork_init(lab: Lab, node: str, leaves: dict[str, Path]) -> int:
    """Fork the node's pid 1 and return its pid outside, once its namespaces are complete.

    A launcher child does the unsharing, so that this process stays where it is; it hands the pid
    of its own child (pid 1) back through a pipe, which pid 1 closes by executing the init.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    launcher = os.fork()
    if launcher == 0:
        try:
            os.setsid()
            _launch(lab, node, leaves, writer)
        except BaseException as error:  # noqa: BLE001 (a forked child must not return)
            os.write(writer, f"!{error}".encode())
            os._exit(1)
    os.close(writer)
    answer = b""
    while chunk := os.read(reader, 4096):
        answer += chunk
    os.close(reader)
    os.waitpid(launcher, 0)
    text = answer.decode()
    if "!" in text or not text:
        raise RuntimeError(f"node {node} does not boot: {text.rpartition('!')[2] or 'no answer'}")
    return int(text)


def _launch(lab: Lab, node: str, leaves: dict[str, Path], writer: int) -> NoReturn:
    """Leave the host's namespaces, fork pid 1 and report its pid."""
    log = os.open(lab.log(node), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    for leaf in leaves.values():
        cgroups.join(leaf)  # before the cgroup namespace: its root is where we are then
    netns = os.open(kernel.NETNS_DIR / lab.netns(node), os.O_RDONLY | os.O_CLOEXEC)
    kernel.setns(netns, kernel.CLONE_NEWNET)
    kernel.unshare(ALL_NAMESPACES & ~kernel.CLONE_NEWNET)
    if "" in leaves:  # in v2 a cgroup with processes hands no controllers on: leave its root
        init = leaves[""] / "init"
        init.mkdir()
        cgroups.join(init)
    pid = os.fork()
    if pid != 0:
        os.write(writer, str(pid).encode())
        os._exit(0)
    try:
        sockets.sethostname(node)
        _mount_everything(lab, node, leaves)
        for number, fd in enumerate((null, log, log)):
            os.dup2(fd, number)
        os.chdir("/")
        command = [f"{lab.bin_dir}/swarmd", "--data-root", NODE_DIRS["lib"]]
        command += ["--run-dir", NODE_DIRS["run"], "--advertise-addr", lab.address(node)]
        command += ["--insecure-registry", f"{lab.address(node)}/24"]  # its own have no TLS
        os.execve(sys.executable, [sys.executable, "-I", str(INIT), *command], environment(lab))
    except BaseException as error:  # noqa: BLE001 (a forked child must not return)
        os.write(writer, f"!{error}".encode())
    os._exit(1)


def environment(lab: Lab) -> dict[str, str]:
    """Return the environment of the processes of a node."""
    kept = {name: os.environ[name] for name in ("TERM", "LANG", "HOME") if name in os.environ}
    path = f"{lab.bin_dir}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {**kept, "PATH": path, "SWARM_HOST": HOST, "SWARM_LAB": lab.name}


def _mount_everything(lab: Lab, node: str, leaves: dict[str, Path]) -> None:
    """Give the node its own view: /proc, /sys, cgroups, state directories, hosts, no netns names.

    Runs as pid 1 in the fresh mount namespace.
    """
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    _forget_foreign_namespaces()
    held = {name: os.open(leaf, os.O_PATH | os.O_CLOEXEC) for name, leaf in leaves.items()}
    kernel.mount("proc", "/proc", "proc")
    kernel.mount("sysfs", "/sys", "sysfs")  # a fresh one shows this network namespace
    if "" not in held:
        kernel.mount("tmpfs", str(cgroups.ROOT), "tmpfs", data="mode=755,size=64k")
    for name, fd in held.items():
        target = cgroups.ROOT / name
        target.mkdir(exist_ok=True)
        kernel.mount(f"/proc/self/fd/{fd}", str(target), flags=kernel.MS_BIND)
        os.close(fd)
    if "" in leaves:
        cgroups.enable_controllers(cgroups.ROOT)
    for part, inside in NODE_DIRS.items():
        kernel.mount(str(lab.disk(node, part)), inside, flags=kernel.MS_BIND)
    kernel.mount(str(lab.state_dir / node / "hosts"), "/etc/hosts", flags=kernel.MS_BIND)
    kernel.NETNS_DIR.mkdir(exist_ok=True)
    kernel.mount("tmpfs", str(kernel.NETNS_DIR), "tmpfs", data="mode=755,size=1m")


def _forget_foreign_namespaces() -> None:
    """Unmount the inherited nsfs mounts: each would keep a namespace of another node alive."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "nsfs":
            # Who removes a mount point elsewhere has unmounted it here as well.
            with suppress(FileNotFoundError):
                kernel.unmount(before.split()[4])


def start_time(pid: int) -> str:
    """Return the start time that tells a pid from its later reuse: proc(5) field 22."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def running_pid(lab: Lab, node: str) -> int | None:
    """Return pid 1's pid as seen from outside, None where the node is off."""
    try:
        pid, started = lab.pid_file(node).read_text().split()
        return int(pid) if start_time(int(pid)) == started else None
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None


def require_running(lab: Lab, node: str) -> int:
    """Return pid 1's pid; raises LabError where the node is off."""
    pid = running_pid(lab, lab.require(node))
    if pid is None:
        raise LabError(f"node {node} is off: run `lab --name {lab.name} start {node}`")
    return pid


def cut_power(lab: Lab, node: str) -> None:
    """Kill everything in the node at once; the link goes first, so that no peer hears a goodbye."""
    network.unplug(lab, node)
    cgroups.thaw(lab.name, node)
    pid = running_pid(lab, node)
    if pid is not None:
        _kill_and_wait([pid], signal.SIGKILL, KILL_TIMEOUT_S)
    left = cgroups.processes(lab.name, node)  # a boot that was interrupted before its pid file
    _kill_and_wait(sorted(left), signal.SIGKILL, KILL_TIMEOUT_S)
    cgroups.remove(lab.name, node)
    kernel.delete_netns(lab.netns(node))
    lab.pid_file(node).unlink(missing_ok=True)
    shutil.rmtree(lab.disk(node, "run"), ignore_errors=True)


def _kill_and_wait(pids: list[int], number: signal.Signals, timeout_s: float) -> list[int]:
    """Signal processes and wait for their end; return those that still run after the time-out."""
    fds = {}
    for pid in pids:
        try:
            fds[os.pidfd_open(pid)] = pid
        except ProcessLookupError:
            continue
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + timeout_s
    while fds and (rest_s := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(rest_s * 1000):
            poll.unregister(fd)
            os.close(fd)
            del fds[fd]
    for fd in fds:
        os.close(fd)
    return list(fds.values())


def daemons(lab: Lab, node: str) -> list[int]:
    """Return the pids of swarmd and its manager, not of the supervisor or of containers."""
    init = require_running(lab, node)
    own = os.readlink(f"/proc/{init}/ns/pid")
    found = []
    for pid in cgroups.processes(lab.name, node) - {init}:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            same = os.readlink(f"/proc/{pid}/ns/pid") == own
        except (FileNotFoundError, ProcessLookupError):
            continue
        if same and {word.rpartition("/")[2] for word in words[:6]} & DAEMONS:
            found.append(pid)
    return sorted(found)


def restart_daemons(lab: Lab, node: str) -> None:
    """Stop swarmd and its manager, SIGKILL after STOP_TIMEOUT_S, and start swarmd again."""
    init = require_running(lab, node)
    os.kill(init, signal.SIGUSR1)
    try:
        stubborn = _kill_and_wait(daemons(lab, node), signal.SIGTERM, STOP_TIMEOUT_S)
        _kill_and_wait(stubborn + daemons(lab, node), signal.SIGKILL, KILL_TIMEOUT_S)
    finally:
        os.kill(init, signal.SIGUSR2)


def enter(lab: Lab, node: str, command: list[str]) -> int:
    """Run a command in all namespaces and cgroups of a node and return its exit code."""
    init = os.pidfd_open(require_running(lab, node))
    for name, mounted in cgroups.hierarchies().items():
        leaf = mounted / cgroups.PARENT / lab.name / node
        cgroups.join(leaf / "init" if name == "" else leaf)
    kernel.setns(init, ALL_NAMESPACES)
    os.close(init)
    return run_child(command, environment(lab))


def run_child(command: list[str], env: dict[str, str]) -> int:
    """Fork, execute, hand signals on and return the exit code as a shell would say it."""
    pid = os.fork()
    if pid == 0:
        try:
            os.execvpe(command[0], command, env)
        except OSError as error:
            os.write(2, f"lab: {command[0]}: {error.strerror}\n".encode())
        os._exit(127)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda received, _: os.kill(pid, received))
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def remove_lab_directories(lab: Lab) -> None:
    """Delete the lab's disks and sockets, and with the last lab the shared directories.

    Removing a mount point unmounts it in every other lab's namespace, so they stay till then.
    """
    for disk in lab.state_dir.iterdir():
        if disk.is_dir():  # large ones take minutes, for which nobody is to wait at the lock
            shutil.rmtree(disk)
    with locked():
        shutil.rmtree(lab.run_dir, ignore_errors=True)
        shutil.rmtree(lab.state_dir)
        cgroups.remove_parent_if_empty()
        for path in (RUN_ROOT, STATE_ROOT):
            with suppress(OSError):
                path.rmdir()
        if STATE_ROOT.exists():
            return
        for path in map(Path, NODE_DIRS.values()):
            with suppress(OSError):  # a swarmd of the machine itself lives there
                path.rmdir()

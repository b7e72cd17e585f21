"""From an OCI configuration to the plan of a container's first process.

The overlay is mounted in the container's own mount namespace: mounts of the host stay flat however
many containers run. A running container's merged tree is seen through /proc/PID/root.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import StartFailed, SysError, Unsupported
from runtime.supervisor import demands, kernel, process, userns
from runtime.supervisor.kernel import AT_FDCWD
from runtime.supervisor.plan import EXISTS_OK, MISSING_OK, NOT_OPEN, Plan, Slot
from runtime.supervisor.process import _FILE_SLOT
from runtime.supervisor.process import _ROOT_SLOT as ROOT

_MOUNT_SLOT, _OLD_SLOT, _EARLY_SLOT = 4, 5, 7
_MAX_OVERLAY_OPTIONS = 4000  # mount(2) copies one page
_NEUTRAL = {"rw", "suid", "dev", "exec", "async", "atime", "defaults", "bind", "rbind"}
_PROPAGATION = {
    "private": kernel.MS_PRIVATE,
    "rprivate": kernel.MS_PRIVATE,
    "slave": kernel.MS_SLAVE,
    "rslave": kernel.MS_SLAVE,
    "shared": kernel.MS_SHARED,
    "rshared": kernel.MS_SHARED,
}
_ATTRIBUTES = {
    "ro": kernel.MOUNT_ATTR_RDONLY,
    "nosuid": kernel.MOUNT_ATTR_NOSUID,
    "nodev": kernel.MOUNT_ATTR_NODEV,
    "noexec": kernel.MOUNT_ATTR_NOEXEC,
}
_RECURSIVE = {f"r{word}": bit for word, bit in _ATTRIBUTES.items()}
"""Of a bind and of every mount below it (OCI's rro and its kin)."""
_NAMESPACES = {
    "pid": kernel.CLONE_NEWPID,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
    "mount": kernel.CLONE_NEWNS,
    "network": kernel.CLONE_NEWNET,
    "cgroup": kernel.CLONE_NEWCGROUP,
}
_KERNEL = ("/proc/", "/sys/")
"""Where a container sees what the host sees: what is missing here is missing there."""
_IN_PROC = frozenset((
    "/proc/cpuinfo", "/proc/diskstats", "/proc/loadavg", "/proc/meminfo", "/proc/net/dev",
    "/proc/slabinfo", "/proc/stat", "/proc/swaps", "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid", "/proc/uptime",
))  # fmt: skip
"""What may be mounted over, as runc has it; the rest of /proc must be the kernel's word."""
_FRESH = {"proc", "sysfs", "tmpfs", "devpts", "mqueue"}
_DEVICES = (
    ("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9),
    ("tty", 5, 0),
)  # fmt: skip
_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)


@dataclass
class Site:
    """What the supervisor prepared for one container; descriptors are its to close."""

    stdio: tuple[int, int, int]
    tasks: list[str]
    bpf: bytes
    v1_groups: list[str] = field(default_factory=list)  # co-mounted v1 controllers, "cpu,cpuacct"
    has_v2: bool = True
    overlay: dict[str, Any] | None = None
    netns: str = "new"
    netns_fd: int = -1
    devpts_fd: int = -1
    init_fd: int = -1
    gate: tuple[int, int] = (-1, -1)  # pipe by which the child is given leave to run its program
    userns: userns.UserNamespace | None = None
    report_fd: int = -1
    early: dict[str, int] = field(default_factory=dict)  # destination → slot of a detached mount
    warnings: list[str] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)  # opened while composing, closed after clone


@dataclass
class Composed:
    """A plan with the flags and the pid namespace (or -1) its clone needs."""

    plan: Plan
    flags: int
    pid_ns_fd: int


def compose(config: dict[str, Any], site: Site) -> Composed:
    """Build the plan; raises StartFailed, Unsupported or SysError."""
    linux, root = config.get("linux") or {}, config.get("root") or {}
    demands.check_bundle(config)
    _refuse(linux)
    plan = Plan()
    # so that it sees the end of who would give it leave
    plan.call("close", site.gate[1], allow=NOT_OPEN)
    if site.userns is None:
        plan.call("setsid")
    for path in site.tasks:
        plan.call("openat", AT_FDCWD, path, os.O_WRONLY | os.O_CLOEXEC, 0, slot=_FILE_SLOT)
        plan.call("write", Slot(_FILE_SLOT), "0", 1, label=f"enter cgroup {path}")
        plan.call("close", Slot(_FILE_SLOT))
    settings = config.get("process") or {}
    process.adjust_oom_score(plan, settings)
    if site.userns is not None:
        process.limit(plan, settings, site.warnings)
        plan.call("setns", site.userns.fd, kernel.CLONE_NEWUSER, label="user namespace")
        process.become_root(plan)
    flags, pid_ns_fd, late = _namespaces(plan, linux, site)
    if site.userns is not None:
        _be_born_again(plan, flags | late, pid_ns_fd, site)
    elif late:
        plan.call("unshare", late, label="cgroup namespace")
    _enter_root(plan, config, site)
    fresh = _mounts(plan, config, site)
    _devices(plan, linux, fresh, site)
    if site.devpts_fd >= 0:
        _console(plan, site)
    _proc_rules(plan, linux, site)
    hostname = config.get("hostname") or ""
    if hostname and flags & kernel.CLONE_NEWUTS:
        plan.call("sethostname", hostname, len(hostname.encode()))
    if config.get("domainname"):
        plan.call("setdomainname", config["domainname"], len(config["domainname"].encode()))
    if root.get("readonly"):
        cwd = settings.get("cwd") or "/"
        process.make_directories(plan, cwd, ROOT)
        bits = kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY
        plan.call("mount", 0, "/", 0, bits, 0, label="read-only root")
    if site.init_fd >= 0 and not flags & kernel.CLONE_NEWPID:
        raise Unsupported("--init needs a pid namespace of the container's own")
    plan.gate(site.gate[0])
    mapped = site.userns is not None
    process.finish(plan, settings, site.stdio, site.bpf, site.warnings, site.init_fd, mapped=mapped)
    return Composed(plan, 0, -1) if mapped else Composed(plan, flags, pid_ns_fd)


def _refuse(linux: dict[str, Any]) -> None:
    for namespace in linux.get("namespaces") or []:
        if namespace["type"] == "time" or (namespace["type"] == "user" and namespace.get("path")):
            raise Unsupported(f"a {namespace['type']} namespace like this is not supported")


def _namespaces(plan: Plan, linux: dict[str, Any], site: Site) -> tuple[int, int, int]:
    """Return (clone flags, pid namespace to enter before clone, flags to unshare later)."""
    flags, pid_ns_fd, late = 0, -1, 0
    for namespace in linux.get("namespaces") or []:
        kind, path = namespace["type"], namespace.get("path")
        if kind in ("network", "user"):
            continue  # Launch.netns decides, and a user namespace is its owner
        bit = _NAMESPACES[kind]
        if path:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            site.fds.append(fd)
            if kind == "pid":
                pid_ns_fd = fd
            elif kind == "mount":
                raise Unsupported("joining a mount namespace by path is not supported")
            else:
                plan.call("setns", fd, bit, label=f"join {kind} namespace")
        elif kind == "cgroup":
            late = bit  # after the child has entered its v1 cgroups
        else:
            flags |= bit
    if not flags & kernel.CLONE_NEWNS:
        raise Unsupported("a container without its own mount namespace is not supported")
    flags |= _network(plan, site)
    return flags, pid_ns_fd, late


def _network(plan: Plan, site: Site) -> int:
    """Join or make the network namespace; returns clone flags."""
    if site.netns == "new" and site.netns_fd >= 0:
        plan.call("setns", site.netns_fd, kernel.CLONE_NEWNET, label="network namespace")
    elif site.netns == "new":
        plan.call("socket", 2, 2 | os.O_CLOEXEC, 0, slot=_FILE_SLOT)
        request = plan.buffer(struct.pack("<16sh22x", b"lo", 0x41))  # IFF_UP | IFF_RUNNING
        plan.call("ioctl", Slot(_FILE_SLOT), 0x8914, request, label="bring up lo")
        plan.call("close", Slot(_FILE_SLOT))
        return kernel.CLONE_NEWNET
    elif site.netns == "fd" or site.netns.startswith("container:"):
        fd = site.netns_fd
        if fd < 0:
            pid = site.netns.partition(":")[2]
            fd = os.open(f"/proc/{int(pid)}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            site.fds.append(fd)
        plan.call("setns", fd, kernel.CLONE_NEWNET, label="join network namespace")
    elif site.netns != "host":
        raise Unsupported(f"netns {site.netns} is not one of new, host, fd, container:PID")
    return 0


def _be_born_again(plan: Plan, flags: int, pid_ns_fd: int, site: Site) -> None:
    """Make the namespaces from inside the user namespace, to which they then belong.

    Only a child is in a new pid namespace; it says so, and the kernel tells its pid to who reads.
    """
    if pid_ns_fd >= 0:
        plan.call("setns", pid_ns_fd, kernel.CLONE_NEWPID, label="join pid namespace")
    plan.call("unshare", flags, label="namespaces")
    plan.fork(kernel.CLONE_PARENT)
    plan.call("exit_group", 0)
    plan.call("write", site.report_fd, "b", 1, label="report")
    plan.call("setsid")


def _detached_kernel_mounts(plan: Plan, config: dict[str, Any], site: Site) -> None:
    """Make /proc and /sys while the host's are seen: without that no user namespace may."""
    for mount in config.get("mounts") or []:
        kind, options = mount.get("type"), mount.get("options") or []
        if kind in ("proc", "sysfs"):
            slot = site.early[os.path.normpath(mount["destination"])] = _EARLY_SLOT + len(
                site.early
            )
            plan.call("fsopen", kind, 1, slot=slot, label=f"mount {kind}")
            plan.call("fsconfig", Slot(slot), 1, "source", kind, 0, label=f"mount {kind}")
            plan.call("fsconfig", Slot(slot), 6, 0, 0, 0, label=f"mount {kind}")
            bits = _attributes(options)
            plan.call("fsmount", Slot(slot), 1, bits, slot=slot, label=f"mount {kind}")


def _attributes(options: list[str]) -> int:
    return sum(_ATTRIBUTES[option] for option in set(options) if option in _ATTRIBUTES)


def _enter_mapped_root(
    plan: Plan, config: dict[str, Any], space: userns.UserNamespace, site: Site
) -> None:
    """Go to a root made outside; its place on the host may be out of the container's reach."""
    tree = space.overlay(site.overlay) if site.overlay else space.tree(config["root"]["path"])
    site.fds.append(tree)
    _detached_kernel_mounts(plan, config, site)
    bits = kernel.MOVE_MOUNT_F_EMPTY_PATH
    plan.call("move_mount", tree, "", AT_FDCWD, "/", bits, label="mount rootfs")
    plan.call("openat", AT_FDCWD, "/", os.O_DIRECTORY | os.O_CLOEXEC, 0, slot=_OLD_SLOT)
    plan.call("fchdir", tree, label="enter rootfs")


def _enter_root(plan: Plan, config: dict[str, Any], site: Site) -> None:
    root = config.get("root") or {}
    plan.call("mount", 0, "/", 0, kernel.MS_REC | kernel.MS_PRIVATE, 0, label="private mounts")
    if site.userns is not None:
        _enter_mapped_root(plan, config, site.userns, site)
    else:
        _enter_plain_root(plan, root, site)
    plan.call("pivot_root", ".", ".")
    # the old root lies over the new one: drop it before anything of the image is resolved
    plan.call("fchdir", Slot(_OLD_SLOT))
    plan.call("umount2", ".", kernel.MNT_DETACH, label="drop old root")
    plan.call("close", Slot(_OLD_SLOT))
    plan.call("chdir", "/")
    plan.call("umask", 0)
    process.open_root(plan)


def _enter_plain_root(plan: Plan, root: dict[str, Any], site: Site) -> None:
    if site.overlay:
        target = site.overlay["merged"]
        os.makedirs(target, exist_ok=True)
        _overlay(plan, site)
    else:
        target = root.get("path") or ""
        if not os.path.isdir(target):
            raise StartFailed(f"rootfs {target}: no such directory")
        bits = kernel.MS_BIND | kernel.MS_REC
        plan.call("mount", target, target, 0, bits, 0, label=f"mount rootfs {target}")
    plan.call("openat", AT_FDCWD, "/", os.O_DIRECTORY | os.O_CLOEXEC, 0, slot=_OLD_SLOT)
    plan.call("chdir", target, label=f"enter rootfs {target}")


def _overlay(plan: Plan, site: Site) -> None:
    overlay = site.overlay or {}
    lower, upper, work = overlay["lower"], overlay["upper"], overlay["work"]
    for path in (*lower, upper, work):
        if any(letter in path for letter in ":,\\"):
            raise Unsupported(f"overlay path {path} holds one of : , \\")
    options = f"lowerdir={':'.join(lower)},upperdir={upper},workdir={work}"
    merged = overlay["merged"]
    if len(options) < _MAX_OVERLAY_OPTIONS:
        plan.call("mount", "overlay", merged, "overlay", 0, options, label="mount overlay")
        return
    context = kernel.syscall("fsopen", b"overlay", 1)
    try:
        values = [("lowerdir+", path) for path in lower] + [("upperdir", upper), ("workdir", work)]
        for key, value in values:
            kernel.syscall("fsconfig", context, 1, key.encode(), value.encode(), 0, path=value)
        kernel.syscall("fsconfig", context, 6, None, None, 0, path=merged)
        fd = kernel.syscall("fsmount", context, 1, 0)
    finally:
        os.close(context)
    site.fds.append(fd)
    empty = kernel.MOVE_MOUNT_F_EMPTY_PATH
    plan.call("move_mount", fd, "", AT_FDCWD, merged, empty, label="mount overlay")


def _mounts(plan: Plan, config: dict[str, Any], site: Site) -> set[str]:
    """Append all mounts in their order; returns the destinations that are fresh and ours."""
    fresh: set[str] = set()
    for mount in config.get("mounts") or []:
        kind = mount.get("type") or "bind"
        destination = os.path.normpath("/" + mount["destination"].lstrip("/"))
        options = mount.get("options") or []
        if kind == "bind" or "bind" in options or "rbind" in options:
            _bind(plan, mount, destination, options, site)
            continue
        if kind == "cgroup" or kind == "cgroup2":
            _cgroup_mount(plan, destination, options, site)
            continue
        if kind not in _FRESH:
            raise Unsupported(f"mount type {kind} at {destination} is not supported")
        flags, data = _flags_and_data(options)
        _mount_point(plan, destination, fresh)
        made = _made(kind, destination, config, site)
        if made is not None:
            bits = kernel.MOVE_MOUNT_F_EMPTY_PATH
            plan.call("move_mount", made, "", AT_FDCWD, ".", bits, label=destination)
        else:
            source = mount.get("source") or kind
            label = f"mount {kind} at {destination}"
            plan.call("mount", source, ".", kind, flags, data or 0, label=label)
        if "tmpcopyup" in options:
            raise Unsupported(f"tmpcopyup at {destination} is not supported")
        fresh.add(destination)
    plan.call("chdir", "/")
    return fresh


def _made(kind: str, destination: str, config: dict[str, Any], site: Site) -> int | None:
    """Return the descriptor or slot of a mount that is there already, to be moved."""
    if kind == "devpts" and site.devpts_fd >= 0:
        return site.devpts_fd
    if destination in site.early:
        return Slot(site.early[destination])
    if site.userns is None or (kind, destination) != ("tmpfs", "/dev"):
        return None
    options = next(m["options"] for m in config["mounts"] if m["destination"] == "/dev")
    basic: list[dict[str, Any]] = [
        {"path": f"/dev/{name}", "type": "c", "major": major, "minor": minor}
        for name, major, minor in _DEVICES
    ]
    nodes = basic + list((config.get("linux") or {}).get("devices") or [])
    site.fds.append(site.userns.devices(options, _attributes(options), nodes))
    return site.fds[-1]


def _mount_point(plan: Plan, destination: str, fresh: set[str]) -> None:
    """Make the destination and change into it."""
    if os.path.dirname(destination) in fresh:
        # directly below a file system we have just mounted: no link of the image is on the way
        plan.call(
            "mkdirat", AT_FDCWD, destination, 0o755, allow=EXISTS_OK | {1, 2}, label=destination
        )
        plan.call("chdir", destination, label=f"mount point {destination}")
        return
    if destination.count("/") > 1:
        process.make_directories(plan, destination, ROOT)
    else:
        plan.call("mkdirat", Slot(ROOT), destination[1:], 0o755, allow=frozenset({17, 30}))
    if destination in ("/proc", "/sys", "/dev"):
        # an image that ships one of these as a link is refused
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        plan.call("openat", Slot(ROOT), destination[1:], flags, 0, slot=_MOUNT_SLOT)
    else:
        process.resolve_directory(plan, destination, ROOT, _MOUNT_SLOT)
    plan.labels[-1] = f"mount point {destination}"
    plan.call("fchdir", Slot(_MOUNT_SLOT))
    plan.call("close", Slot(_MOUNT_SLOT))


def _flags_and_data(options: list[str]) -> tuple[int, str]:
    flags, data = 0, []
    for option in options:
        if option in kernel.MOUNT_WORDS:
            flags |= kernel.MOUNT_WORDS[option]
        elif option not in _NEUTRAL and option not in _PROPAGATION and option != "tmpcopyup":
            data.append(option)
    return flags, ",".join(data)


def _bind(
    plan: Plan, mount: dict[str, Any], destination: str, options: list[str], site: Site
) -> None:
    if f"{destination}/".startswith("/proc/") and destination not in _IN_PROC:
        raise Unsupported(f"{destination} cannot be mounted on: it is inside /proc")
    known = set(_ATTRIBUTES) | set(_RECURSIVE) | _NEUTRAL | set(_PROPAGATION) | {"idmap"}
    for option in options:
        if option not in known:
            raise Unsupported(f"bind option {option} at {destination} is not supported")
    source = mount.get("source") or ""
    recursive = "bind" not in options or "rbind" in options
    if mount.get("namespace"):
        fd, is_file = kernel.open_tree_in(mount["namespace"], source), False
    else:
        if not os.path.lexists(source):
            raise StartFailed(f"bind source {source}: no such file or directory")
        if mount.get("subpath"):
            source = _below(source, mount["subpath"], site)
        fd, is_file = kernel.open_tree(source, recursive), not os.path.isdir(source)
    site.fds.append(fd)
    if "idmap" in options:
        _map(fd, destination, site)
    attributes = _attributes(options)
    below = sum(_RECURSIVE[o] for o in set(options) if o in _RECURSIVE)
    propagation = next((_PROPAGATION[o] for o in options if o in _PROPAGATION), kernel.MS_PRIVATE)
    kernel.mount_setattr(fd, 0, True, propagation)
    if attributes:
        kernel.mount_setattr(fd, attributes, False)
    if below:
        kernel.mount_setattr(fd, below, True)
    process.make_directories(plan, destination, ROOT, leaf_is_file=is_file)
    process.resolve_any(plan, destination, ROOT, _MOUNT_SLOT)
    plan.labels[-1] = f"mount point {destination}"
    bits = kernel.MOVE_MOUNT_F_EMPTY_PATH | kernel.MOVE_MOUNT_T_EMPTY_PATH
    plan.call("move_mount", fd, "", Slot(_MOUNT_SLOT), "", bits, label=f"bind {destination}")
    plan.call("close", Slot(_MOUNT_SLOT))


def _map(fd: int, destination: str, site: Site) -> None:
    if site.userns is None:
        raise Unsupported(f"bind option idmap at {destination} needs a user namespace")
    try:
        userns.map_ids(fd, site.userns.fd)
    except SysError as error:
        raise StartFailed(
            f"mount of {destination}: its file system cannot translate ids for a user namespace "
            f"({os.strerror(error.errno).lower()}): use another one, or --userns host"
        ) from error


def _below(source: str, path: str, site: Site) -> str:
    """Return a path to what `path` is inside of `source`, whose symlinks lead nowhere else."""
    root = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    site.fds.append(root)
    within = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS
    try:
        fd = kernel.openat2(root, path, os.O_PATH | os.O_CLOEXEC, within)
    except SysError as error:
        text = os.strerror(error.errno).lower()
        raise StartFailed(f"cannot access path {source}/{path}: {text}") from error
    site.fds.append(fd)
    return f"/proc/self/fd/{fd}"


def _cgroup_mount(plan: Plan, destination: str, options: list[str], site: Site) -> None:
    """Show the container its own cgroups: v2 alone, or one directory per v1 hierarchy."""
    flags, _ = _flags_and_data(options)
    _mount_point(plan, destination, set())
    if not site.v1_groups:
        plan.call("mount", "cgroup", ".", "cgroup2", flags, 0, label=f"cgroup at {destination}")
        return
    plain = flags & ~kernel.MS_RDONLY
    plan.call("mount", "tmpfs", ".", "tmpfs", plain, "mode=755", label=destination)
    plan.call("chdir", destination)
    for group in site.v1_groups:
        plan.call("mkdirat", AT_FDCWD, group, 0o755)
        plan.call("mount", "cgroup", group, "cgroup", flags, group, label=f"cgroup {group}")
    if flags & kernel.MS_RDONLY:
        bits = kernel.MS_REMOUNT | kernel.MS_BIND | flags
        plan.call("mount", 0, ".", 0, bits, 0, label=destination)


def _devices(plan: Plan, linux: dict[str, Any], fresh: set[str], site: Site) -> None:
    if "/dev" in fresh:
        for target, name in _LINKS:
            plan.call("symlinkat", target, AT_FDCWD, f"/dev/{name}")
        if site.userns is None:
            for name, major, minor in _DEVICES:
                device = os.makedev(major, minor)
                plan.call("mknodat", AT_FDCWD, f"/dev/{name}", 0o20666, device)
    kinds = {"c": 0o20000, "u": 0o20000, "b": 0o60000, "p": 0o10000}
    for device in linux.get("devices") or []:
        path = device["path"]
        if not path.startswith("/dev/") or "/dev" not in fresh:
            raise Unsupported(f"device {path} must lie in the container's own /dev")
        if site.userns is not None:
            continue  # it came with the /dev
        if os.path.dirname(path) != "/dev":
            process.make_directories(plan, os.path.dirname(path), ROOT)
        mode = kinds[device["type"]] | (device.get("fileMode") or 0o666)
        number = os.makedev(device.get("major") or 0, device.get("minor") or 0)
        plan.call("mknodat", AT_FDCWD, path, mode, number, allow=EXISTS_OK, label=path)
        if device.get("uid") or device.get("gid"):
            owner = (device.get("uid") or 0, device.get("gid") or 0)
            plan.call("fchownat", AT_FDCWD, path, *owner, 0, label=path)


def _console(plan: Plan, site: Site) -> None:
    """Bind the terminal on /dev/console, by descriptor and never by path."""
    plan.call("mknodat", AT_FDCWD, "/dev/console", 0o100600, 0, allow=EXISTS_OK)
    bits = kernel.OPEN_TREE_CLONE | kernel.OPEN_TREE_CLOEXEC | kernel.AT_EMPTY_PATH
    plan.call("open_tree", site.stdio[0], "", bits, slot=_FILE_SLOT, label="console")
    empty = kernel.MOVE_MOUNT_F_EMPTY_PATH
    plan.call("move_mount", Slot(_FILE_SLOT), "", AT_FDCWD, "/dev/console", empty, label="console")
    plan.call("close", Slot(_FILE_SLOT))


def _mask(plan: Plan, path: str, site: Site) -> None:
    """Hide a file or directory, whichever it is.

    The file that hides is the host's null device, by descriptor: where /dev is a volume, the
    container's own may be a link to what was to be hidden, or worse (CVE-2025-31133).
    """
    label = f"mask {path}"
    kernels = path.startswith(_KERNEL)
    if kernels and not os.path.exists(path):
        return
    if not kernels or not os.path.isdir(path):
        fd = kernel.null_mount()
        site.fds.append(fd)
        bits = kernel.MOVE_MOUNT_F_EMPTY_PATH
        allow = MISSING_OK if kernels else MISSING_OK | {22}  # EINVAL: a file on a directory
        plan.call("move_mount", fd, "", AT_FDCWD, path, bits, allow=allow, label=label)
    if not kernels or os.path.isdir(path):
        bits = kernel.MS_RDONLY
        plan.call("mount", "tmpfs", path, "tmpfs", bits, "size=0k", allow=MISSING_OK, label=label)


def _proc_rules(plan: Plan, linux: dict[str, Any], site: Site) -> None:
    for key, value in (linux.get("sysctl") or {}).items():
        if ".." in key or key.startswith("/"):
            raise Unsupported(f"sysctl {key} is not a valid name")
        process.write_file(plan, "/proc/sys/" + key.replace(".", "/"), str(value))
        plan.labels[-2] = f"sysctl {key}"
    for path in linux.get("maskedPaths") or []:
        _mask(plan, path, site)
    keep = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    for path in linux.get("readonlyPaths") or []:
        if path.startswith(_KERNEL) and not os.path.exists(path):
            continue
        bits = kernel.MS_BIND | kernel.MS_REC
        plan.call("mount", path, path, 0, bits, 0, allow=MISSING_OK, label=f"read-only {path}")
        bits = kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY | keep
        plan.call("mount", 0, path, 0, bits, 0, allow=MISSING_OK, label=f"read-only {path}")

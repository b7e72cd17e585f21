"""What confines a container: security options, seccomp profiles, the sysctls of its namespaces."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from runtime.errors import Unsupported as RuntimeUnsupported
from runtime.oci import capability_set
from runtime.supervisor.capabilities import CAPABILITIES
from runtime.supervisor.seccomp import compile_profile
from swarmapi.errors import InvalidArgument, Unsupported
from worker.engine.spec import HostConfig

_GO_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_SCMP_MACHINES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_IPC_SYSCTLS = frozenset((
    "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
    "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
))  # fmt: skip
_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
_DISABLED = ("label=disable", "label:disable", "apparmor=unconfined", "apparmor:unconfined")


class SecurityOptions(msgspec.Struct):
    """HostConfig.SecurityOpt, read; `seccomp` is default, unconfined or an OCI profile."""

    no_new_privileges: bool = False
    seccomp: Any = "default"
    bare_paths: bool = False
    """systempaths=unconfined: nothing of /proc and /sys is masked or read-only."""


def security_options(host: HostConfig) -> SecurityOptions:
    """Read the security options of a container.

    Raises:
        InvalidArgument: for a malformed profile.
        Unsupported: for an option, or a part of a profile, that we do not serve.
    """
    found = SecurityOptions()
    for option in host.security_opt:
        key, separator, value = option.replace(":", "=", 1).partition("=")
        if key == "no-new-privileges" and value in ("", "true", "false"):
            found.no_new_privileges = value != "false"
        elif key == "seccomp" and separator:
            found.seccomp = _seccomp(option[len("seccomp") + 1 :], host)
        elif key == "systempaths" and value == "unconfined":
            found.bare_paths = True
        elif option not in _DISABLED:  # neither LSM is used: the container has none of it anyway
            raise Unsupported(f"security option {option!r} is not supported{_way_out(key)}")
    return found


def _way_out(key: str) -> str:
    if key != "apparmor":
        return ""
    try:
        enabled = _APPARMOR.read_text().startswith("Y")
    except OSError:
        enabled = False
    why = "profiles are not loaded by swarmd" if enabled else "this kernel runs without AppArmor"
    return f": {why}; leave it out, or say apparmor=unconfined"


def check_user_namespace(host: HostConfig) -> None:
    """Refuse what a container in a user namespace cannot be, in Docker's words.

    Raises:
        InvalidArgument: for a privileged one, or one that shares a namespace of the host.
    """
    if host.userns_mode == "host":
        return
    if host.privileged:
        raise InvalidArgument(
            "privileged mode is incompatible with user namespaces. "
            "You must run the container in the host namespace when running privileged mode"
        )
    for mode, name in (
        (host.network_mode, "host's network"), (host.pid_mode, "host PID"),
        (host.ipc_mode, "host IPC"), (host.cgroupns_mode, "host cgroup"),
    ):  # fmt: skip
        if mode == "host":
            raise InvalidArgument(
                f"cannot share the {name} namespace when user namespaces are enabled"
            )


def check_sysctls(host: HostConfig) -> None:
    """Refuse a sysctl that is not of a namespace the container has for itself.

    Raises:
        InvalidArgument: naming it.
    """
    for name in host.sysctls:
        if name.startswith("net."):
            shared = "network" if host.network_mode == "host" else ""
        elif name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
            shared = "ipc" if host.ipc_mode == "host" else ""
        else:
            raise InvalidArgument(f'sysctl "{name}" is not in a separate kernel namespace')
        if shared:
            raise InvalidArgument(f'sysctl "{name}" not allowed in host {shared} namespace')


def _seccomp(value: str, host: HostConfig) -> Any:
    if value in ("unconfined", "builtin"):
        return "unconfined" if value == "unconfined" else "default"
    try:
        profile = msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}") from error
    if not isinstance(profile, dict) or "defaultAction" not in profile:
        raise InvalidArgument("Decoding seccomp profile failed: no defaultAction")
    try:
        caps = CAPABILITIES if host.privileged else capability_set(host.cap_add, host.cap_drop)
        chosen = oci_profile(profile, caps, os.uname().machine, os.uname().release)
        compile_profile(chosen)
    except RuntimeUnsupported as error:
        raise Unsupported(str(error)) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidArgument(f"seccomp profile is malformed: {error!r}") from error
    return chosen


def oci_profile(
    profile: Mapping[str, Any], capabilities: Collection[str], machine: str, release: str
) -> dict[str, Any]:
    """Return Docker's form of a profile as OCI's: what it says of this machine and container.

    Docker's has `archMap`, and rules that only count with some capability, machine or kernel.
    """
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidArgument(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'"
        )
    native = _SCMP_MACHINES.get(machine, "")
    arches = list(profile.get("architectures") or [])
    for entry in profile.get("archMap") or []:
        if entry["architecture"] == native:
            arches += [native, *(entry.get("subArchitectures") or [])]
    calls: list[dict[str, Any]] = []
    for rule in profile.get("syscalls") or []:
        if rule.get("name") and rule.get("names"):
            raise InvalidArgument(
                "both 'name' and 'names' are specified in the seccomp profile, "
                "use either 'name' or 'names'"
            )
        if _applies(rule, capabilities, _GO_MACHINES.get(machine, machine), release):
            chosen = {"names": rule.get("names") or [rule["name"]], "action": rule["action"]}
            chosen |= {key: rule[key] for key in ("errnoRet", "args") if rule.get(key) is not None}
            calls.append(chosen)
    kept = ("defaultAction", "defaultErrnoRet", "listenerPath")
    found: dict[str, Any] = {key: profile[key] for key in kept if profile.get(key) is not None}
    return {**found, "architectures": arches or [native], "syscalls": calls}


def _applies(
    rule: Mapping[str, Any], capabilities: Collection[str], machine: str, release: str
) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if machine in (excludes.get("arches") or ()):
        return False
    if any(name in capabilities for name in excludes.get("caps") or ()):
        return False
    if excludes.get("minKernel") and _kernel(release) >= _kernel(excludes["minKernel"]):
        return False
    if includes.get("arches") and machine not in includes["arches"]:
        return False
    if not all(name in capabilities for name in includes.get("caps") or ()):
        return False
    return not includes.get("minKernel") or _kernel(release) >= _kernel(includes["minKernel"])


def _kernel(release: str) -> list[int]:
    return [int(part) for part in release.partition("-")[0].split(".")[:2]]

"""`docker update`: what a change of limits makes of a container's HostConfig."""

from collections.abc import Mapping
from typing import Any

import msgspec

from swarmapi.errors import Conflict, InvalidArgument
from worker.engine.bundle import check_supported
from worker.engine.spec import HostConfig, decode_host

_UPDATABLE = frozenset((
    "CpuShares", "Memory", "NanoCpus", "CpuPeriod", "CpuQuota", "CpusetCpus", "CpusetMems",
    "MemoryReservation", "MemorySwap", "PidsLimit", "RestartPolicy", "BlkioWeight",
))  # fmt: skip


def merge(host: HostConfig, changes: Mapping[str, Any]) -> HostConfig:
    """Return the HostConfig after an update; zero and empty leave a value as it is.

    Raises:
        InvalidArgument: for limits that contradict each other.
        Conflict: for a restart policy of a container that removes itself.
        Unsupported: for what cannot be updated.
    """
    changes = {key: value for key, value in changes.items() if _asks(key, value)}
    decode_host(changes)  # types and names, before anything is compared
    for key in changes:
        if key not in _UPDATABLE:
            raise InvalidArgument(f"{key} cannot be updated: create the container anew")
    if "RestartPolicy" in changes and host.auto_remove:
        raise Conflict(
            "Restart policy cannot be updated because AutoRemove is enabled for the container"
        )
    _check_cpu(host, changes)
    memory, swap = changes.get("Memory", 0), changes.get("MemorySwap", 0)
    if memory > host.memory_swap > 0 and not swap:
        raise InvalidArgument(
            "Memory limit should be smaller than already set memoryswap limit, "
            "update the memoryswap at the same time"
        )
    fresh = decode_host({**msgspec.to_builtins(host), **changes})
    check_supported(fresh)
    return fresh


def _asks(key: str, value: Any) -> bool:
    if key == "RestartPolicy":
        return bool(isinstance(value, Mapping) and value.get("Name"))
    if key == "PidsLimit":
        return value is not None
    if key == "MemorySwappiness" and value == -1:
        return False
    return bool(value)


def _check_cpu(host: HostConfig, changes: Mapping[str, Any]) -> None:
    for key, name in (("CpuPeriod", "CPU Period"), ("CpuQuota", "CPU Quota")):
        if changes.get(key) and host.nano_cpus:
            raise InvalidArgument(
                f"Conflicting options: {name} cannot be updated as NanoCPUs has already been set"
            )
    if changes.get("NanoCpus") and (host.cpu_period or host.cpu_quota):
        raise InvalidArgument(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period or Quota "
            "has already been set"
        )

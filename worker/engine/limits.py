"""A container's limits: Docker's numbers checked as Docker does, and turned into OCI's."""

import os
import stat
from pathlib import Path
from typing import Any

from swarmapi.errors import InvalidArgument, Unsupported
from worker.engine.spec import HostConfig

RESOURCE_LIMITS = frozenset((
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile",
    "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
))  # fmt: skip
_CGROUPS = Path("/sys/fs/cgroup")
_MINIMUM_BYTES = 6 << 20
_CPU_PERIOD_US = 100_000


def resources_of(host: HostConfig) -> dict[str, Any]:
    """Return OCI's linux.resources for the limits that are set."""
    found: dict[str, Any] = {}
    if memory := _memory(host):
        found["memory"] = memory
    if cpu := _cpu(host):
        found["cpu"] = cpu
    if host.pids_limit is not None and host.pids_limit != 0:
        found["pids"] = {"limit": max(host.pids_limit, -1)}
    if block := _block(host):
        found["blockIO"] = block
    return found


def check_limits(host: HostConfig) -> None:
    """Refuse limits that contradict each other or this machine, in Docker's words.

    Raises:
        InvalidArgument: saying which.
        Unsupported: for what only cgroup v1 can do.
    """
    _check_memory(host)
    _check_cpu(host)
    _check_block(host)
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(
            f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]"
        )
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    for limit in host.ulimits:
        if limit.name not in RESOURCE_LIMITS:
            raise InvalidArgument(f"invalid ulimit type: {limit.name}")
        if 0 <= limit.hard < limit.soft:
            raise InvalidArgument(
                f"ulimit soft limit must be less than or equal to hard limit: "
                f"{limit.soft} > {limit.hard}"
            )


def _memory(host: HostConfig) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if host.memory > 0:
        memory = {"limit": host.memory, "swap": host.memory_swap or host.memory * 2}
    if host.memory_reservation > 0:
        memory["reservation"] = host.memory_reservation
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        memory["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable:
        memory["disableOOMKiller"] = True
    return memory


def _cpu(host: HostConfig) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if host.nano_cpus > 0:
        cpu = {"period": _CPU_PERIOD_US, "quota": host.nano_cpus * _CPU_PERIOD_US // 10**9}
    for key, value in (
        ("period", host.cpu_period),
        ("quota", host.cpu_quota),
        ("shares", host.cpu_shares),
        ("cpus", host.cpuset_cpus),
        ("mems", host.cpuset_mems),
    ):
        if value:
            cpu[key] = value
    return cpu


def _block(host: HostConfig) -> dict[str, Any]:
    block: dict[str, Any] = {"weight": host.blkio_weight} if host.blkio_weight else {}
    if host.blkio_weight_device:
        block["weightDevice"] = [
            {**_numbers_of(one.path), "weight": one.weight} for one in host.blkio_weight_device
        ]
    for key, devices in (
        ("throttleReadBpsDevice", host.blkio_device_read_bps),
        ("throttleWriteBpsDevice", host.blkio_device_write_bps),
        ("throttleReadIOPSDevice", host.blkio_device_read_iops),
        ("throttleWriteIOPSDevice", host.blkio_device_write_iops),
    ):
        if devices:
            block[key] = [{**_numbers_of(one.path), "rate": one.rate} for one in devices]
    return block


def _numbers_of(path: str) -> dict[str, int]:
    """Return major and minor of a block device; raises InvalidArgument where it is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no path"
        raise InvalidArgument(f"block device {path!r}: {str(reason).lower()}") from None
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidArgument(f"{path} is not a block device")
    return {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}


def _check_block(host: HostConfig) -> None:
    weights = [one.weight for one in host.blkio_weight_device]
    if host.blkio_weight:
        weights.append(host.blkio_weight)
    if any(not 10 <= weight <= 1000 for weight in weights):
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    throttled = (
        *host.blkio_device_read_bps,
        *host.blkio_device_write_bps,
        *host.blkio_device_read_iops,
        *host.blkio_device_write_iops,
    )
    if any(one.rate < 0 for one in throttled):
        raise InvalidArgument("the rate of a block device cannot be negative")
    if not _block(host):
        return
    if not _block_controller():
        raise Unsupported("block I/O limits need the cgroup controller blkio or io: mount it")
    if weights and not _block_weights():
        raise Unsupported(
            "BlkioWeight needs an I/O scheduler that weighs, such as bfq: leave it out"
        )


def _block_controller() -> bool:
    if _version_two():
        return "io" in (_CGROUPS / "cgroup.controllers").read_text().split()
    return (_CGROUPS / "blkio").is_dir()


def _block_weights() -> bool:
    """Tell whether groups have a weight; the root of a hierarchy has none."""
    base, file = (_CGROUPS, "io*weight") if _version_two() else (_CGROUPS / "blkio", "blkio*weight")
    return any(True for _ in base.glob(f"*/{file}"))


def _check_memory(host: HostConfig) -> None:
    if 0 < host.memory < _MINIMUM_BYTES:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        raise InvalidArgument(
            "Minimum memoryswap limit should be larger than memory limit, see usage"
        )
    if host.memory <= 0 < host.memory_swap:
        raise InvalidArgument(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    if 0 < host.memory_reservation < _MINIMUM_BYTES:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if 0 < host.memory < host.memory_reservation:
        raise InvalidArgument(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )
    swappiness = host.memory_swappiness
    if swappiness is not None and not -1 <= swappiness <= 100:
        raise InvalidArgument(
            f"Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )
    if _version_two():
        if swappiness is not None and swappiness >= 0:
            raise Unsupported("MemorySwappiness needs cgroup v1: leave it out")
        if host.oom_kill_disable:
            raise Unsupported("OomKillDisable needs cgroup v1: leave it out")


def _check_cpu(host: HostConfig) -> None:
    count = os.cpu_count() or 1
    if host.nano_cpus > 0 and (host.cpu_quota > 0 or host.cpu_period > 0):
        raise InvalidArgument(
            "Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set"
        )
    if host.nano_cpus < 0 or host.nano_cpus > count * 10**9:
        raise InvalidArgument(
            f"range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available"
        )
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than "
                              "1s (i.e. 1000000)")  # fmt: skip
    if 0 < host.cpu_quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.cpu_shares < 0:
        raise InvalidArgument(f"invalid CPU shares ({host.cpu_shares}): value must be positive")
    for what, asked, present in (
        ("CPUs", host.cpuset_cpus, "/sys/devices/system/cpu/online"),
        ("memory nodes", host.cpuset_mems, "/sys/devices/system/node/online"),
    ):
        _check_set(what, asked, Path(present))


def _check_set(what: str, asked: str, present: Path) -> None:
    wanted = _numbers(asked)
    try:
        there = present.read_text().strip()
    except OSError:
        there = "0"
    if not wanted <= _numbers(there):
        raise InvalidArgument(
            f"Requested {what} are not available - requested {asked}, available: {there}"
        )


def _numbers(text: str) -> set[int]:
    """Return the members of `0-2,7`."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < 1 << 16):
            raise InvalidArgument(f"Invalid value {text} for cpuset")
        found.update(range(int(first), int(last) + 1))
    return found


def _version_two() -> bool:
    return (_CGROUPS / "cgroup.controllers").exists()

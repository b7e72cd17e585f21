"""Counters of a container's cgroups as plain data."""

from __future__ import annotations

from typing import Any

from runtime.supervisor.cgroups import Group, read


def _pairs(text: str) -> dict[str, int]:
    out = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 2 and fields[1].isdigit():
            out[fields[0]] = int(fields[1])
    return out


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdigit() else None


def collect(group: Group) -> dict[str, Any]:
    """Return cpu (ns), memory (bytes), pids and blkio counters; a missing one is absent or null.

    Shape: {"cpu": {usage_ns user_ns system_ns periods throttled_periods throttled_ns},
    "memory": {usage_bytes max_usage_bytes limit_bytes stats}, "pids": {current limit},
    "blkio": [{major minor op bytes ios}]}.
    """
    return {
        "cpu": _cpu(group),
        "memory": _memory(group),
        "pids": _pids(group),
        "blkio": _blkio(group),
    }


def _cpu(group: Group) -> dict[str, int | None]:
    accounting = group.v1("cpuacct")
    if not accounting:
        stat = _pairs(read(f"{group.v2}/cpu.stat"))
        return {
            "usage_ns": stat.get("usage_usec", 0) * 1000,
            "user_ns": stat.get("user_usec", 0) * 1000,
            "system_ns": stat.get("system_usec", 0) * 1000,
            "periods": stat.get("nr_periods", 0),
            "throttled_periods": stat.get("nr_throttled", 0),
            "throttled_ns": stat.get("throttled_usec", 0) * 1000,
        }
    throttle = _pairs(read(f"{group.v1('cpu')}/cpu.stat"))
    return {
        "usage_ns": _number(read(f"{accounting}/cpuacct.usage")),
        "user_ns": _number(read(f"{accounting}/cpuacct.usage_user")),
        "system_ns": _number(read(f"{accounting}/cpuacct.usage_sys")),
        "periods": throttle.get("nr_periods", 0),
        "throttled_periods": throttle.get("nr_throttled", 0),
        "throttled_ns": throttle.get("throttled_time", 0),
    }


def _memory(group: Group) -> dict[str, Any]:
    directory = group.v1("memory")
    if directory:
        names = ("usage_in_bytes", "max_usage_in_bytes", "limit_in_bytes")
    else:
        directory, names = group.v2, ("current", "peak", "max")
    usage, peak, limit = (_number(read(f"{directory}/memory.{name}")) for name in names)
    return {
        "usage_bytes": usage,
        "max_usage_bytes": peak,
        "limit_bytes": limit,
        "stats": _pairs(read(f"{directory}/memory.stat")),
    }


def _pids(group: Group) -> dict[str, int | None]:
    directory = group.v1("pids") or group.v2
    return {
        "current": _number(read(f"{directory}/pids.current")),
        "limit": _number(read(f"{directory}/pids.max")),
    }


def _blkio(group: Group) -> list[dict[str, Any]]:
    directory = group.v1("blkio")
    found: dict[tuple[int, int, str], dict[str, int]] = {}
    if directory:
        for file, unit in (("io_service_bytes", "bytes"), ("io_serviced", "ios")):
            for line in read(f"{directory}/blkio.throttle.{file}").splitlines():
                fields = line.split()
                if len(fields) == 3:
                    major, _, minor = fields[0].partition(":")
                    key = (int(major), int(minor), fields[1].lower())
                    found.setdefault(key, {})[unit] = int(fields[2])
    else:
        for line in read(f"{group.v2}/io.stat").splitlines():
            device, *fields = line.split()
            major, _, minor = device.partition(":")
            values = dict(field.split("=", 1) for field in fields)
            for op, letter in (("read", "r"), ("write", "w")):
                found[(int(major), int(minor), op)] = {
                    "bytes": int(values.get(f"{letter}bytes", 0)),
                    "ios": int(values.get(f"{letter}ios", 0)),
                }
    return [
        {
            "major": major,
            "minor": minor,
            "op": op,
            "bytes": v.get("bytes", 0),
            "ios": v.get("ios", 0),
        }
        for (major, minor, op), v in sorted(found.items())
    ]

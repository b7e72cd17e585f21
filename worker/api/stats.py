"""Docker's stats document from the supervisor's counters."""

import os
import time
from collections.abc import Mapping
from typing import Any

from worker.engine.record import Record
from worker.engine.rfc3339 import format_ns


def render_stats(
    raw: Mapping[str, Any], record: Record, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the document of one sample; `before` is the previous one or empty."""
    memory = raw.get("memory") or {}
    pids = raw.get("pids") or {}
    blkio = raw.get("blkio") or []
    cpu = _cpu(raw.get("cpu") or {})
    return {
        "read": format_ns(time.time_ns() if raw else 0),
        "preread": before.get("read", format_ns(0)),
        "pids_stats": {k: v for k, v in pids.items() if k in ("current", "limit") and v},
        "blkio_stats": {
            "io_service_bytes_recursive": [_io(entry, "bytes") for entry in blkio],
            "io_serviced_recursive": [_io(entry, "ios") for entry in blkio],
        },
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": cpu,
        "precpu_stats": before.get("cpu_stats") or _cpu({}),
        "memory_stats": {
            "usage": memory.get("usage_bytes") or 0,
            "max_usage": memory.get("max_usage_bytes") or 0,
            "limit": _limit(memory),
            "stats": memory.get("stats") or {},
        }
        if raw
        else {},
        "name": f"/{record.name}",
        "id": record.id,
        "networks": _networks(record.pid) if raw else {},
    }


def _cpu(counters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "cpu_usage": {
            "total_usage": counters.get("usage_ns") or 0,
            "usage_in_kernelmode": counters.get("system_ns") or 0,
            "usage_in_usermode": counters.get("user_ns") or 0,
        },
        "system_cpu_usage": _system_cpu_ns() if counters else 0,
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": {
            "periods": counters.get("periods") or 0,
            "throttled_periods": counters.get("throttled_periods") or 0,
            "throttled_time": counters.get("throttled_ns") or 0,
        },
    }


def _io(entry: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {
        "major": entry["major"],
        "minor": entry["minor"],
        "op": entry["op"],
        "value": entry.get(key) or 0,
    }


def _limit(memory: Mapping[str, Any]) -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = memory.get("limit_bytes")
    return min(int(limit), total) if limit else total


def _system_cpu_ns() -> int:
    with open("/proc/stat") as file:
        fields = file.readline().split()[1:8]
    return sum(map(int, fields)) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _networks(pid: int) -> dict[str, Any]:
    try:
        with open(f"/proc/{pid}/net/dev") as file:
            lines = file.readlines()[2:]
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, _, rest = line.partition(":")
        numbers = [int(word) for word in rest.split()]
        if name.strip() != "lo" and len(numbers) >= 12:
            found[name.strip()] = {
                "rx_bytes": numbers[0],
                "rx_packets": numbers[1],
                "rx_errors": numbers[2],
                "rx_dropped": numbers[3],
                "tx_bytes": numbers[8],
                "tx_packets": numbers[9],
                "tx_errors": numbers[10],
                "tx_dropped": numbers[11],
            }
    return found

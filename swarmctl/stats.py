"""container stats: what running containers use, once or as it changes."""

import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from swarmctl import table
from swarmctl.command import Command, Parser
from swarmctl.http import Client, segment

_COLUMNS = {
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}
_CLEAR = "\033[2J\033[H"
_WORKERS = 16


def _configure(parser: Parser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="also those that do not run")
    parser.add_argument("--no-stream", action="store_true", help="once")
    parser.add_argument("--no-trunc", action="store_true", help="do not shorten ids")
    parser.add_argument("--format", help="table, json, or a Go template")
    parser.add_argument("containers", nargs="*", metavar="CONTAINER")


def _stats(client: Client, args: Namespace) -> int:
    while True:
        names = args.containers or _all(client, everything=args.all)
        with ThreadPoolExecutor(_WORKERS) as pool:
            rows = list(pool.map(lambda name: _row(client, name, whole=args.no_trunc), names))
        if not args.no_stream and sys.stdout.isatty():
            print(_CLEAR, end="")
        table.show(rows, _COLUMNS, args.format)
        sys.stdout.flush()
        if args.no_stream:
            return 0


def _all(client: Client, *, everything: bool) -> list[str]:
    query = {"all": "1"} if everything else {}
    return [table.short(item["Id"]) for item in client.get("/containers/json", **query)]


def _row(client: Client, name: str, *, whole: bool) -> table.Row:
    found = client.get(f"/containers/{segment(name)}/stats", stream="false")
    memory = found.get("memory_stats") or {}
    used, limit = memory_used(memory), memory.get("limit") or 0
    networks = (found.get("networks") or {}).values()
    received = sum(one["rx_bytes"] for one in networks)
    sent = sum(one["tx_bytes"] for one in networks)
    read, written = _block(found)
    binary = table.bytes_binary
    return {
        "Container": name,
        "ID": table.short(found.get("id", ""), whole=whole),
        "Name": found.get("name", "").removeprefix("/"),
        "CPUPerc": f"{cpu_percent(found):.2f}%",
        "MemUsage": f"{binary(used)} / {binary(limit)}",
        "MemPerc": f"{used / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{table.bytes_decimal(received, 3)} / {table.bytes_decimal(sent, 3)}",
        "BlockIO": f"{table.bytes_decimal(read, 3)} / {table.bytes_decimal(written, 3)}",
        "PIDs": (found.get("pids_stats") or {}).get("current", 0),
    }


def cpu_percent(found: Any) -> float:
    """Return the share of one processor between the two samples of a stats document."""
    now, before = found.get("cpu_stats") or {}, found.get("precpu_stats") or {}
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    whole = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    if used <= 0 or whole <= 0:
        return 0.0
    return float(used / whole * now.get("online_cpus", 1) * 100)


def memory_used(memory: Any) -> int:
    """Return the memory in use without the page cache that can be dropped at once."""
    usage = int(memory.get("usage") or 0)
    detail = memory.get("stats") or {}
    cache = int(detail.get("total_inactive_file", detail.get("inactive_file", 0)))
    return usage - cache if cache < usage else usage


def _block(found: Any) -> tuple[int, int]:
    entries = (found.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    read, written = (
        sum(entry["value"] for entry in entries if entry["op"].lower() == kind)
        for kind in ("read", "write")
    )
    return read, written


COMMANDS = {"stats": Command("show what containers use", _configure, _stats)}

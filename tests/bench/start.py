"""Start to exit of /bin/true on one bundle: our supervisor against crun and runc, interleaved.

    python -m tests.bench.start --rounds 50 --crun /usr/bin/crun --runc /usr/bin/runc --json out

Memory and pids limits and the default seccomp profile are on for all. On a hybrid of cgroup v1
and v2 crun refuses to work, so the peers run in a mount namespace without the v2 mount.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from runtime.client import Supervisor
from runtime.oci import Launch, LogConfig, default_config

BUDGET_RATIO = 0.25
_CLONE_NEWNS, _MS_REC_PRIVATE, _MNT_DETACH = 0x20000, 1 << 18 | 16384, 2


def build_bundle(base: Path) -> dict[str, Any]:
    """Make a busybox root and one config for all contestants."""
    binaries = base / "rootfs" / "bin"
    binaries.mkdir(parents=True)
    shutil.copy("/bin/busybox", binaries / "busybox")
    (binaries / "true").symlink_to("busybox")
    resources = {"memory": {"limit": 256 << 20}, "pids": {"limit": 100}}
    config = default_config(
        ["/bin/true"], ["PATH=/bin"], hostname="bench", rootfs=str(base / "rootfs"),
        resources=resources,
    )  # fmt: skip
    # the peers cannot mount v1 controllers that lie outside their view: no one mounts cgroups
    config["mounts"] = [m for m in config["mounts"] if m["type"] != "cgroup"]
    return config


def write_peer_bundle(base: Path, config: dict[str, Any]) -> None:
    """Write config.json as the peers need it: with a network namespace of its own."""
    peer = json.loads(json.dumps(config))
    peer["linux"]["namespaces"].append({"type": "network"})
    peer["linux"].pop("sysctl")
    (base / "config.json").write_text(json.dumps(peer))


def hide_v2() -> None:
    """In the peer's child: leave only cgroup v1 visible, as its legacy mode needs."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.unshare(_CLONE_NEWNS)
    libc.mount(None, b"/", None, _MS_REC_PRIVATE, None)
    libc.umount2(b"/sys/fs/cgroup/unified", _MNT_DETACH)


def peer_run(program: str, base: Path, number: int) -> float:
    """Run one container with a peer; returns milliseconds."""
    name = f"swrt-bench-{os.getpid()}-{number}"
    command = [program, "--root", str(base / "peer-state"), "run", "-b", str(base), name]
    hybrid = os.path.ismount("/sys/fs/cgroup/unified")
    started = time.perf_counter()
    subprocess.run(
        command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        preexec_fn=hide_v2 if hybrid else None,
    )  # fmt: skip
    return (time.perf_counter() - started) * 1000


async def own_run(supervisor: Supervisor, config: dict[str, Any], base: Path, n: int) -> float:
    """Run one container with the supervisor; returns milliseconds."""
    launch = Launch(f"bench{n}", config, None, LogConfig("json-file", str(base / "log")))
    started = time.perf_counter()
    await supervisor.start(launch)
    state = await supervisor.wait(launch.container_id)
    spent = (time.perf_counter() - started) * 1000
    if state.exit_code != 0:
        raise SystemExit(f"exit code {state.exit_code}: {state.error}")
    await supervisor.delete(launch.container_id)
    return spent


async def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Interleave all contestants for the asked number of rounds."""
    peers = {n: p for n, p in (("crun", options.crun), ("runc", options.runc)) if p}
    times: dict[str, list[float]] = {name: [] for name in ("swarm", *peers)}
    with tempfile.TemporaryDirectory(prefix="swrt-bench-") as directory:
        base = Path(directory)
        config = build_bundle(base)
        write_peer_bundle(base, config)
        parent = f"swrt-bench-{os.getpid()}"
        supervisor = await Supervisor.connect(base / "state", base / "run", parent)
        try:
            await own_run(supervisor, config, base, -1)
            for n in range(options.rounds):
                times["swarm"].append(await own_run(supervisor, config, base, n))
                for name, program in peers.items():
                    times[name].append(await asyncio.to_thread(peer_run, program, base, n))
        finally:
            with contextlib.suppress(OSError):
                await supervisor.shutdown(force=True)
    return times


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--crun", default="")
    parser.add_argument("--runc", default="")
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    times = asyncio.run(measure(options))
    result: dict[str, Any] = {"unit": "ms", "rounds": options.rounds}
    for name, values in times.items():
        ordered = sorted(values)
        result[name] = {
            "min": ordered[0],
            "median": statistics.median(ordered),
            "p95": ordered[int(len(ordered) * 0.95)],
        }
        row = "  ".join(f"{key} {value:8.2f}" for key, value in result[name].items())
        print(f"{name:6s} {row}")
    for name in times:
        if name != "swarm":
            ratio = result["swarm"]["median"] / result[name]["median"]
            result[f"ratio_{name}"] = ratio
            met = "" if name != "crun" else f" (budget {BUDGET_RATIO}: {ratio <= BUDGET_RATIO})"
            print(f"swarm / {name}: {ratio:.3f}{met}")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

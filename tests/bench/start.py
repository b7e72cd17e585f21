"""Request to exit of /bin/true on one bundle: our supervisor against crun and runc.

Memory and pids limits, Docker's default seccomp profile and a network namespace of its own are on
for all. On a hybrid of cgroup v1 and v2 crun refuses to work, so the peers run in a mount
namespace without the v2 mount.
"""

import asyncio
import contextlib
import ctypes
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from runtime.client import Supervisor
from runtime.oci import Launch, LogConfig, default_config
from tests.bench import peers
from tests.bench.contest import Benchmark, Contender

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


class Arena:
    """One bundle, our supervisor, and the state of the peers, in a directory of their own."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="swrt-bench-")
        self._base = Path(self._directory.name)
        self._config = build_bundle(self._base)
        write_peer_bundle(self._base, self._config)
        self._numbers = itertools.count()
        self._environment = peers.environment()
        self._hybrid = os.path.ismount("/sys/fs/cgroup/unified")
        self._runner = asyncio.Runner()
        parent = f"swrt-bench-{os.getpid()}"
        self._supervisor = self._runner.run(
            Supervisor.connect(self._base / "state", self._base / "run", parent)
        )

    def own(self) -> float:
        """Run one container with the supervisor; returns milliseconds."""
        return self._runner.run(self._own())

    async def _own(self) -> float:
        log = LogConfig("json-file", str(self._base / "log"))
        launch = Launch(f"bench{next(self._numbers)}", self._config, None, log)
        started = time.perf_counter()
        await self._supervisor.start(launch)
        state = await self._supervisor.wait(launch.container_id)
        spent_ms = (time.perf_counter() - started) * 1000
        if state.exit_code != 0:
            raise RuntimeError(f"exit code {state.exit_code}: {state.error}")
        await self._supervisor.delete(launch.container_id)
        return spent_ms

    def own_parallel(self, count: int) -> float:
        """Run containers with the supervisor, all at once; returns milliseconds."""

        async def all_of_them() -> float:
            started = time.perf_counter()
            await asyncio.gather(*(self._own() for _ in range(count)))
            return (time.perf_counter() - started) * 1000

        return self._runner.run(all_of_them())

    def peer(self, name: str) -> float:
        """Run one container with a peer; returns milliseconds."""
        return self.peer_parallel(name, 1)

    def peer_parallel(self, name: str, count: int) -> float:
        """Run containers with a peer, all at once; returns milliseconds."""
        state = str(self._base / "peer-state")
        command = [peers.program(name), "--root", state, "run", "-b", str(self._base)]
        started = time.perf_counter()
        running = [
            subprocess.Popen(
                [*command, f"swrt-bench-{os.getpid()}-{next(self._numbers)}"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                env=self._environment, preexec_fn=hide_v2 if self._hybrid else None,
            )
            for _ in range(count)
        ]  # fmt: skip
        codes = [process.wait() for process in running]
        if any(codes):
            raise RuntimeError(f"{name} fails")
        return (time.perf_counter() - started) * 1000

    def close(self) -> None:
        """Shut the supervisor down and remove the directory."""
        with contextlib.suppress(OSError):
            self._runner.run(self._supervisor.shutdown(force=True))
        self._runner.close()
        self._directory.cleanup()


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the end target of our start against crun's."""
    arena = Arena()
    rivals = [
        Contender(name, partial(arena.peer, name), peers.missing(name)) for name in ("crun", "runc")
    ]
    return Benchmark(
        title="start to exit of /bin/true, default seccomp, memory and pids limits",
        unit="ms",
        contenders=(Contender("swarm", arena.own), *rivals),
        budget=0.25,
        rounds=100,
        peer="crun",
        close=arena.close,
    )

"""A supervisor with directories of its own, for tests on the real kernel."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from runtime.client import Attachment, Supervisor
from runtime.errors import SupervisorGone
from runtime.oci import Launch, LogConfig, default_config, map_ids

BUSYBOX = "/bin/busybox"
PARENT = "swrt-test"
APPLETS = "sh true cat echo ls id sleep stty head yes dd tty hostname seq tail mount grep kill"


class Bench:
    """One supervisor with its own directories and a busybox root."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.rootfs = base / "rootfs"
        self.parent = f"{PARENT}-{os.getpid()}"
        (self.rootfs / "bin").mkdir(parents=True)
        shutil.copy(BUSYBOX, self.rootfs / "bin" / "busybox")
        for applet in APPLETS.split():
            (self.rootfs / "bin" / applet).symlink_to("busybox")
        self.supervisor: Supervisor

    async def connect(self) -> Supervisor:
        return await Supervisor.connect(self.base / "state", self.base / "run", self.parent)

    def launch(self, name: str, *args: str, stdin: bool = False, **settings: Any) -> Launch:
        log_options = settings.pop("log", {})
        overlay = settings.pop("overlay", None)
        ids = settings.pop("ids", None)
        more = {
            key: settings.pop(key)
            for key in ("netns", "init", "restart", "health")
            if key in settings
        }
        config = default_config(args, ["PATH=/bin"], rootfs=str(self.rootfs), **settings)
        if ids is not None:
            map_ids(config, ids)
        log = LogConfig("json-file", str(self.base / f"{name}.log"), **log_options)
        return Launch(name, config, overlay, log, stdin_open=stdin, **more)

    def log(self, name: str) -> list[dict[str, str]]:
        """Return the log's entries: none before the pump has made its file."""
        path = self.base / f"{name}.log"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def output(self, name: str) -> str:
        return "".join(entry["log"] for entry in self.log(name))

    async def run(self, name: str, *args: str, **settings: Any) -> Any:
        await self.supervisor.start(self.launch(name, *args, **settings))
        return await self.supervisor.wait(name)


def run(story: Callable[[Bench], Awaitable[None]]) -> None:
    """Run a story against a fresh supervisor and prove that nothing is left."""

    async def body() -> None:
        base = Path(tempfile.mkdtemp(prefix="swrt-"))
        try:
            bench = Bench(base)
            bench.supervisor = await bench.connect()
            try:
                await story(bench)
            finally:
                await bench.supervisor.shutdown(force=True)
            left = glob.glob(f"/sys/fs/cgroup/**/{bench.parent}", recursive=True)
            assert left == []
            assert str(base) not in Path("/proc/self/mountinfo").read_text()
        finally:
            shutil.rmtree(base)

    asyncio.run(asyncio.wait_for(body(), 20))


async def until(check: Callable[[], bool]) -> None:
    while not check():  # noqa: ASYNC110 - watches the kernel, which sets no asyncio event
        await asyncio.sleep(0.005)


async def read_until(attachment: Attachment, word: bytes) -> bytes:
    seen = b""
    async for _, data in attachment:
        seen += data
        if word in seen:
            return seen
    raise AssertionError(f"ended after {seen!r}")


async def kill_fork_server(bench: Bench) -> None:
    """Kill the fork server and return once another one answers."""
    hello = await bench.supervisor._ask("hello")
    os.kill(hello["pid"], signal.SIGKILL)
    await until(lambda: not os.path.exists(f"/proc/{hello['pid']}"))
    again = hello
    while again["pid"] == hello["pid"]:
        with contextlib.suppress(SupervisorGone):
            again = await bench.supervisor._ask("hello")

"""The applications under fire, each on a port of loopback in a thread of its own.

The engine is the real one with its real image store on fake containers and networks; the manager
is the real one on a log of a single copy. What a request asks for can hurt nobody.
"""

import asyncio
import io
import logging
import os
import tarfile
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from aiohttp import web

from manager.api import app as manager_app
from manager.api.keys import EXECS, PROBES, RAFT_USAGE
from manager.api.state import RaftUsage
from manager.dispatcher.probes import ProbeBroker
from manager.execs.broker import ExecBroker
from manager.logbroker.broker import LogBroker
from runtime.image import archive
from runtime.image.store import ImageStore
from swarmapi import openapi
from swarmapi.override import override
from swarmapi.query import DECLARED, runner_of
from swarmapi.rest import API_VERSION
from tests.fakes.engine import FakeNetworking, FakeSupervisor
from tests.unit.manager_shell.cluster import MemoryCluster, NoForwarder
from worker.api import app as engine_app
from worker.api import audit
from worker.engine.clock import SystemClock
from worker.engine.engine import Engine, EngineParts
from worker.engine.spec import decode_create
from worker.engine.volumes import Volume

RUNNING, CREATED, IMAGE, VOLUME, SERVICE = "running", "created", "img:1", "volume", "service"
Refill = Callable[[], Coroutine[None, None, None]]


class Complaints(logging.Handler):
    """Keeps what the applications log as errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.records.append(self.format(record))


class Target:
    """One application that serves; `refill` makes again what requests took away."""

    def __init__(self, build: Callable[[], Awaitable[tuple[web.Application, Refill]]]) -> None:
        self.url = ""
        self.document: openapi.Json = {}
        self._build = build
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._refill: Refill | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Target":
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def refill(self) -> None:
        """Make what every request may name."""
        assert self._refill is not None
        asyncio.run_coroutine_threadsafe(self._refill(), self._loop).result(10)

    def weight(self) -> tuple[int, int]:
        """Return how many tasks run and how many files are open."""

        async def count() -> int:
            return len(asyncio.all_tasks())

        tasks = asyncio.run_coroutine_threadsafe(count(), self._loop).result(10)
        return tasks, len(os.listdir("/proc/self/fd"))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._loop.run_forever()

    async def _start(self) -> None:
        app, self._refill = await self._build()
        runner = runner_of(app, 1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        routes = list(dict.fromkeys(app[DECLARED].values()))
        self.document = openapi.describe(routes, title="t", version=API_VERSION)
        await self._refill()
        self._ready.set()


def engine_target(root: Path) -> Target:
    """Return the engine's API on fakes."""

    async def build() -> tuple[web.Application, Refill]:
        engine = Engine(
            EngineParts(
                data_root=root,
                supervisor=FakeSupervisor(),
                networking=FakeNetworking(),
                images=ImageStore(root / "images"),
                clock=SystemClock(),
            )
        )
        await engine.open()

        async def refill() -> None:
            await _refill_engine(engine)

        app = engine_app.build_app(engine)
        app[audit.DIRECTORY] = root  # nobody is asked who calls; the log can be read
        return app, refill

    return Target(build)


async def _refill_engine(engine: Engine) -> None:
    if not any(IMAGE in image.repo_tags for image in engine.images.list()):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as tar:
            member = tarfile.TarInfo("etc")
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
        raw.seek(0)
        archive.import_rootfs(engine.images, raw, "img:1", config={"Cmd": ["serve"]})
    names = {container.record.name for container in engine.list(everything=True)}
    for name in {RUNNING, CREATED} - names:
        made = await engine.create(decode_create({"Image": IMAGE}, name))
        if name == RUNNING:
            await engine.start(made)
    if engine.inspect(RUNNING).record.status == "paused":
        await engine.unpause(RUNNING)
    elif not engine.inspect(RUNNING).record.running:
        await engine.start(RUNNING)
    if VOLUME not in {volume.name for volume in engine.volumes.list()}:
        engine.volumes.create(Volume(name=VOLUME, created_ns=1))


def manager_target() -> Target:
    """Return a manager's API over a store in memory."""

    async def build() -> tuple[web.Application, Refill]:
        cluster = MemoryCluster()
        await cluster.found()
        broker = LogBroker(cluster.store, lambda node, request: False)
        app = manager_app.build_app(cluster.store, "m1", NoForwarder(), broker, cluster.events)
        app[EXECS] = ExecBroker(cluster.store, lambda node, request: False)
        app[PROBES] = ProbeBroker(lambda node, request: False, cluster.store.new_id)
        told = {"NodeID": "m1", "LeaderID": "m1", "Members": {}, "DiskFull": "", "Returning": False}
        counts = RaftUsage.__annotations__.keys() - told.keys() - {"LastChangeNs"}
        app[RAFT_USAGE] = lambda: told | dict.fromkeys(counts, 1)

        async def refill() -> None:
            await cluster.settle()

        return app, refill

    return Target(build)


def targets(root: Path) -> dict[str, Target]:
    """Return all targets by name."""
    return {"engine": engine_target(root), "manager": manager_target()}


KNOWN: dict[str, Any] = {
    "id": (RUNNING, CREATED, "m1", SERVICE, "self"),
    "name": (IMAGE, VOLUME),
}
"""Variable of a path → what is there."""
KNOWN_QUERY = {"container": RUNNING, "repo": "made", "tag": "1", "fromImage": IMAGE, "names": IMAGE}
OUT_OF_SEQUENCE = "update out of sequence"
"""Docker says it with status 500, and its clients look for the words."""

"""`swarmd`: the one daemon of a machine."""

import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from aiohttp import web

from runtime.client import Supervisor
from runtime.errors import RuntimeFailure, SupervisorGone
from runtime.image.store import ImageStore
from swarmapi.errors import SwarmError
from swarmapi.query import runner_of
from worker import check, servicemanager
from worker.api.app import build_app
from worker.api.callers import Callers
from worker.cluster.side import ClusterSide
from worker.config import Config, load
from worker.engine import storagedriver
from worker.engine.clock import SystemClock
from worker.engine.engine import Engine, EngineParts
from worker.listening import Secured, TlsFiles, TlsSplice, listen
from worker.networking import open_networking

log = logging.getLogger("swarmd")
SHUTDOWN_TIMEOUT_S = 0.5
CONNECT_TRIES, CONNECT_PAUSE_S = 5, 0.2


@asynccontextmanager
async def daemon(config: Config) -> AsyncIterator[Engine]:
    """Run an engine, its cluster side and its API for the length of the block.

    Containers and the manager outlive it.

    Raises:
        RuntimeFailure: when the supervisor cannot be launched or adopted.
        OSError: when a directory or the socket cannot be used.
    """
    config.data_root.mkdir(parents=True, exist_ok=True)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    os.chmod(config.data_root, 0o711)
    lock = _lock(config.data_root)
    try:
        await asyncio.to_thread(storagedriver.check, config.storage_driver, config.data_root)
        supervisor = await _connect(config)
        if config.ids is not None:
            await storagedriver.check_mapping(supervisor, config.ids, config.data_root)
        networking = open_networking(config)
        engine = Engine(
            EngineParts(
                data_root=config.data_root,
                supervisor=supervisor,
                networking=networking,
                images=await asyncio.to_thread(
                    ImageStore, config.data_root / "images", config.image_limits
                ),
                clock=SystemClock(),
                defaults=config.defaults,
                labels=config.labels,
                debug=config.debug,
                storage_driver=config.storage_driver,
                ids=config.ids,
                registry=config.registry,
            )
        )
        await engine.open()
        cluster = ClusterSide(config, engine, networking)
        await cluster.start()
        callers = Callers(config.default_role, cluster.check_token)
        app = build_app(
            engine,
            swarm_state=cluster.swarm_state,
            cluster_routes=cluster.routes,
            callers=callers,
            audit_directory=config.data_root / "audit",
        )
        runner = runner_of(app, SHUTDOWN_TIMEOUT_S)
        await runner.setup()
        listeners = Listeners(config, runner, callers)
        try:
            await listeners.open()
            yield engine
        finally:
            engine.events.close()
            await listeners.close()
            await runner.cleanup()
            await cluster.stop()
            await engine.close()
            await networking.close()
            await supervisor.close()
    finally:
        os.close(lock)


async def _connect(config: Config) -> Supervisor:
    connect = partial(
        Supervisor.connect,
        config.data_root / "runtime",
        config.run_dir,
        config.cgroup_parent,
        servicemanager.starter(config.supervisor_unit),
    )
    # a supervisor of another version replaces itself while we connect, and the connection ends
    for _ in range(CONNECT_TRIES):
        try:
            return await connect()
        except SupervisorGone as error:
            log.info("supervisor: %s", error)
            await asyncio.sleep(CONNECT_PAUSE_S)
    return await connect()


def _lock(data_root: Path) -> int:
    fd = os.open(data_root / "swarmd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise OSError(f"another swarmd uses {data_root}: stop it or choose --data-root") from None
    return fd


class Listeners:
    """Everything the API listens on."""

    def __init__(self, config: Config, runner: web.AppRunner, callers: Callers) -> None:
        self._config = config
        self._runner = runner
        self._callers = callers
        self._splices: list[TlsSplice] = []

    async def open(self) -> None:
        """Listen; raises OSError naming what cannot be listened on."""
        tls = tls_of(self._config)
        for endpoint in self._config.endpoints:
            listener = listen(endpoint, self._config.group)
            if tls is None or endpoint.kind == "unix":
                await web.SockSite(self._runner, listener).start()
            else:
                splice = TlsSplice(tls.now, self._serve)
                self._splices.append(splice)
                await splice.start(listener)
            log.info("API listens on %s", endpoint)

    async def close(self) -> None:
        """Listen no more; open connections end with the runner."""
        for splice in self._splices:
            await splice.close()
        for endpoint in self._config.endpoints:
            if endpoint.kind == "unix":
                Path(endpoint.address).unlink(missing_ok=True)

    async def _serve(self, connected: socket.socket, client: Secured) -> None:
        assert self._runner.server is not None
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(self._runner.server, connected)
        self._callers.came(transport, client)  # before a byte of it can be read


def tls_of(config: Config) -> TlsFiles | None:
    """Return the TLS of the API's TCP sockets; raises InvalidArgument for unusable files."""
    if not config.tlsverify:
        return None
    return TlsFiles(config.tlscacert, config.tlscert, config.tlskey, config.tlscrl)


async def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with daemon(config):
        servicemanager.notify("READY=1")
        await stop.wait()
        servicemanager.notify("STOPPING=1")
        log.info("stopping; containers go on")


def main() -> int:
    """Run the daemon; the entry point of `swarmd`."""
    words = sys.argv[1:]
    checking, as_json = words[:1] == ["check"], words[1:2] == ["--json"]
    try:
        config = load(words[checking + as_json :], os.environ)
        if checking:
            return check.main(config, as_json=as_json)
        logging.basicConfig(
            level=config.logging_level,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        tls_of(config)  # before anything is touched
        asyncio.run(serve(config))
    except (SwarmError, RuntimeFailure, OSError) as error:
        sys.stderr.write(f"swarmd: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

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
from pathlib import Path

from aiohttp import web

from runtime.client import Supervisor
from runtime.errors import RuntimeFailure, SupervisorGone
from runtime.image.store import ImageStore
from swarmapi.errors import SwarmError
from worker.api.app import build_app
from worker.cluster.side import ClusterSide
from worker.config import Config, load
from worker.engine.clock import SystemClock
from worker.engine.engine import Engine, EngineParts
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
        supervisor = await _connect(config)
        networking = open_networking(config)
        engine = Engine(
            EngineParts(
                data_root=config.data_root,
                supervisor=supervisor,
                networking=networking,
                images=await asyncio.to_thread(ImageStore, config.data_root / "images"),
                clock=SystemClock(),
            )
        )
        await engine.open()
        cluster = ClusterSide(config, engine, networking)
        await cluster.start()
        app = build_app(engine, swarm_state=cluster.swarm_state, cluster_routes=cluster.routes)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
        await runner.setup()
        try:
            await web.SockSite(runner, _listen(config.socket_path)).start()
            yield engine
        finally:
            engine.events.close()
            await runner.cleanup()
            config.socket_path.unlink(missing_ok=True)
            await cluster.stop()
            await engine.close()
            await networking.close()
            await supervisor.close()
    finally:
        os.close(lock)


async def _connect(config: Config) -> Supervisor:
    # a supervisor of another version replaces itself while we connect, and the connection ends
    for _ in range(CONNECT_TRIES):
        try:
            return await Supervisor.connect(
                config.data_root / "runtime", config.run_dir, config.cgroup_parent
            )
        except SupervisorGone as error:
            log.info("supervisor: %s", error)
            await asyncio.sleep(CONNECT_PAUSE_S)
    return await Supervisor.connect(
        config.data_root / "runtime", config.run_dir, config.cgroup_parent
    )


def _lock(data_root: Path) -> int:
    fd = os.open(data_root / "swarmd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise OSError(f"another swarmd uses {data_root}: stop it or choose --data-root") from None
    return fd


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o117)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(128)
    return listener


async def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with daemon(config):
        log.info("API listens on %s", config.socket_path)
        await stop.wait()
        log.info("stopping; containers go on")


def main() -> int:
    """Run the daemon; the entry point of `swarmd`."""
    logging.basicConfig(
        level=os.environ.get("SWARMD_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        config = load(sys.argv[1:], os.environ)
        asyncio.run(serve(config))
    except (SwarmError, RuntimeFailure, OSError) as error:
        sys.stderr.write(f"swarmd: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

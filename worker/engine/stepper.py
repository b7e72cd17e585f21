"""RUN of a build: one throw-away container per step, started like any other."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

from runtime.errors import NoSuchContainer, RuntimeFailure
from runtime.image.build.options import RunStep
from runtime.image.errors import BuildError
from runtime.supervisor.ids import IdMap
from swarmapi.errors import SwarmError
from worker.engine import bundle
from worker.engine.launcher import Launcher, Places
from worker.engine.ports import Attachment, Networking, Supervisor
from worker.engine.record import MountPoint, Record
from worker.engine.security import check_user_namespace
from worker.engine.spec import ContainerConfig, decode_host
from worker.engine.storage import Storage

KILLED_EXIT_CODE = 137


class Stepper:
    """Runs build steps; `run` is called from a worker thread, the work is done on the loop."""

    def __init__(
        self,
        supervisor: Supervisor,
        networking: Networking,
        storage: Storage,
        places: Places,
        find: Callable[[str], Record],
        resolve: Callable[[Record], Awaitable[None]],
        now: Callable[[], int],
    ) -> None:
        self._supervisor = supervisor
        self._networking = networking
        self._storage = storage
        self._places = places
        self._find = find
        self._resolve = resolve
        self._now = now
        self._loop = asyncio.get_running_loop()
        self.running = ""
        """The id of the step's container, empty between steps."""

    def run(self, step: RunStep) -> int:
        """Run a step to its end; changes land in its `upper`; return the exit code."""
        return asyncio.run_coroutine_threadsafe(self._run(step), self._loop).result()

    async def cancel(self) -> None:
        """Kill the step that runs."""
        if self.running:
            with contextlib.suppress(RuntimeFailure):
                await self._supervisor.kill(self.running, 9)

    async def _run(self, step: RunStep) -> int:
        try:
            record = _record(step, self._now(), self._places.ids)
            await self._resolve(record)
        except SwarmError as error:
            raise BuildError(error.message) from error
        places = replace(self._places, containers=step.directory.parent)
        launcher = Launcher(places, self._supervisor, self._networking, self._storage, self._find)
        attachment = await self._supervisor.attach(record.id)
        try:
            try:
                self.running = record.id
                await launcher.start(record, [str(path) for path in step.lower])
            except (RuntimeFailure, SwarmError) as error:
                raise BuildError(f"failed to create task for container: {error}") from error
            return await self._follow(step, record.id, attachment)
        finally:
            self.running = ""
            await attachment.close()
            with contextlib.suppress(NoSuchContainer):
                await self._supervisor.delete(record.id, force=True)
            await launcher.release(record)

    async def _follow(self, step: RunStep, container_id: str, attachment: Attachment) -> int:
        async for stream, data in attachment:
            step.output(stream, data)
        state = await self._supervisor.wait(container_id)
        return KILLED_EXIT_CODE if state.exit_code is None else state.exit_code


def _record(step: RunStep, now_ns: int, ids: IdMap | None) -> Record:
    """The step as a container of its own, which nobody lists."""
    host = decode_host({**step.host, "LogConfig": {"Type": "none"}})
    bundle.check_supported(host)
    if ids is not None:
        check_user_namespace(host)
    path, *args = step.argv
    mounts = []
    for number, target in enumerate(step.volumes):
        source = step.directory / f"volume{number}"
        source.mkdir(mode=0o755)
        if ids is not None and host.userns_mode != "host":
            os.chown(source, *ids.outside(0, 0))
        mounts.append(MountPoint(kind="bind", source=str(source), target=target))
    return Record(
        id=step.directory.name,
        name="",
        created_ns=now_ns,
        image_id="",
        image_config={},
        config=ContainerConfig(user=step.user, working_dir=step.cwd),
        host=host,
        endpoints={},
        path=path,
        args=args,
        env=[f"{name}={value}" for name, value in step.env.items()],
        mounts=mounts,
    )

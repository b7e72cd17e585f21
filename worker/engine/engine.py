"""The container engine of one machine, as the API and the cluster's executor see it."""

import asyncio
import os
import random
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import RuntimeFailure
from runtime.image.errors import ImageNotFound
from runtime.image.registry.endpoint import NO_SETTINGS, RegistrySettings
from runtime.image.removal import User
from runtime.image.store import ImageStore
from runtime.image.verify import Finding
from runtime.supervisor.ids import IdMap
from swarmapi.errors import Conflict, InvalidArgument, NotFound, SwarmError, Unsupported
from worker.engine import bundle, healthcheck, storagedriver
from worker.engine.attach import AttachSession
from worker.engine.check import SystemCheck
from worker.engine.connections import Connections
from worker.engine.defaults import ContainerDefaults
from worker.engine.events import EventBus
from worker.engine.execs import Exec, ExecConfig
from worker.engine.files import Files
from worker.engine.filters import Filters, check_container_filters, matches
from worker.engine.journal import Journal
from worker.engine.launcher import Launcher, Places, published_ports
from worker.engine.lifecycle import Lifecycle, exit_code_of_failure
from worker.engine.limits import resources_of
from worker.engine.links import names_by_target
from worker.engine.logoptions import check_log
from worker.engine.logs import LogLine, LogQuery, read_batches
from worker.engine.names import check_name, fresh_name
from worker.engine.networks import Networks
from worker.engine.ports import Clock, Networking, Supervisor
from worker.engine.record import Container, ExitStatus, Record
from worker.engine.registries import Registries
from worker.engine.security import check_user_namespace
from worker.engine.signals import signal_number
from worker.engine.spec import ContainerCreate
from worker.engine.stepper import Stepper
from worker.engine.storage import Storage
from worker.engine.table import ContainerTable
from worker.engine.updating import merge
from worker.engine.volumes import Volumes

_EXECS_REMEMBERED = 512
_EXEC_REFUSED = 126
Names = list[str]  # `Engine.list` hides the builtin inside the class


@dataclass(frozen=True)
class EngineParts:
    """What an engine is built from."""

    data_root: Path
    supervisor: Supervisor
    networking: Networking
    images: ImageStore
    clock: Clock
    defaults: ContainerDefaults = field(default_factory=ContainerDefaults)
    labels: Mapping[str, str] = field(default_factory=dict)
    debug: bool = False
    storage_driver: str = "overlay2"
    ids: IdMap | None = None
    random_bytes: Callable[[int], bytes] = os.urandom
    registry: RegistrySettings = NO_SETTINGS
    swarm_info: Callable[[], Mapping[str, Any]] = field(
        default=lambda: {"LocalNodeState": "inactive", "NodeID": "", "NodeAddr": ""}
    )
    """The Swarm block of /info; the cluster part replaces it."""


class Engine:
    """Containers, execs, logs, volumes and events of one machine; images by `images`."""

    def __init__(self, parts: EngineParts) -> None:
        self.parts = parts
        self.images = parts.images
        self.networking = parts.networking
        self.supervisor = parts.supervisor
        self.events = EventBus(parts.clock.now_ns, parts.data_root / "events.json")
        self.registries = Registries(parts.images, parts.registry, self._image_changed)
        self.volumes = Volumes(parts.data_root / "volumes")
        self.places = Places(parts.data_root / "containers", parts.storage_driver, parts.ids)
        self.swarm_info = parts.swarm_info
        self.swarm_warnings: Callable[[], Sequence[str]] = tuple
        self._table = ContainerTable(Journal(parts.data_root / "containers.journal"))
        self.networks = Networks(
            Journal(parts.data_root / "networks.journal"),
            parts.networking,
            self.events,
            parts.clock.now_ns,
            parts.random_bytes,
            lambda: [container.record for container in self._table],
            self._record,
        )
        self.storage = Storage(
            self.volumes,
            self.events,
            parts.clock.now_ns,
            parts.random_bytes,
            lambda: [container.record for container in self._table],
            self._record,
            self.places.ids_of,
        )
        self._launcher = Launcher(
            self.places, parts.supervisor, parts.networking, self.storage, self._record
        )
        self.connections = Connections(
            self._table, self.networks, parts.networking, self._launcher, self.events
        )
        self.files = Files(self._table.get, self._launcher, self.lower_dirs)
        self._lifecycle = Lifecycle(
            table=self._table,
            places=self.places,
            supervisor=parts.supervisor,
            networking=parts.networking,
            launcher=self._launcher,
            lower_dirs=self.lower_dirs,
            remove_volumes=self.storage.remove_anonymous,
            bus=self.events,
            clock=parts.clock,
        )
        self._execs: dict[str, Exec] = {}
        self._steppers: weakref.WeakSet[Stepper] = weakref.WeakSet()
        self._attaching: dict[str, set[AttachSession]] = {}
        self._background: set[asyncio.Task[None]] = set()

    def _image_changed(self, action: str, image_id: str, name: str) -> None:
        self.events.emit("image", action, image_id, {"name": name})

    async def open(self) -> None:
        """Read the records, adopt running containers and start those that must run."""
        for directory in (self.places.containers, self.volumes.root):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o710)  # no user here may run what a container made setuid
        self._table.open()
        self.events.open()
        for container in self._table:
            if container.record.alive:
                self.storage.hold(container.record)
        await self.networks.open()
        await self._lifecycle.open()
        await asyncio.to_thread(self.storage.release)

    async def close(self) -> None:
        """Let go of everything; containers go on running."""
        await self._lifecycle.close()
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self.events.close()
        self.networks.close()
        self._table.close()

    # -- containers ------------------------------------------------------------------------

    async def create(self, spec: ContainerCreate) -> str:
        """Create a container and return its id.

        Raises:
            NotFound: when the image is not here.
            AlreadyExists: when the name is taken.
            InvalidArgument, Unsupported: when the spec cannot be served.
        """
        record = await asyncio.to_thread(self._record_of, spec)
        await self.networks.resolve(record)
        self.storage.announce(await asyncio.to_thread(self._furnish, record))
        if not spec.name:
            record.name = fresh_name(self._table.names, random.choice)
        try:
            container = await self._table.add(record)
        except BaseException:
            await asyncio.to_thread(self.storage.remove_anonymous, record)
            raise
        self.places.directory(record.id).mkdir(parents=True, exist_ok=True)
        self._emit(container, "create")
        return record.id

    async def start(self, reference: str) -> bool:
        """Start a container; False when it runs already."""
        container = self._table.get(reference)
        sessions = self._attaching.pop(container.record.id, set())
        await self._attach_early(container, sessions)
        try:
            started = await self._lifecycle.start(container)
        except BaseException:
            for session in sessions:
                session.connected(None)
            raise
        await self._attach_late(container, sessions)
        rows, columns = container.console_size or container.record.host.console_size
        if rows and columns and container.record.config.tty:
            with suppress(RuntimeFailure):
                await self.supervisor.resize(container.record.id, rows, columns)
        return started

    async def stop(self, reference: str, timeout_s: float | None = None, signal: str = "") -> bool:
        """Stop a container; False when it was not running."""
        return await self._lifecycle.stop(self._table.get(reference), timeout_s, signal)

    async def restart(
        self, reference: str, timeout_s: float | None = None, signal: str = ""
    ) -> None:
        """Stop, when running, and start again."""
        container = self._table.get(reference)
        try:
            await self._lifecycle.stop(container, timeout_s, signal)
            await self.start(container.record.id)
        except SwarmError as error:
            said = f"Cannot restart container {reference}: {error.message}"
            raise type(error)(said) from error
        self._emit(container, "restart")

    async def kill(self, reference: str, signal: str = "KILL") -> None:
        """Send a signal to the container's first process."""
        await self._lifecycle.kill(self._table.get(reference), signal)

    async def pause(self, reference: str) -> None:
        """Freeze a running container."""
        await self._lifecycle.pause(self._table.get(reference))

    async def unpause(self, reference: str) -> None:
        """Thaw a paused container."""
        await self._lifecycle.unpause(self._table.get(reference))

    async def wait(self, reference: str, condition: str = "not-running") -> ExitStatus:
        """Return how the container ended; condition is not-running, next-exit or removed."""
        return await self._lifecycle.wait(self._table.get(reference), condition)

    async def await_health(self, reference: str, *wanted: str) -> str:
        """Return the container's health once it is one of these; empty when it ended before."""
        return await self._lifecycle.await_health(self._table.get(reference), wanted)

    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False) -> None:
        """Delete a container; `force` also when it runs."""
        container = self._table.get(reference)
        await self._lifecycle.remove(container, force=force, volumes=volumes)
        for exec_id in container.exec_ids:
            self._execs.pop(exec_id, None)
        for session in self._attaching.pop(container.record.id, set()):
            session.connected(None)

    async def rename(self, reference: str, name: str) -> None:
        """Give a container another name."""
        name = name.removeprefix("/")
        container = self._table.get(reference)
        check_name(name)
        before = container.record.name
        if name == before:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        await self._table.rename(container, name)
        await self.connections.renamed(container.record)
        self._emit(container, "rename", {"oldName": f"/{before}"})

    async def update(self, reference: str, changes: Mapping[str, Any]) -> None:
        """Change limits and the restart policy (`changes` in HostConfig's JSON names)."""
        container = self._table.get(reference)
        record = container.record
        fresh = merge(record.host, changes)
        async with container.lock:
            if record.running:
                await self.supervisor.update(record.id, resources_of(fresh))
            if record.alive and fresh.restart_policy != record.host.restart_policy:
                await self.supervisor.set_restart(record.id, fresh.restart_policy.to_runtime())
            record.host = fresh
            await self._table.save(container)
        self._emit(container, "update")

    def inspect(self, reference: str) -> Container:
        """Return a container by id, prefix or name.

        Raises:
            NotFound: when there is none.
        """
        return self._table.get(reference)

    def find(self, container_id: str) -> Container | None:
        """Return the container of a full id, if it is still here."""
        return self._table.find(container_id)

    def link_names(self) -> Mapping[str, Sequence[str]]:
        """Return, by a container's id, what it is called by those that link to it."""
        return names_by_target(container.record for container in self._table)

    def list(self, filters: Filters | None = None, *, everything: bool = False) -> list[Container]:
        """Return containers, newest first; without `everything` and a status filter: running."""
        filters = filters or {}
        check_container_filters(filters)
        references = {
            value: self._table.get(value).record
            for key in ("before", "since")
            for value in filters.get(key, ())
        }
        shown = everything or any(filters.get(key) for key in ("status", "exited"))
        found = [
            container
            for container in self._table
            if (shown or container.record.alive) and matches(container.record, filters, references)
        ]
        return sorted(found, key=lambda container: -container.record.created_ns)

    async def processes(self, reference: str) -> Sequence[int]:
        """Return the host pids of a running container's processes."""
        record = self._running(reference).record
        return await self.supervisor.processes(record.id)

    async def stats(self, reference: str) -> Mapping[str, Any]:
        """Return the supervisor's counters of a running container."""
        record = self._running(reference).record
        return await self.supervisor.stats(record.id)

    async def resize(self, reference: str, rows: int, columns: int) -> None:
        """Set the terminal's size; remembered for a container that is still to start."""
        container = self._table.get(reference)
        container.console_size = (rows, columns)
        if not container.record.running:
            raise Conflict(f"container {container.record.id} is not running")
        await self.supervisor.resize(container.record.id, rows, columns)

    # -- streams ---------------------------------------------------------------------------

    def logs(self, reference: str, query: LogQuery) -> AsyncGenerator[Sequence[LogLine], None]:
        """Return batches of log lines (see `read_batches`).

        Raises:
            Unsupported: when the container's logging driver is none.
        """
        record = self._logged(reference)
        return read_batches(self.places.log(record.id), query, lambda: record.alive)

    def task_logs(self, reference: str, query: LogQuery) -> AsyncGenerator[Sequence[LogLine], None]:
        """Return batches of log lines as `logs` does; also before the container starts."""
        record = self._logged(reference)

        def goes_on() -> bool:
            return record.alive or (record.status == "created" and not record.error)

        return read_batches(self.places.log(record.id), query, goes_on)

    def _logged(self, reference: str) -> Record:
        record = self._table.get(reference).record
        if record.host.log_config.type == "none":
            raise Unsupported("configured logging driver does not support reading")
        return record

    async def attach(self, reference: str) -> AttachSession:
        """Connect to a container's streams, now or when it starts."""
        container = self._table.get(reference)
        record = container.record
        if record.status == "paused":
            raise Conflict(f"container {record.id} is paused, unpause the container before attach")
        session = AttachSession()
        if record.running:
            session.connected(await self.supervisor.attach(record.id))
            session.open_input()
        else:
            self._attaching.setdefault(record.id, set()).add(session)
        return session

    def forget_session(self, reference: str, session: AttachSession) -> None:
        """Drop a session whose client went away before the container started."""
        self._attaching.get(reference, set()).discard(session)

    async def _attach_early(self, container: Container, sessions: set[AttachSession]) -> None:
        for session in sessions:
            with suppress(RuntimeFailure):
                session.connected(await self.supervisor.attach(container.record.id))

    async def _attach_late(self, container: Container, sessions: set[AttachSession]) -> None:
        for session in sessions:
            if session.waiting:
                try:
                    session.connected(await self.supervisor.attach(container.record.id))
                except RuntimeFailure:  # it has ended, or runs unseen: it has started
                    session.connected(None)
            session.open_input()

    # -- execs -----------------------------------------------------------------------------

    def create_exec(self, reference: str, config: ExecConfig) -> str:
        """Prepare an exec in a running container and return its id."""
        container = self._running(reference)
        if container.record.status == "paused":
            raise Conflict(f"Container {reference} is paused, unpause the container before exec")
        if not config.cmd:
            raise InvalidArgument("No exec command specified")
        exec_id = self.parts.random_bytes(32).hex()
        self._execs[exec_id] = Exec(exec_id, container.record.id, config)
        container.exec_ids.append(exec_id)
        self._emit(container, f"exec_create: {' '.join(config.cmd)}", {"execID": exec_id})
        self._forget_old_execs()
        return exec_id

    def running_execs(self, container: Container) -> Sequence[str]:
        """Return the ids of a container's execs that have not ended."""
        known = ((one, self._execs.get(one)) for one in container.exec_ids)
        return [one for one, found in known if found is not None and found.exit_code is None]

    def check_exec(self, exec_id: str) -> None:
        """Check that an exec could be started now.

        Raises:
            Conflict: when it has run, or its container does not run or is paused.
        """
        found = self.find_exec(exec_id)
        if found.started or found.exit_code is not None:
            raise Conflict(f"exec {exec_id} has already run")
        if self._running(found.container_id).record.status == "paused":
            raise Conflict(f"Container {found.container_id} is paused, unpause it before exec")

    async def start_exec(self, exec_id: str) -> Exec:
        """Run a prepared exec; its streams are the returned object's.

        Raises:
            InvalidArgument: with runc's words when the program cannot be run.
        """
        self.check_exec(exec_id)
        found = self.find_exec(exec_id)
        container = self._running(found.container_id)
        try:
            process = await asyncio.to_thread(self.exec_process, container.record, found.config)
        except InvalidArgument:
            found.exit_code = _EXEC_REFUSED
            raise
        found.on_exit = lambda code: self._emit(
            container, "exec_die", {"execID": exec_id, "exitCode": str(code)}
        )
        words = " ".join(found.config.cmd)
        self._emit(container, f"exec_start: {words}", {"execID": exec_id})
        try:
            await found.start(self.supervisor, process)
        except RuntimeFailure as error:
            found.exit_code = exit_code_of_failure(str(error))
            raise InvalidArgument(f"OCI runtime exec failed: {error}") from error
        return found

    def run_detached(self, running: Exec) -> None:
        """Drain a detached exec's output in the background until it ends."""
        task = asyncio.create_task(running.discard_output())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def find_exec(self, exec_id: str) -> Exec:
        """Return an exec by id.

        Raises:
            NotFound: when there is none.
        """
        try:
            return self._execs[exec_id]
        except KeyError:
            raise NotFound(f"No such exec instance: {exec_id}") from None

    def emit(self, reference: str, action: str, extra: Mapping[str, str] | None = None) -> None:
        """Tell the event bus what a client did with a container."""
        self._emit(self._table.get(reference), action, extra)

    # -- inside ----------------------------------------------------------------------------

    def lower_dirs(self, image_id: str) -> Sequence[str]:
        """Return the unpacked layers of an image, topmost first; blocking."""
        return [str(path) for path in self.images.lower_dirs(self.images.resolve(image_id))]

    def stepper(self) -> Stepper:
        """Return what runs the steps of one build."""
        stepper = Stepper(
            self.supervisor,
            self.networking,
            self.storage,
            self.places,
            self._record,
            self.networks.resolve,
            self.parts.clock.now_ns,
        )
        self._steppers.add(stepper)
        return stepper

    async def check(self, *, repair: bool) -> Sequence[Finding]:
        """Return where records, containers, networks and images disagree; repair what can be."""
        found = SystemCheck(
            self._table,
            self.places,
            self.supervisor,
            self.networking,
            self._lifecycle,
            self.images,
            lambda: {stepper.running for stepper in self._steppers},
        )
        return await found.run(repair=repair)

    def users_of_image(self, image_id: str) -> Sequence[User]:
        """Return the containers made from an image."""
        return [
            User(c.record.id, c.record.alive) for c in self._table if c.record.image_id == image_id
        ]

    def _furnish(self, record: Record) -> Names:
        return self.storage.furnish(record, self.lower_dirs(record.image_id))

    def _record_of(self, spec: ContainerCreate) -> Record:
        if spec.name:
            spec.name = spec.name.removeprefix("/")
            check_name(spec.name)
        self.parts.defaults.apply(spec.host)
        bundle.check_supported(spec.host)
        if self.parts.ids is not None:
            check_user_namespace(spec.host)
        storagedriver.container_size(self.parts.storage_driver, spec.host.storage_opt)
        try:
            image = self.images.resolve(spec.config.image)
        except ImageNotFound as error:
            raise NotFound(str(error)) from None
        image_config = dict(image.config.get("config") or {})
        check_working_dir(spec.config.working_dir)
        path, args = bundle.command_of(image_config, spec.config)
        if spec.config.stop_signal:
            signal_number(spec.config.stop_signal)
        check_log(spec.host.log_config)
        spec.config.healthcheck = healthcheck.effective(spec.config.healthcheck, image_config)
        now_ns = self.parts.clock.now_ns()
        record = Record(
            id=self.parts.random_bytes(32).hex(),
            name=spec.name,
            created_ns=now_ns,
            image_id=image.id,
            image_config=image_config,
            config=spec.config,
            host=spec.host,
            endpoints=spec.endpoints,
            path=path,
            args=args,
            env=bundle.merge_env(image_config.get("Env") or [], spec.config.env),
        )
        record.config.labels = {**(image_config.get("Labels") or {}), **record.config.labels}
        published_ports(record)
        if spec.host.uts_mode == "host" and spec.config.hostname:
            raise InvalidArgument("conflicting options: hostname and the UTS mode")
        if "host" in (spec.host.network_mode, spec.host.uts_mode) and not spec.config.hostname:
            record.config.hostname = os.uname().nodename
        return record

    def exec_process(self, record: Record, config: ExecConfig) -> dict[str, Any]:
        """Return the OCI process of an exec; it reads the image."""
        return self._launcher.exec_process(record, config, self.lower_dirs(record.image_id))

    def _running(self, reference: str) -> Container:
        container = self._table.get(reference)
        if not container.record.running:
            raise Conflict(f"container {container.record.id} is not running")
        return container

    def _record(self, reference: str) -> Record:
        return self._table.get(reference).record

    def _forget_old_execs(self) -> None:
        for exec_id, known in list(self._execs.items()):
            if len(self._execs) <= _EXECS_REMEMBERED:
                return
            if known.exit_code is not None:
                del self._execs[exec_id]
                with suppress(NotFound, ValueError):
                    self._table.get(known.container_id).exec_ids.remove(exec_id)

    def _emit(
        self, container: Container, action: str, extra: Mapping[str, str] | None = None
    ) -> None:
        record = container.record
        attributes = {"image": record.config.image, "name": record.name, **record.config.labels}
        self.events.emit("container", action, record.id, attributes | dict(extra or {}))


def check_working_dir(path: str) -> None:
    """Refuse a working directory that is not absolute; raises InvalidArgument."""
    if path and not path.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{path}' is invalid, it needs to be an absolute path"
        )

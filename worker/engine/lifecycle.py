"""The life of containers: start, stop, end, restart, removal and readoption."""

import asyncio
import logging
import shutil
import signal as signals
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from runtime.errors import BadStatus, NoSuchContainer, RuntimeFailure
from runtime.oci import ContainerState
from swarmapi.errors import Conflict, InvalidArgument, NotFound, SwarmError, Unavailable
from worker.engine import restart
from worker.engine.events import EventBus, emit_network, emit_volume
from worker.engine.launcher import Launcher, Places, join_request
from worker.engine.ports import Clock, JoinedEndpoint, Networking, Supervisor
from worker.engine.record import Container, ExitStatus, Health, Record
from worker.engine.signals import signal_number, stop_signal_of
from worker.engine.table import ContainerTable

DEFAULT_STOP_TIMEOUT_S = 10
KILL_WAIT_S = 10.0
LOST_EXIT_CODE = 255
"""The exit code of a container whose end nobody saw (as Docker has it after a reboot)."""
_BOOT_RETRY_S = 1.0
_BOOT_WAIT_S = 60.0
"""So long the boot of a container waits for those of others, as with Docker."""

log = logging.getLogger(__name__)
_T = TypeVar("_T")
LowerDirs = Callable[[str], Sequence[str]]


class Lifecycle:
    """Moves containers between states; every move is journalled and told to the event bus."""

    def __init__(
        self,
        *,
        table: ContainerTable,
        places: Places,
        supervisor: Supervisor,
        networking: Networking,
        launcher: Launcher,
        lower_dirs: LowerDirs,
        remove_volumes: Callable[[Record], object],
        bus: EventBus,
        clock: Clock,
    ) -> None:
        self._table = table
        self._places = places
        self._supervisor = supervisor
        self._networking = networking
        self._launcher = launcher
        self._lower_dirs = lower_dirs
        self._remove_volumes = remove_volumes
        self._bus = bus
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._starts: set[asyncio.Task[bool]] = set()
        self._adopted = asyncio.Event()
        self._booting: dict[str, asyncio.Event] = {}
        """Adopted ones that had ended; set when they run again, or are not going to."""

    async def open(self) -> None:
        """Adopt what the supervisor holds, mark what is lost, and watch for ends."""
        queue = self._supervisor.subscribe()
        known = {state.container_id: state for state in await self._supervisor.list()}
        for container in list(self._table):
            state = known.pop(container.record.id, None)
            await self.adopt(container, state)
        alive = {c.record.id for c in self._table if c.record.alive}
        for stranger in set(await self._networking.kept()) - alive:
            await self._networking.leave(stranger)
        for orphan in known:
            log.warning("container %s of the supervisor has no record: it is ended", orphan)
            self._spawn(self.end_orphan(orphan))
        self._spawn(self._watch(queue))
        self._adopted.set()

    async def close(self) -> None:
        """Stop watching; containers go on, and starts under way come to their end first."""
        await asyncio.gather(*self._starts, return_exceptions=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def start(self, container: Container) -> bool:
        """Start a container; False when it was running already.

        It is whole or not at all: after an error nothing of it runs, and a caller that is cancelled
        does not leave it half done.

        Raises:
            InvalidArgument: with runc's words when the program cannot be run.
            Conflict: when the container is paused or being removed.
            OSError: when its record cannot be made durable.
        """
        start = asyncio.create_task(self._start(container))
        self._starts.add(start)
        start.add_done_callback(self._starts.discard)
        return await asyncio.shield(start)

    async def _start(self, container: Container) -> bool:
        async with container.lock:
            if container.record.status == "paused":
                raise Conflict("cannot start a paused container, try unpause instead")
            if container.record.alive:
                return False
            self._refuse_if_leaving(container)
            await self._launch(container)
            return True

    async def stop(
        self, container: Container, timeout_s: float | None = None, signal: str = ""
    ) -> bool:
        """Ask a container to end and kill it after the timeout (negative: never).

        Returns False when it was not running.
        """
        record = container.record
        if not record.alive:
            return False
        configured = record.config.stop_timeout
        if timeout_s is None:
            timeout_s = DEFAULT_STOP_TIMEOUT_S if configured is None else configured
        number = signal_number(signal or stop_signal_of(record))
        await self._signal(container, number, final=True)
        self._emit(container, "kill", {"signal": str(int(number))})
        if record.status == "paused":
            await self.unpause(container)
        try:
            async with asyncio.timeout(timeout_s if timeout_s >= 0 else None):
                await self.wait(container)
        except TimeoutError:
            await self._kill(container)
        self._emit(container, "stop")
        return True

    async def kill(self, container: Container, signal: str = "KILL") -> None:
        """Send a signal; KILL and the stop signal also end the restart policy's claim.

        KILL returns when the container has ended, as with Docker.

        Raises:
            Conflict: when the container is not running.
        """
        number = signal_number(signal or "KILL")
        record = container.record
        if not record.running:
            raise Conflict(
                f"cannot kill container: {record.name}: container {record.id} is not running"
            )
        final = number in (signals.SIGKILL, signal_number(stop_signal_of(record)))
        await self._signal(container, number, final=final)
        self._emit(container, "kill", {"signal": str(int(number))})
        if number == signals.SIGKILL:
            await self._await_end(container)

    async def pause(self, container: Container) -> None:
        """Freeze every process of the container."""
        async with container.lock:
            if container.record.status == "paused":
                raise Conflict(f"container {container.record.id} is already paused")
            if container.record.status != "running":
                raise Conflict(f"container {container.record.id} is not running")
            await self._supervisor.pause(container.record.id)
            container.record.status = "paused"
            await self._table.settle(container)
        self._emit(container, "pause")

    async def unpause(self, container: Container) -> None:
        """Thaw a paused container."""
        async with container.lock:
            if container.record.status != "paused":
                raise Conflict(f"Container {container.record.id} is not paused")
            await self._supervisor.resume(container.record.id)
            container.record.status = "running"
            await self._table.settle(container)
        self._emit(container, "unpause")

    async def remove(
        self, container: Container, *, force: bool = False, volumes: bool = False
    ) -> None:
        """Delete a container, its files and, when asked, its anonymous volumes.

        Raises:
            Conflict: when it runs and `force` is false.
        """
        record = container.record
        if record.alive:
            if not force:
                state, advice = "running", "stop the container before removing or force remove"
                if record.status == "paused":
                    state, advice = "paused and must be unpaused first", ""
                what = f'cannot remove container "/{record.name}": container is {state}'
                raise Conflict(f"{what}: {advice}" if advice else what)
            await self._kill(container)
        async with container.lock:
            if self._table.find(record.id) is not container:
                return
            record.status = "removing"
            with suppress(NoSuchContainer):
                await self._supervisor.delete(record.id)
            await asyncio.to_thread(self._remove_files, record, volumes)
            await self._table.remove(container)
        container.announce_removal()
        self._emit(container, "destroy")

    async def wait(self, container: Container, condition: str = "not-running") -> ExitStatus:
        """Return how the container ended; conditions: not-running, next-exit, removed."""
        if condition == "removed":
            waiter = _waiter(container.removal_waiters)
            return await waiter
        if condition == "next-exit":
            return await _waiter(container.exit_waiters)
        while container.record.alive:
            await _waiter(container.exit_waiters)
        status = container.exit_status
        async with container.lock:  # its ports and addresses are free once the end is settled
            return status

    async def await_health(self, container: Container, wanted: Sequence[str]) -> str:
        """Return the health once it is one of these; empty when the container ended before."""
        while container.record.alive and container.record.health_status not in wanted:
            await _waiter(container.health_waiters)
        return container.record.health_status if container.record.alive else ""

    async def _launch(self, container: Container) -> None:
        record = container.record
        record.stopped_by_user = False
        try:
            lower = await asyncio.to_thread(self._lower_dirs, record.image_id)
            with suppress(NoSuchContainer):
                await self._supervisor.delete(record.id)
            container.launches += 1
            state = await self._launcher.start(record, lower, lambda: self._table.note(container))
        except (SwarmError, RuntimeFailure, OSError, ValueError) as error:
            await self._end_unrecorded(record.id)  # one whose answer was lost, say, may be up
            if isinstance(error, SwarmError):
                await self._record_failed_start(container, error.message)
                raise
            message = start_message(str(error))
            await self._record_failed_start(container, message)
            raise InvalidArgument(message) from error
        _take_run(record, state)
        try:
            await self._table.save(container)
        except OSError as error:
            await self._end_unrecorded(record.id)
            await self._launcher.release(record)
            record.finished_ns = self._clock.now_ns()
            await self._record_failed_start(container, start_message(str(error)))
            raise
        container.networked = True
        await self._tell_linked(record)
        self._emit_places(record, come=True)
        self._emit(container, "start")
        if state.status in ("stopped", "restarting"):
            self._spawn(self._ended(container, state, container.launches))

    async def _tell_linked(self, record: Record) -> None:
        """Give those that link to a container its address of now."""
        for other in tuple(self._table):
            found = other.record
            if found.running and any(link.startswith(record.id) for link in found.host.links):
                try:
                    await self._launcher.write_files(found)
                except OSError as error:  # the container that started runs all the same
                    log.warning("container %s is not told of a link: %s", found.id[:12], error)

    async def _record_failed_start(self, container: Container, message: str) -> None:
        record = container.record
        record.error = message
        record.exit_code = exit_code_of_failure(message)
        if record.status != "created":
            record.status = "exited"
        record.joined, record.ports, record.pid, record.health = {}, [], 0, None
        await self._table.settle(container)
        self._emit(container, "die", {"exitCode": str(record.exit_code)})
        container.announce_exit()
        if record.host.auto_remove:
            self._spawn(self._remove_quietly(container))

    async def _watch(self, queue: asyncio.Queue[ContainerState]) -> None:
        while True:
            state = await queue.get()
            container = self._table.find(state.container_id)
            if container is None:
                continue
            if state.status in ("stopped", "restarting"):
                self._spawn(self._ended(container, state, container.launches))
            else:
                self._spawn(self._runs(container, state, container.launches))

    async def _runs(self, container: Container, state: ContainerState, launches: int) -> None:
        """Take what the supervisor says of a container that lives: a restart, its health."""
        record = container.record
        async with container.lock:
            if container.launches != launches or not record.alive:
                return
            restarted = record.started_ns != state.started_ns
            before = record.health_status
            if restarted:
                _take_run(record, state)
                await self._table.settle(container)
                if not container.networked:
                    await self._rejoin(container)
            record.health = _health_of(state)
        if restarted:
            self._emit(container, "start")
        elif record.health_status != before:
            self._emit(container, f"health_status: {record.health_status}")
        container.announce_health()

    async def _ended(self, container: Container, state: ContainerState, launches: int) -> None:
        """Take an end, be it the last one or one that the supervisor lets a restart follow."""
        record = container.record
        again = state.status == "restarting"
        async with container.lock:
            if container.launches != launches or not record.alive:
                return
            died = record.running or record.started_ns != state.started_ns
            if again and not died:
                return
            self._record_end(record, state)
            record.status = "restarting" if again else "exited"
            await self._table.settle(container)
            if not again:
                await self._let_go(container)
        if died:
            self._emit(container, "die", {"exitCode": str(record.exit_code)})
        if died and record.oom_killed:
            self._emit(container, "oom")
        container.announce_exit()
        if not again:
            await self._follow_end(container, unseen=state.exit_code is None)

    async def _let_go(self, container: Container) -> None:
        await self._launcher.release(container.record)
        container.networked = False
        with suppress(RuntimeFailure):
            await self._supervisor.delete(container.record.id)

    async def _follow_end(self, container: Container, *, unseen: bool) -> None:
        """Remove what is to go with its end; start what nobody was there to restart."""
        record = container.record
        policy = record.host.restart_policy.to_runtime()
        if record.host.auto_remove:
            await self._remove_quietly(container)
        elif unseen and restart.should_start_at_boot(
            policy, record.exit_code, record.restart_count, stopped_by_user=record.stopped_by_user
        ):
            await self._start_at_boot(container)

    async def _start_at_boot(self, container: Container) -> None:
        """Start it after what it leans on, on the cluster's networks once managers can be asked."""
        record = container.record
        await self._adopted.wait()
        for reference in record.leans_on:
            with suppress(NotFound, InvalidArgument, KeyError, TimeoutError):
                other = self._booting[self._table.get(reference).record.id]
                async with asyncio.timeout(_BOOT_WAIT_S):
                    await other.wait()
        while not record.alive and self._table.find(record.id) is container:
            try:
                await self.start(container)
            except Unavailable as error:
                log.info("restart of container %s: %s", record.id, error)
                await self._clock.sleep(_BOOT_RETRY_S)
            except SwarmError as error:
                log.warning("restart of container %s: %s", record.id, error)
                return

    def _record_end(self, record: Record, state: ContainerState) -> None:
        record.exit_code = LOST_EXIT_CODE if state.exit_code is None else state.exit_code
        record.oom_killed = state.oom_killed
        record.error = state.error
        record.started_ns = state.started_ns
        record.finished_ns = state.finished_ns or self._clock.now_ns()
        record.stopped_by_user = state.stop_asked
        record.restart_count = state.restart_count
        record.health = _health_of(state)
        record.pid = 0
        if state.status == "stopped":
            self._emit_places(record, come=False)
            record.joined, record.ports = {}, []

    async def adopt(self, container: Container, state: ContainerState | None) -> None:
        """Believe the supervisor: it saw what happened while no daemon was there."""
        record = container.record
        unknown = state is None or record.started_ns != state.started_ns
        if state is not None and state.status != "stopped":
            if unknown or not record.alive:
                _take_run(record, state)
            record.status, record.health = state.status, _health_of(state)
            await self._table.settle(container)
            if record.running:
                await self._rejoin(container)
            return
        if state is not None and (unknown or record.alive):
            _take_run(record, state)
            self._take_up(container, self._ended(container, state, container.launches))
            return
        if state is not None or record.alive or record.joined:
            await self._let_go(container)
            record.joined, record.ports = {}, []
        if record.alive:
            record.exit_code, record.pid, record.status = LOST_EXIT_CODE, 0, "exited"
            record.finished_ns = self._clock.now_ns()
            await self._table.settle(container)
        if record.status == "exited":
            self._take_up(container, self._follow_end(container, unseen=True))

    def _take_up(self, container: Container, follow: Coroutine[None, None, None]) -> None:
        """Let what follows an end happen; who leans on the container may wait for it."""
        over = self._booting[container.record.id] = asyncio.Event()

        async def boot() -> None:
            try:
                await follow
            finally:
                over.set()

        self._spawn(boot())

    async def end_orphan(self, container_id: str) -> None:
        """End what no record tells of: a step of a build whose daemon is gone."""
        await self._end_unrecorded(container_id)
        await self._networking.leave(container_id)

    async def _end_unrecorded(self, container_id: str) -> None:
        """End and forget a run that no record tells of; none is fine."""
        try:
            await self._supervisor.delete(container_id, force=True)
        except NoSuchContainer:
            return
        except RuntimeFailure as error:
            log.error("container %s may run without a record: %s", container_id, error)

    async def _rejoin(self, container: Container) -> None:
        record = container.record
        container.networked = True
        if not record.owns_network:
            return
        endpoints = [
            JoinedEndpoint(
                network=name,
                network_id=state.network_id,
                endpoint_id=state.endpoint_id,
                address=state.address,
                prefix_length=state.prefix_length,
                gateway=state.gateway,
                mac=state.mac,
                driver=state.driver,
                ipv6_address=state.ipv6_address,
                ipv6_prefix_length=state.ipv6_prefix_length,
                ipv6_gateway=state.ipv6_gateway,
            )
            for name, state in record.joined.items()
        ]
        try:
            await self._networking.rejoin(join_request(record), record.pid, endpoints)
        except (SwarmError, OSError) as error:
            log.error("network of running container %s: %s", record.id, error)

    async def _signal(self, container: Container, number: int, *, final: bool) -> None:
        try:
            await self._supervisor.kill(container.record.id, number, final=final)
        except NoSuchContainer:
            return
        except RuntimeFailure as error:
            ended = isinstance(error, BadStatus) and error.have == "stopped"
            if container.record.running and not ended:  # its end is on its way to us
                raise

    async def _kill(self, container: Container) -> None:
        await self._signal(container, signals.SIGKILL, final=True)
        self._emit(container, "kill", {"signal": str(int(signals.SIGKILL))})
        await self._await_end(container)

    async def _await_end(self, container: Container) -> None:
        try:
            async with asyncio.timeout(KILL_WAIT_S):
                await self.wait(container)
        except TimeoutError:
            raise Conflict(
                f"container {container.record.id} did not end {KILL_WAIT_S:.0f} s after SIGKILL"
            ) from None

    async def _remove_quietly(self, container: Container) -> None:
        try:
            await self.remove(container, volumes=True)
        except (SwarmError, RuntimeFailure, OSError) as error:
            log.warning("automatic removal of container %s: %s", container.record.id, error)

    def _remove_files(self, record: Record, volumes: bool) -> None:
        directory = self._places.directory(record.id)
        if directory.exists():
            shutil.rmtree(directory)
        if volumes:
            self._remove_volumes(record)

    @staticmethod
    def _refuse_if_leaving(container: Container) -> None:
        if container.record.status in ("removing", "dead"):
            raise Conflict("container is marked for removal and cannot be started")

    def _emit(
        self, container: Container, action: str, extra: Mapping[str, str] | None = None
    ) -> None:
        record = container.record
        attributes = {"image": record.config.image, "name": record.name, **record.config.labels}
        self._bus.emit("container", action, record.id, attributes | dict(extra or {}))

    def _emit_places(self, record: Record, *, come: bool) -> None:
        """Tell that a container came to its networks and volumes, or left them."""
        for name, state in record.joined.items():
            action = "connect" if come else "disconnect"
            emit_network(self._bus, action, state.network_id, name, state.driver, record.id)
        for point in record.mounts:
            if point.kind == "volume":
                emit_volume(self._bus, point.name, record.id, point.target if come else "")

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        self._keep(asyncio.create_task(coroutine))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a container's background work failed", exc_info=error)


def _take_run(record: Record, state: ContainerState) -> None:
    """Enter the run the supervisor tells of."""
    record.status = "paused" if state.status == "paused" else "running"
    record.pid, record.started_ns = state.pid, state.started_ns
    record.exit_code, record.error, record.oom_killed = 0, "", False
    record.finished_ns = 0
    record.restart_count = state.restart_count
    record.warnings = list(state.warnings)
    record.health = _health_of(state)


def _health_of(state: ContainerState) -> Health | None:
    return None if state.health is None else msgspec.convert(state.health, Health)


def start_message(message: str) -> str:
    """Word a failed start as clients expect: they read exit codes 126 and 127 from it."""
    if message.startswith("failed to create task"):
        return message
    return f"failed to create task for container: {message}"


def exit_code_of_failure(message: str) -> int:
    """Return 127 for a program not found, 126 for one not executable, else 128."""
    lowered = message.lower()
    if "not found" in lowered or "no such file" in lowered:
        return 127
    if "permission denied" in lowered or "is a directory" in lowered:
        return 126
    return 128


def _waiter(waiters: set[asyncio.Future[_T]]) -> asyncio.Future[_T]:
    future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
    waiters.add(future)
    future.add_done_callback(waiters.discard)
    return future

"""The executor: tasks become containers of this machine's engine."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from runtime.errors import RuntimeFailure
from runtime.image.errors import ImageNotFound
from runtime.image.registry.errors import RegistryError
from swarmapi.errors import Conflict, InvalidArgument, NotFound, SwarmError
from swarmapi.model import defaults
from swarmapi.model.expand import TaskPlace, contents, expanded
from swarmapi.model.objects import (
    NodeDescription,
    RegistryAuth,
    SpecVersion,
    Task,
    TaskStatus,
)
from swarmapi.model.readiness import Readiness
from swarmapi.model.readiness import readiness as readiness_of
from swarmapi.model.spec import (
    ContainerSpec,
    LogDriver,
    Mount,
    Privileges,
    SeccompOptions,
    TaskTemplate,
    to_json,
)
from worker import readiness
from worker.agent.ports import NotStarted, Vantage
from worker.agent.secrets import NodeSecrets
from worker.engine.endpoints import EndpointSpec
from worker.engine.engine import Engine
from worker.engine.execs import Exec, ExecConfig
from worker.engine.healthcheck import is_checked
from worker.engine.logs import LogLine, LogQuery
from worker.engine.spec import (
    ContainerConfig,
    ContainerCreate,
    Healthcheck,
    HostConfig,
    LogSpec,
    PortBinding,
    Ulimit,
)
from worker.engine.spec import Mount as EngineMount
from worker.pulling import Say, TaskPulls
from worker.secretfiles import SecretFiles
from worker.taskmachine import Outcome, Standing

log = logging.getLogger(__name__)
T = TypeVar("T")
Tell = Callable[[Standing], None]
LABEL = "com.docker.swarm."
"""Prefix of the labels that tell a task's container (the names are Docker's)."""

DRAIN_S = 5.0
"""How long a task's established connections may go on before it is told to stop."""
DRAIN_POLL_S = 0.1
WITHDRAWAL_S = 6.0
"""How long an ill task waits for the managers' leave to stop it: a little more than they need."""


def container_name(task: Task) -> str:
    """Return `service.slot.task`, for a global service `service.node.task`."""
    return f"{task.service_name}.{task.slot or task.node_id}.{task.id}"


def to_container(task: Task, spec: SpecVersion) -> ContainerCreate:
    """Translate a task into what the engine creates."""
    container = defaults.container(spec.spec)
    name = container_name(task)
    labels = {
        LABEL + "node.id": task.node_id,
        LABEL + "service.id": task.service_id,
        LABEL + "service.name": task.service_name,
        LABEL + "task": "",
        LABEL + "task.id": task.id,
        LABEL + "task.name": name,
    }
    return ContainerCreate(
        name=name,
        config=_config(container, {**(container.labels or {}), **labels}, _generic(task)),
        host=_host(task, container, spec.spec.task_template, _host_ports(spec)),
        endpoints={
            lease.network_id: EndpointSpec(
                ipv4_address=lease.address.partition("/")[0],
                ipv6_address=lease.ipv6_address.partition("/")[0],
                aliases=list(lease.aliases),
                leased=True,
            )
            for lease in task.addresses
        },
    )


def _generic(task: Task) -> list[str]:
    """Return the variables by which a container learns what it has; the names are Docker's."""
    return [
        f"DOCKER_RESOURCE_{share.kind.upper()}={','.join(share.names) or share.count}"
        for share in task.generic
    ]


def _config(container: ContainerSpec, labels: dict[str, str], env: list[str]) -> ContainerConfig:
    health = container.health_check
    return ContainerConfig(
        hostname=container.hostname,
        user=container.user,
        tty=container.tty,
        open_stdin=container.open_stdin,
        env=[*(container.env or ()), *env],
        cmd=list(container.args) if container.args else None,
        entrypoint=list(container.command) if container.command else None,
        healthcheck=Healthcheck(
            test=list(health.test or ()),
            interval=health.interval,
            timeout=health.timeout,
            start_period=health.start_period,
            start_interval=health.start_interval,
            retries=health.retries,
        )
        if health
        else None,
        image=container.image,
        working_dir=container.dir,
        labels=labels,
        stop_signal=container.stop_signal,
    )


def _host_ports(spec: SpecVersion) -> dict[str, list[PortBinding] | None]:
    """Return the ports published on the task's own node; ingress ports are the mesh's."""
    bindings: dict[str, list[PortBinding] | None] = {}
    endpoint = spec.spec.endpoint_spec
    for port in (endpoint.ports or ()) if endpoint else ():
        if port.publish_mode == "host":
            key = f"{port.target_port}/{port.protocol or 'tcp'}"
            host_port = PortBinding(port.address, str(port.published_port or ""))
            bindings[key] = [*(bindings.get(key) or ()), host_port]
    return bindings


def _host(
    task: Task,
    container: ContainerSpec,
    template: TaskTemplate,
    ports: dict[str, list[PortBinding] | None],
) -> HostConfig:
    limits = template.resources.limits if template.resources else None
    log = template.log_driver or task.log_driver or LogDriver()
    dns = container.dns_config
    return HostConfig(
        network_mode=task.addresses[0].network_id if task.addresses else "default",
        port_bindings=ports,
        mounts=[_mount(mount) for mount in container.mounts or ()],
        cap_add=list(container.capability_add or ()),
        cap_drop=list(container.capability_drop or ()),
        dns=list(dns.nameservers or ()) if dns else [],
        dns_search=list(dns.search or ()) if dns else [],
        dns_options=list(dns.options or ()) if dns else [],
        extra_hosts=[_extra_host(line) for line in container.hosts or ()],
        group_add=list(container.groups or ()),
        init=bool(container.init),
        oom_score_adj=container.oom_score_adj,
        security_opt=_security(container.privileges),
        readonly_rootfs=container.read_only,
        sysctls=dict(container.sysctls or {}),
        memory=limits.memory_bytes if limits else 0,
        nano_cpus=limits.cpu_nanos if limits else 0,
        pids_limit=limits.pids if limits else 0,
        log_config=LogSpec(log.name, dict(log.options or {})),
        ulimits=[Ulimit(u.name, u.soft, u.hard) for u in container.ulimits or ()],
    )


def _security(privileges: Privileges | None) -> list[str]:
    """Return the engine's security options."""
    if privileges is None:
        return []
    options = ["no-new-privileges"] if privileges.no_new_privileges else []
    seccomp = privileges.seccomp or SeccompOptions()
    if seccomp.mode == "custom":
        options.append(f"seccomp={seccomp.profile.decode()}")
    elif seccomp.mode == "unconfined":
        options.append("seccomp=unconfined")
    return options


def _mount(mount: Mount) -> EngineMount:
    def plain(options: Any) -> dict[str, Any] | None:
        return None if options is None else _builtins(options)

    return EngineMount(
        type=mount.type or "volume",
        source=mount.source,
        target=mount.target,
        read_only=mount.read_only,
        bind_options=plain(mount.bind_options),
        volume_options=plain(mount.volume_options),
        tmpfs_options=plain(mount.tmpfs_options),
    )


def _builtins(options: Any) -> dict[str, Any]:
    plain = to_json(options)
    assert isinstance(plain, dict)
    return plain


def _extra_host(line: str) -> str:
    """Turn a spec's `address name` (the form of /etc/hosts) into the engine's `name:address`."""
    address, _, name = line.strip().partition(" ")
    return f"{name.strip()}:{address}"


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; cancelled, wait for its end nevertheless."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


@asynccontextmanager
async def _cancelling(*jobs: asyncio.Future[Any]) -> AsyncIterator[None]:
    """Let jobs run for the length of the block."""
    try:
        yield
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


def _readiness(spec: SpecVersion) -> Readiness | None:
    return readiness_of(defaults.container(spec.spec).labels)


class EngineExecutor:
    """Runs tasks on the engine; containers are found by their label, so a restart loses none."""

    def __init__(
        self,
        engine: Engine,
        secrets: NodeSecrets,
        files: SecretFiles,
        machine: Callable[[], NodeDescription],
    ) -> None:
        self._engine = engine
        self._secrets = secrets
        self._files = files
        self._machine = machine
        self._pulls = TaskPulls(engine.registries, engine.parts.clock.now_ns)

    async def prepare(self, task: Task, spec: SpecVersion, say: Say) -> Outcome:
        """Create the container; an image that is not on this machine is pulled first.

        Cancelled, it gives up the pull, but not a container halfway: that is made first.
        """
        found = self._find(task)
        if found:
            return Outcome(container_id=found)
        image = defaults.container(spec.spec).image
        try:
            spec = replace(spec, spec=expanded(spec.spec, self._place(task)))
            wanted = to_container(task, spec)
            wanted.host.mounts += self._files.mounts(task.id, spec)
            await self._fetch(image, spec.registry_auth, say)
            await self._lay_out(task, spec, say)
            return Outcome(container_id=await _to_its_end(self._engine.create(wanted)))
        except RegistryError as error:
            return Outcome(error=f"No such image: {image}: {error}")
        except SwarmError as error:
            return Outcome(error=error.message)
        except (RuntimeFailure, OSError) as error:
            return Outcome(error=str(error))

    async def _fetch(self, image: str, auth: RegistryAuth | None, say: Say) -> None:
        """Pull an image unless it is here, under its name or its digest."""
        try:
            await asyncio.to_thread(self._engine.images.resolve, image)
        except ImageNotFound:
            await self._pulls.fetch(image, auth.encoded if auth else "", say)

    async def _lay_out(self, task: Task, spec: SpecVersion, say: Say | None = None) -> None:
        """Write the files of a task's secrets and configs, unless they are there.

        Raises:
            NotFound: one was removed from the cluster.
            InvalidArgument: one is a template that cannot be rendered.
        """
        if await asyncio.to_thread(self._files.are_there, task.id, spec):
            return
        values, place = await self._secrets.values(spec, say), self._place(task)
        rendered = contents(expanded(spec.spec, place), place, values)
        await _to_its_end(asyncio.to_thread(self._files.write, task.id, spec, rendered))
        await asyncio.to_thread(self._files.note, task.id, spec)

    async def _swap(self, container_id: str, task: Task, spec: SpecVersion) -> None:
        """Swap in what has replaced a task's secrets and configs; send the signals asked for.

        What is cut short is done again, the signal too: a program is told at least once.
        """
        outdated = await asyncio.to_thread(self._files.outdated, task.id, spec)
        if not outdated:
            return
        try:
            values, place = await self._secrets.values(spec), self._place(task)
            rendered = contents(expanded(spec.spec, place), place, values)
            await _to_its_end(asyncio.to_thread(self._files.write, task.id, spec, rendered))
            for signal in dict.fromkeys(r.signal for r in outdated if r.signal):
                await self._engine.kill(container_id, signal)
            await asyncio.to_thread(self._files.note, task.id, spec)
        except (SwarmError, RuntimeFailure, OSError) as error:
            names = ", ".join(reference.name for reference in outdated)
            log.warning("task %s keeps its old %s: %s", task.id, names, error)

    def _place(self, task: Task) -> TaskPlace:
        machine, slot = self._machine(), str(task.slot or task.node_id)
        return TaskPlace(
            task.service_id,
            task.id,
            slot,
            task.node_id,
            machine.hostname,
            machine.platform,
            number=str(task.number) if task.slot else slot,
        )

    async def start(self, task: Task, spec: SpecVersion) -> Outcome:
        """Start the container; the pid is the host's."""
        found = self._find(task)
        if not found:
            return Outcome(error="the container is gone")
        record = self._engine.inspect(found).record
        if record.started_ns == 0:
            try:
                await self._lay_out(task, spec)  # a reboot empties memory, not the disk
                await self._engine.start(found)
            except (SwarmError, RuntimeFailure, OSError) as error:
                return Outcome(
                    error=error.message if isinstance(error, SwarmError) else str(error),
                    exit_code=record.exit_code or None,
                    container_id=found,
                )
        record = self._engine.inspect(found).record
        return Outcome(
            container_id=found,
            pid=record.pid,
            unproven=is_checked(record.config.healthcheck) or _readiness(spec) is not None,
        )

    async def await_health(self, task: Task, spec: SpecVersion) -> Outcome:
        """Wait for the first success of the health and readiness checks, or the container's end."""
        found = self._find(task)
        if not found:
            return Outcome(error="the container is gone")
        health = "healthy"
        if is_checked(self._engine.inspect(found).record.config.healthcheck):
            health = await self._engine.await_health(found, "healthy", "unhealthy")
        if health == "healthy":
            health = await self._await_ready(found, spec)
        if health == "unhealthy":
            return await self._end_unhealthy(found, task, spec)
        if health == "healthy":
            return Outcome(pid=self._engine.inspect(found).record.pid)
        return await self._ended(found, task)

    async def _await_ready(self, container_id: str, spec: SpecVersion) -> str:
        """Return `healthy` once it is ready; `unhealthy` or blank when that, or its end, came."""
        check = _readiness(spec)
        if check is None:
            return "healthy"
        asks = partial(readiness.ask, self._engine, container_id, check)
        pause = self._engine.parts.clock.sleep
        ready = asyncio.ensure_future(readiness.until_ready(asks, check, pause))
        other = asyncio.ensure_future(self._engine.await_health(container_id, "unhealthy"))
        async with _cancelling(ready, other):
            await asyncio.wait({ready, other}, return_when=asyncio.FIRST_COMPLETED)
            return other.result() if other.done() else "healthy"

    async def wait(self, task: Task, spec: SpecVersion, tell: Tell) -> Outcome:
        """Wait for the end of the container; one that becomes unhealthy is withdrawn and stopped.

        A task whose status says `ending` is beyond that judgement.
        """
        found = self._find(task)
        if not found:
            return Outcome(error="the container is gone")
        async with _cancelling(asyncio.ensure_future(self._swap(found, task, spec))):
            ill = task.status.ending or await self._is_ill(found, spec, tell)
            if not ill:
                return await self._ended(found, task)
        if task.addresses and not task.endpoint.drained:
            await self._await_leave(task.status, tell)
        await self._drain(found, task)
        return await self._end_unhealthy(found, task, spec)

    async def _await_leave(self, status: TaskStatus, tell: Tell) -> None:
        """Say that an ill task is to end, and wait for the managers' leave, which cuts this short.

        It is counted from when that was first said: each change of the assignment asks anew.
        """
        now_ns, left_s = self._engine.parts.clock.now_ns(), WITHDRAWAL_S
        if status.ending:
            left_s -= max(now_ns - status.timestamp_ns, 0) / defaults.SECOND_NS
        else:
            message = "unhealthy: to be stopped once nobody sends to it"
            tell(Standing(ready=False, ending=True, message=message))
        if left_s > 0:
            await self._engine.parts.clock.sleep(left_s)

    async def _is_ill(self, container_id: str, spec: SpecVersion, tell: Tell) -> bool:
        """Tell of readiness until the container is unhealthy, or has ended."""
        checked = is_checked(self._engine.inspect(container_id).record.config.healthcheck)
        check = _readiness(spec)
        if not checked and check is None:
            return False
        judging = []
        if check is not None:
            asks = partial(readiness.ask, self._engine, container_id, check)
            follow = readiness.follow(asks, check, self._engine.parts.clock.sleep, tell)
            judging.append(asyncio.ensure_future(follow))
        async with _cancelling(*judging):
            return bool(await self._engine.await_health(container_id, "unhealthy"))

    async def _ended(self, container_id: str, task: Task) -> Outcome:
        try:
            ended = await self._engine.wait(container_id)
        except NotFound:
            return Outcome(error="the container was removed")
        await self._drop_files(task.id)
        if ended.oom_killed:
            return Outcome(error="out of memory", exit_code=ended.code)
        failed = f"task: non-zero exit ({ended.code})" if ended.code else ended.error
        return Outcome(error=failed, exit_code=ended.code)

    async def _drop_files(self, task_id: str) -> None:
        """Remove the files of its secrets: nothing reads them any more."""
        await asyncio.to_thread(self._files.drop, task_id)

    async def _end_unhealthy(self, container_id: str, task: Task, spec: SpecVersion) -> Outcome:
        await self._stop(container_id, spec)
        await self._drop_files(task.id)
        code = self._engine.inspect(container_id).record.exit_code
        return Outcome(error="task: unhealthy container", exit_code=code or None)

    async def _stop(self, container_id: str, spec: SpecVersion) -> None:
        try:
            grace_s = defaults.stop_grace_period_ns(spec.spec) / defaults.SECOND_NS
            await self._engine.stop(container_id, grace_s)
        except Conflict:
            await self._engine.kill(container_id)

    async def _drain(self, container_id: str, task: Task) -> None:
        """Wait until nobody is connected any more, at most DRAIN_S.

        The managers have withdrawn the task before they stop it: nobody connects anew.
        """
        addresses = [host for lease in task.addresses for host in lease.hosts()]
        networking, clock = self._engine.networking, self._engine.parts.clock
        for _ in range(round(DRAIN_S / DRAIN_POLL_S) if addresses else 0):
            if not await networking.connections(container_id, addresses):
                return
            await clock.sleep(DRAIN_POLL_S)

    async def shut_down(self, task: Task, spec: SpecVersion) -> Outcome:
        """Stop the container within the service's grace period, its connections drained before."""
        found = self._find(task)
        if not found:
            return Outcome()
        await self._drain(found, task)
        try:
            await self._stop(found, spec)
        except NotFound:
            return Outcome()
        except SwarmError as error:
            return Outcome(error=error.message, container_id=found)
        await self._drop_files(task.id)
        record = self._engine.inspect(found).record
        return Outcome(
            container_id=found, exit_code=record.exit_code if record.started_ns else None
        )

    async def remove(self, task_id: str) -> None:
        """Delete the container and its anonymous volumes."""
        found = self._by_task().get(task_id, "")
        if found:
            try:
                await self._engine.remove(found, force=True, volumes=True)
            except NotFound:
                pass
        await self._drop_files(task_id)

    def vantages(self) -> Mapping[str, Vantage]:
        """Return one of this node's running tasks on each network."""
        records = (self._engine.inspect(i).record for i in self._by_task().values())
        return {
            endpoint.network_id: Vantage(record.name, record.pid)
            for record in records
            if record.status == "running"
            for endpoint in record.joined.values()
        }

    async def known_tasks(self) -> list[str]:
        """Return the task ids of all containers that carry one."""
        return sorted({i for i in self._by_task() if i} | set(self._files.task_ids()))

    async def logs(self, task_id: str, query: LogQuery) -> AsyncGenerator[Sequence[LogLine], None]:
        """Yield the log of a task's container in batches."""
        found = self._by_task().get(task_id, "")
        if not found:
            raise NotFound(f"task {task_id} has no container any more")
        async with aclosing(self._engine.task_logs(found, query)) as batches:
            async for batch in batches:
                yield batch

    async def run_in(self, task_id: str, config: ExecConfig) -> Exec:
        """Start a further process in a task's container (errors as `ExecSource` says)."""
        found = self._by_task().get(task_id, "")
        if not found:
            raise NotFound(f"task {task_id} has no container any more")
        exec_id = self._engine.create_exec(found, config)
        starting = asyncio.ensure_future(self._engine.start_exec(exec_id))
        try:
            running = await asyncio.shield(starting)
        except InvalidArgument as error:
            code = self._engine.find_exec(exec_id).exit_code
            raise NotStarted(error.message, code or 0) from error
        except asyncio.CancelledError:
            (await starting).hang_up()
            raise
        if config.detach:
            self._engine.run_detached(running)
        return running

    def _find(self, task: Task) -> str:
        """Return the id of the task's container, empty when there is none."""
        try:
            return self._engine.inspect(container_name(task)).record.id
        except NotFound:
            return ""

    def _by_task(self) -> Mapping[str, str]:
        label = LABEL + "task.id"
        return {
            c.record.config.labels[label]: c.record.id
            for c in self._engine.list(everything=True)
            if label in c.record.config.labels
        }

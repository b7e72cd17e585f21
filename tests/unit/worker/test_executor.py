"""What becomes of a task's spec in the engine."""

import asyncio
import base64
import json
import os
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from swarmapi.errors import Conflict, NotFound, Unsupported
from swarmapi.model.objects import (
    GenericShare,
    NetworkAddress,
    NodeDescription,
    RegistryAuth,
    SpecVersion,
    Task,
    TaskEndpointLease,
    TaskState,
    TaskStatus,
)
from swarmapi.model.spec import (
    AppArmorOptions,
    ContainerSpec,
    EndpointSpec,
    HealthConfig,
    LogDriver,
    Platform,
    PortConfig,
    Privileges,
    SeccompOptions,
    ServiceSpec,
    TaskTemplate,
)
from tests.fakes.full_disk import no_room_above
from tests.fakes.registry import FakeRegistry
from tests.unit.image.registry_images import publish
from tests.unit.worker.test_engine import World, play
from tests.unit.worker.test_registry_api import until
from worker.agent.ports import NotStarted
from worker.agent.secrets import NodeSecrets
from worker.engine.execs import ExecConfig
from worker.engine.logs import LogQuery
from worker.engine.ports import NetworkInfo
from worker.engine.registries import Registries
from worker.engine.spec import PortBinding
from worker.executor import DRAIN_POLL_S, WITHDRAWAL_S, EngineExecutor, container_name, to_container
from worker.pulling import PullProgress, TaskPulls
from worker.secretfiles import SecretFiles
from worker.taskmachine import Standing


def test_host_ports_are_published_on_the_node_and_ingress_ports_are_not() -> None:
    ports = (
        PortConfig(target_port=80, published_port=8080, publish_mode="host"),
        PortConfig(target_port=80, published_port=8081, publish_mode="host"),
        PortConfig(target_port=53, protocol="udp", publish_mode="host"),
        PortConfig(target_port=443, published_port=8443, publish_mode="ingress"),
        PortConfig(target_port=444, published_port=8444),
    )
    spec = ServiceSpec(name="web", endpoint_spec=EndpointSpec(ports=ports))
    task = Task(id="t", service_id="s", spec_version=1, slot=1, service_name="web")
    created = to_container(task, SpecVersion(service_id="s", version=1, spec=spec))
    assert created.host.port_bindings == {
        "80/tcp": [PortBinding(host_port="8080"), PortBinding(host_port="8081")],
        "53/udp": [PortBinding()],
    }


def wanting(image: str, auth: str = "") -> SpecVersion:
    template = TaskTemplate(container_spec=ContainerSpec(image=image))
    spec = ServiceSpec(name="web", task_template=template)
    given = RegistryAuth(encoded=auth) if auth else None
    return SpecVersion(service_id="s", version=1, spec=spec, registry_auth=given)


MACHINE = NodeDescription(hostname="host1", platform=Platform(architecture="x86_64", os="linux"))


def _plain_directory(path: Path) -> None:
    path.mkdir(exist_ok=True)


def executor_of(world: World, secrets: NodeSecrets | None = None) -> EngineExecutor:
    files = SecretFiles(world.engine.places.containers / "secrets", mount=_plain_directory)
    return EngineExecutor(world.engine, secrets or NodeSecrets(), files, lambda: MACHINE)


def quiet(message: str) -> None:
    """Hear nothing of a preparation."""


def nobody(standing: Standing) -> None:
    """Tell nobody what a running task is worth."""


_TASK = Task(id="t", service_id="s", spec_version=1, slot=1, service_name="web")
_CHECKED = SpecVersion(
    service_id="s",
    version=1,
    spec=ServiceSpec(
        name="web",
        task_template=TaskTemplate(
            container_spec=ContainerSpec(
                image="img:1", init=True, health_check=HealthConfig(test=("CMD", "ask"))
            )
        ),
    ),
)


def _logging(log: LogDriver | None) -> SpecVersion:
    container = ContainerSpec(image="img:1")
    template = TaskTemplate(container_spec=container, log_driver=log)
    return SpecVersion(
        service_id="s", version=1, spec=ServiceSpec(name="web", task_template=template)
    )


def test_the_log_driver_of_a_service_is_its_containers() -> None:
    log = LogDriver(name="json-file", options={"max-size": "1m"})
    made = to_container(_TASK, _logging(log)).host.log_config
    assert (made.type, made.config) == ("json-file", {"max-size": "1m"})
    assert to_container(_TASK, _logging(None)).host.log_config.type == ""
    by_default = replace(_TASK, log_driver=LogDriver(name="none"))
    assert to_container(by_default, _logging(None)).host.log_config.type == "none"
    assert to_container(by_default, _logging(log)).host.log_config.type == "json-file"


def test_what_confines_a_task_and_what_it_may_read() -> None:
    profile = b'{"defaultAction": "SCMP_ACT_ALLOW"}'
    container = ContainerSpec(
        image="img:1",
        groups=("audio", "4"),
        oom_score_adj=300,
        privileges=Privileges(
            no_new_privileges=True,
            seccomp=SeccompOptions(mode="custom", profile=profile),
            app_armor=AppArmorOptions(mode="disabled"),
        ),
    )
    spec = ServiceSpec(name="web", task_template=TaskTemplate(container_spec=container))
    host = to_container(_TASK, SpecVersion(service_id="s", version=1, spec=spec)).host
    assert (host.group_add, host.oom_score_adj) == (["audio", "4"], 300)
    assert host.security_opt == ["no-new-privileges", f"seccomp={profile.decode()}"]
    assert to_container(_TASK, _logging(None)).host.security_opt == []


def test_a_log_that_cannot_be_read_is_refused_in_words(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        executor = executor_of(world)
        with pytest.raises(NotFound, match="task t has no container"):
            await anext(executor.logs("t", LogQuery()))
        await executor.prepare(_TASK, _logging(LogDriver(name="none")), quiet)
        with pytest.raises(Unsupported, match="does not support reading"):
            await anext(executor.logs("t", LogQuery()))

    play(tmp_path, story)


def test_a_command_that_cannot_run_in_a_task_says_why_with_a_shells_code(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        executor, spec, wanted = executor_of(world), _logging(None), ExecConfig(cmd=["nosuch"])
        with pytest.raises(NotFound, match="task t has no container"):
            await executor.run_in("t", wanted)
        await executor.prepare(_TASK, spec, quiet)
        with pytest.raises(Conflict, match="is not running"):
            await executor.run_in("t", wanted)
        await executor.start(_TASK, spec)
        with pytest.raises(NotStarted, match="executable file not found") as refusal:
            await executor.run_in("t", wanted)
        assert refusal.value.exit_code == 127

    play(tmp_path, story)


def test_a_task_that_could_not_be_started_whole_does_not_run(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        executor, spec = executor_of(world), _logging(None)
        await executor.prepare(_TASK, spec, quiet)
        with no_room_above((tmp_path / "containers.journal").stat().st_size + 9):
            started = await executor.start(_TASK, spec)
        assert started.error == "[Errno 27] File too large"
        assert world.supervisor.states == {}

    play(tmp_path, story)


def test_a_log_is_followed_from_before_the_start_to_the_end(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        executor, spec = executor_of(world), _logging(None)
        await executor.prepare(_TASK, spec, quiet)
        container_id = world.engine.inspect(container_name(_TASK)).record.id
        log = executor.logs("t", LogQuery(follow=True))
        assert await anext(log) == []
        await executor.start(_TASK, spec)
        path = world.engine.places.log(container_id)
        record = '{"log":"hello\\n","stream":"stdout","time":"2026-01-01T00:00:00.000000001Z"}\n'
        path.write_text(record)
        assert [line.data for line in await anext(log)] == [b"hello\n"]
        world.supervisor.end(container_id, 0)
        with pytest.raises(StopAsyncIteration):
            await anext(log)

    play(tmp_path, story)


def test_a_checked_task_is_proven_by_its_health_and_ended_when_it_is_ill(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        executor = executor_of(world)
        await executor.prepare(_TASK, _CHECKED, quiet)
        started = await executor.start(_TASK, _CHECKED)
        assert started.unproven
        assert world.supervisor.launches[0].init
        container_id = world.engine.inspect(container_name(_TASK)).record.id
        proving = asyncio.create_task(executor.await_health(_TASK, _CHECKED))
        world.supervisor.probe(container_id, "healthy")
        assert (await proving).error == ""
        waiting = asyncio.create_task(executor.wait(_TASK, _CHECKED, nobody))
        world.supervisor.probe(container_id, "unhealthy")
        ended = await waiting
        assert (ended.error, ended.exit_code) == ("task: unhealthy container", 143)
        assert not world.engine.inspect(container_id).record.running

    play(tmp_path, story)


def test_an_ill_task_is_withdrawn_before_it_is_stopped(tmp_path: Path) -> None:
    """Stopped with leave; without managers, after a while."""

    async def story(world: World, *, leave: bool) -> None:
        world.network.enter(NetworkInfo("net1", "app", "overlay", "10.0.1.0/24", scope="swarm"))
        executor, told = executor_of(world), list[Standing]()
        task = replace(_TASK, addresses=(NetworkAddress(network_id="net1", address="10.0.1.5/24"),))
        await executor.prepare(task, _CHECKED, quiet)
        await executor.start(task, _CHECKED)
        container_id = world.engine.inspect(container_name(task)).record.id
        world.supervisor.probe(container_id, "unhealthy")
        world.clock.slept.clear()
        if leave:
            ending = TaskStatus(state=TaskState.RUNNING, ending=True)
            task = replace(task, status=ending, endpoint=TaskEndpointLease(drained=True))
        ended = await executor.wait(task, _CHECKED, told.append)
        assert (WITHDRAWAL_S in world.clock.slept) is not leave
        assert [(one.ready, one.ending) for one in told] == [(False, True)] * (not leave)
        assert ended.error == "task: unhealthy container"
        assert not world.engine.inspect(container_id).record.running

    for leave in (False, True):
        (tmp_path / str(leave)).mkdir()
        play(tmp_path / str(leave), partial(story, leave=leave))


def test_a_changed_assignment_does_not_count_an_ill_tasks_leave_anew(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.network.enter(NetworkInfo("net1", "app", "overlay", "10.0.1.0/24", scope="swarm"))
        executor, told = executor_of(world), list[Standing]()
        task = replace(_TASK, addresses=(NetworkAddress(network_id="net1", address="10.0.1.5/24"),))
        await executor.prepare(task, _CHECKED, quiet)
        await executor.start(task, _CHECKED)
        since_ns = world.clock.now_ns() - 2 * 10**9
        ending = TaskStatus(state=TaskState.RUNNING, ending=True, timestamp_ns=since_ns)
        world.clock.slept.clear()
        await executor.wait(replace(task, status=ending), _CHECKED, told.append)
        assert [round(s, 3) for s in world.clock.slept if s > 1] == [WITHDRAWAL_S - 2]
        assert told == []

    play(tmp_path, story)


def test_a_checked_task_that_ends_before_it_was_healthy_tells_its_code(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        executor = executor_of(world)
        await executor.prepare(_TASK, _CHECKED, quiet)
        await executor.start(_TASK, _CHECKED)
        proving = asyncio.create_task(executor.await_health(_TASK, _CHECKED))
        world.supervisor.end(world.engine.inspect(container_name(_TASK)).record.id, 3)
        outcome = await proving
        assert (outcome.error, outcome.exit_code) == ("task: non-zero exit (3)", 3)

    play(tmp_path, story)


@pytest.mark.parametrize(("connected", "looks"), [([2, 1, 0], 2), ([0], 0), ([1], 50)])
def test_a_task_is_told_to_stop_once_nobody_is_connected_or_at_the_limit(
    tmp_path: Path, connected: list[int], looks: int
) -> None:
    async def story(world: World) -> None:
        world.network.enter(NetworkInfo("net1", "app", "overlay", "10.0.1.0/24", scope="swarm"))
        executor, spec = executor_of(world), _logging(None)
        task = replace(_TASK, addresses=(NetworkAddress(network_id="net1", address="10.0.1.5/24"),))
        await executor.prepare(task, spec, quiet)
        await executor.start(task, spec)
        container_id = world.engine.inspect(container_name(task)).record.id
        world.network.connected = connected
        world.clock.slept.clear()
        assert (await executor.shut_down(task, spec)).error == ""
        assert world.clock.slept.count(DRAIN_POLL_S) == looks
        assert not world.engine.inspect(container_id).record.running

    play(tmp_path, story)


def test_an_image_that_is_not_here_is_pulled_once_for_all_its_tasks(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        async with FakeRegistry().serving() as registry:
            publish(registry, "web", "1", {"big": bytes(5000)})
            image = f"{registry.address}/web:1"
            executor = executor_of(world)
            tasks = [replace(_TASK, id=f"t{slot}", slot=slot) for slot in range(1, 5)]
            done = await asyncio.gather(
                *(executor.prepare(t, wanting(image), quiet) for t in tasks)
            )
            assert [outcome.error for outcome in done] == [""] * 4
            assert registry.requests["GET /v2/web/manifests/1"] == 1
            missing = await executor.prepare(
                replace(_TASK, id="t9", slot=9), wanting(f"{registry.address}/none:1"), quiet
            )
            assert missing.error.startswith(f"No such image: {registry.address}/none:1: manifest")
            before = registry.requests.total()
            await executor.prepare(replace(_TASK, id="t5", slot=5), wanting(image), quiet)
            assert registry.requests.total() == before

    play(tmp_path, story)


def test_a_private_image_is_pulled_with_the_services_login(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        async with FakeRegistry("basic").serving() as registry:
            digest = publish(registry, "web", "1", {"f": b"1"})
            executor, image = executor_of(world), f"{registry.address}/web:1@{digest}"
            refused = await executor.prepare(_TASK, wanting(image), quiet)
            assert refused.error == f"No such image: {image}: no basic auth credentials"
            login = json.dumps({"username": "alice", "password": "sekret"}).encode()
            auth = base64.urlsafe_b64encode(login).decode()
            assert (await executor.prepare(_TASK, wanting(image, auth), quiet)).error == ""
            world.engine.inspect(container_name(_TASK))
            before = registry.requests.total()
            other = replace(_TASK, id="t2", slot=2)
            assert (await executor.prepare(other, wanting(image), quiet)).error == ""
            assert registry.requests.total() == before  # it is here under its digest

    play(tmp_path, story)


def test_a_pull_tells_how_far_it_is_and_ends_with_the_last_task_that_wants_it(
    tmp_path: Path,
) -> None:
    async def story(world: World) -> None:
        async with FakeRegistry().serving() as registry:
            publish(registry, "web", "1", {"big": os.urandom(5000)})
            registry.gate = asyncio.Event()
            executor, image = executor_of(world), f"{registry.address}/web:1"
            said: asyncio.Queue[str] = asyncio.Queue()
            preparing = [
                asyncio.ensure_future(
                    executor.prepare(replace(_TASK, id=i), wanting(image), said.put_nowait)
                )
                for i in ("t1", "t2")
            ]
            for _ in preparing:
                assert await said.get() == f"pulling {image}"
            blob = next(d for (_, d), content in registry.blobs.items() if len(content) > 1000)
            await until(lambda: bool(registry.requests[f"GET /v2/web/blobs/{blob}"]))
            preparing[0].cancel()
            await asyncio.wait(preparing[:1])
            flights = world.engine.registries.puller.flights
            assert flights.under_way == 1
            assert not preparing[1].done()
            preparing[1].cancel()
            await asyncio.wait(preparing[1:])
            assert flights.under_way == 0
            registry.gate.set()
            assert (await executor.prepare(_TASK, wanting(image), quiet)).error == ""
            assert registry.requests["GET /v2/web/manifests/1"] == 2  # the first was given up

    play(tmp_path, story)


def test_progress_is_in_bytes_of_what_is_fetched() -> None:
    progress = PullProgress("web:1")
    assert progress.text == "pulling web:1"
    progress.weigh({"a": 60_000_000, "b": 42_000_000})
    progress.take({"id": "a", "status": "Downloading", "progressDetail": {"current": 34_000_000}})
    progress.take({"id": "c", "status": "Already exists", "progressDetail": {}})
    assert progress.text == "pulling web:1: 34MB of 102MB"
    progress.take({"id": "a", "status": "Download complete", "progressDetail": {}})
    progress.take({"id": "a", "status": "Extracting", "progressDetail": {"current": 1}})
    progress.take({"status": "Digest: sha256:1"})
    assert progress.text == "pulling web:1: 60MB of 102MB"


def test_words_of_a_pull_come_seldom_and_only_when_they_are_new() -> None:
    async def story() -> None:
        now = [0]
        lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        heard = asyncio.Event()

        class Slow:
            async def pull(self, reference: Any, who: Any, *, emit: Any, weigh: Any) -> None:
                weigh({"a": 100})
                heard.set()
                while line := await lines.get():
                    emit(line)
                    heard.set()

        said: list[str] = []
        pulls = TaskPulls(cast(Registries, Slow()), lambda: now[0])
        fetching = asyncio.ensure_future(pulls.fetch("web:1", "", said.append))

        await heard.wait()

        async def at(seconds: int, current: int) -> None:
            now[0] = seconds * 10**9
            heard.clear()
            lines.put_nowait(
                {"id": "a", "status": "Downloading", "progressDetail": {"current": current}}
            )
            await heard.wait()

        await at(4, 10)
        assert said == ["pulling web:1"]
        await at(5, 20)
        await at(6, 30)
        await at(11, 20)
        assert said == ["pulling web:1", "pulling web:1: 20B of 100B"]
        await at(12, 40)
        assert said[2:] == ["pulling web:1: 40B of 100B"]
        lines.put_nowait({})
        await fetching

    asyncio.run(story())


def test_a_container_learns_its_generic_resources() -> None:
    """The variables are those of Docker's executor."""
    given = (GenericShare(kind="gpu", names=("a", "b")), GenericShare(kind="ssd", count=3))
    task = Task(id="t", service_id="s", spec_version=1, slot=1, service_name="web", generic=given)
    env = to_container(task, wanting("image")).config.env
    assert env == ["DOCKER_RESOURCE_GPU=a,b", "DOCKER_RESOURCE_SSD=3"]

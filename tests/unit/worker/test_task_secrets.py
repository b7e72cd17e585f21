"""Secrets and configs of a task on its node: waited for, laid out, bound read-only, dropped."""

import asyncio
import os
import stat
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from swarmapi.errors import NotFound
from swarmapi.model import defaults
from swarmapi.model.objects import Config, Secret, SpecVersion, Task
from swarmapi.model.spec import (
    ConfigReference,
    ContainerSpec,
    DriverConfig,
    Mount,
    ReferenceFile,
    SecretReference,
    SecretSpec,
    ServiceSpec,
    TaskTemplate,
)
from tests.unit.worker.test_engine import World, play
from tests.unit.worker.test_executor import executor_of, quiet
from worker.agent.secrets import NodeSecrets
from worker.executor import container_name

VALUE = b"hunter2-hunter2"
TASK = Task(id="t1", service_id="s", spec_version=1, slot=1, service_name="web")
SECRET = Secret(id="id1", spec=SecretSpec(name="pw", data=VALUE))
CONFIG = Config(id="id2", spec=SecretSpec(name="conf", data=b"a=1"))
OWN = ReferenceFile(name="pw", uid=str(os.getuid()), gid=str(os.getgid()), mode=0o400)
SPEC = SpecVersion(
    service_id="s",
    version=1,
    spec=ServiceSpec(
        name="web",
        task_template=TaskTemplate(
            container_spec=ContainerSpec(
                image="img:1",
                secrets=(SecretReference(id="id1", name="pw", file=OWN),),
                configs=(
                    ConfigReference(
                        id="id2", name="conf", file=replace(OWN, name="/etc/conf", mode=None)
                    ),
                ),
            )
        ),
    ),
)


def files_under(world: World) -> list[Path]:
    directory = world.engine.places.containers / "secrets"
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_they_are_bound_into_the_container_and_gone_with_its_end(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        secrets = NodeSecrets()
        secrets.take([SECRET, CONFIG], complete=True)
        executor = executor_of(world, secrets)
        assert (await executor.prepare(TASK, SPEC, quiet)).error == ""
        record = world.engine.inspect(container_name(TASK)).record
        bound = {p.target: p for p in record.mounts}
        assert set(bound) == {"/run/secrets/pw", "/etc/conf"}
        assert all(p.read_only for p in bound.values())
        for target, data, mode in (("/run/secrets/pw", VALUE, 0o400), ("/etc/conf", b"a=1", 0o444)):
            path = Path(bound[target].source)
            assert path.read_bytes() == data
            assert stat.S_IMODE(path.stat().st_mode) == mode
        assert VALUE not in (tmp_path / "containers.journal").read_bytes()
        # A reboot: the tmpfs is empty, the container is still to be started.
        await asyncio.to_thread(executor._files.drop, TASK.id)
        assert (await executor.start(TASK, SPEC)).error == ""
        assert len(files_under(world)) == 2
        assert await executor.known_tasks() == [TASK.id]
        world.supervisor.end(record.id, 0)
        assert (await executor.wait(TASK, SPEC, lambda standing: None)).exit_code == 0
        assert files_under(world) == []

    play(tmp_path, story)


def test_a_task_without_its_secret_is_not_run(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        secrets, said = NodeSecrets(), asyncio.Queue[str]()
        executor = executor_of(world, secrets)
        preparing = asyncio.create_task(executor.prepare(TASK, SPEC, said.put_nowait))
        async with asyncio.timeout(10):
            assert "waiting for a manager" in await said.get()
            secrets.take([SECRET], complete=True)
            assert (await preparing).error == "config conf is not in the cluster any more"
        assert files_under(world) == []
        assert world.engine.list(everything=True) == []

    play(tmp_path, story)


def test_what_no_task_uses_is_forgotten() -> None:
    async def story() -> None:
        secrets = NodeSecrets()
        secrets.take([SECRET, CONFIG], complete=True)
        secrets.take([], complete=False)
        assert list((await secrets.values(SPEC)).values()) == [SECRET, CONFIG]
        secrets.forget(["id1"])
        with pytest.raises(NotFound, match="secret pw"):
            await secrets.values(SPEC)
        secrets.begin()
        secrets.take([SECRET], complete=False)
        secrets.take([CONFIG], complete=True)
        assert list(await secrets.values(SPEC)) == ["id1", "id2"]
        secrets.begin()
        secrets.take([CONFIG], complete=True)
        with pytest.raises(NotFound, match="secret pw"):
            await secrets.values(SPEC)

    asyncio.run(story())


def test_a_node_that_left_its_cluster_has_none() -> None:
    async def story() -> None:
        secrets, said = NodeSecrets(), list[str]()
        secrets.take([SECRET, CONFIG], complete=True)
        secrets.clear()
        waiting = asyncio.ensure_future(secrets.values(SPEC, said.append))
        await asyncio.sleep(0)
        assert said == ["waiting for a manager to send its secrets"]
        secrets.take([SECRET, CONFIG], complete=True)
        assert len(await waiting) == 2

    asyncio.run(story())


def test_templates_become_what_the_task_is(tmp_path: Path) -> None:
    text = b'{{.Task.Slot}} {{.Node.Hostname}} {{env "WHO"}} {{secret "pw"}} {{config "/etc/conf"}}'
    golang = DriverConfig(name="golang")
    written = Config(id="id2", spec=SecretSpec(name="conf", data=text, templating=golang))
    container = defaults.container(SPEC.spec)
    container = replace(
        container,
        hostname="{{.Service.Name}}-{{.Task.Slot}}",
        env=("WHO={{.Task.Name}}", "OS={{.Node.Platform.OS}}"),
        mounts=(Mount(type="volume", source="data-{{.Task.Slot}}", target="/data"),),
    )
    template = TaskTemplate(container_spec=container)
    spec = replace(SPEC, spec=replace(SPEC.spec, task_template=template))

    async def story(world: World) -> None:
        secrets = NodeSecrets()
        secrets.take([SECRET, written], complete=True)
        executor = executor_of(world, secrets)
        assert (await executor.prepare(TASK, spec, quiet)).error == ""
        record = world.engine.inspect(container_name(TASK)).record
        assert record.config.hostname == "web-1"
        assert record.config.env == ["WHO=web.1.t1", "OS=linux"]
        bound = {p.target: p for p in record.mounts}
        assert bound["/data"].name == "data-1"
        # What it reads of another is as it was stored: a template does not run twice.
        told = f"1 host1 web.1.t1 {VALUE.decode()} {text.decode()}"
        assert Path(bound["/etc/conf"].source).read_text() == told

    play(tmp_path, story)


def test_what_replaces_them_is_swapped_into_the_running_container(tmp_path: Path) -> None:
    """By rename in a directory that is bound whole; the program gets the signal, once a swap."""
    here = replace(OWN, name="/etc/app/conf", mode=None)
    swapped = ConfigReference(
        id="id2", name="conf", file=here, follow=True, swap=True, signal="HUP"
    )
    beside = replace(swapped, id="id3", name="other", file=replace(here, name="/etc/app/other"))
    beside = replace(beside, swap=None)
    own = replace(defaults.container(SPEC.spec), configs=(swapped, beside))
    spec = replace(SPEC, spec=replace(SPEC.spec, task_template=TaskTemplate(container_spec=own)))
    other = Config(id="id3", spec=SecretSpec(name="other", data=b"o"))
    fresh = Config(id="id4", spec=SecretSpec(name="conf", data=b"a=2"))

    async def story(world: World) -> None:
        secrets = NodeSecrets()
        secrets.take([SECRET, CONFIG, other], complete=True)
        executor = executor_of(world, secrets)
        assert (await executor.prepare(TASK, spec, quiet)).error == ""
        assert (await executor.start(TASK, spec)).error == ""
        record = world.engine.inspect(container_name(TASK)).record
        bound = {p.target: Path(p.source) for p in record.mounts}
        assert set(bound) == {"/run/secrets/pw", "/etc/app"}
        directory = bound["/etc/app"]
        assert {p.name: p.read_bytes() for p in directory.iterdir()} == {
            "conf": b"a=1",
            "other": b"o",
        }
        moved = replace(own, configs=(replace(swapped, id="id4"), beside))
        changed = TaskTemplate(container_spec=moved)
        now = replace(spec, spec=replace(spec.spec, task_template=changed))
        secrets.take([fresh], complete=False)
        for current, data in ((spec, b"a=1"), (now, b"a=2"), (now, b"a=2")):
            waiting = asyncio.create_task(executor.wait(TASK, current, lambda standing: None))
            for _ in range(1000):
                if not executor._files.outdated(TASK.id, current):
                    break
                await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert (directory / "conf").read_bytes() == data
        assert [number for _, number in world.supervisor.signals] == [1]

    play(tmp_path, story)


def test_what_is_cut_short_lets_its_files_be_written_to_the_end(tmp_path: Path) -> None:
    """A second writer beside the first could leave what was replaced, or half of a file."""

    async def story(world: World) -> None:
        secrets = NodeSecrets()
        secrets.take([SECRET, CONFIG], complete=True)
        executor = executor_of(world, secrets)
        began, go_on = asyncio.Event(), threading.Event()
        loop, write = asyncio.get_running_loop(), executor._files.write

        def slowly(task_id: str, spec: SpecVersion, contents: list[bytes]) -> None:
            loop.call_soon_threadsafe(began.set)
            assert go_on.wait(10)
            write(task_id, spec, contents)

        executor._files.write = slowly  # type: ignore[method-assign, assignment]
        preparing = asyncio.create_task(executor.prepare(TASK, SPEC, quiet))
        async with asyncio.timeout(10):
            await began.wait()
            preparing.cancel()
            await asyncio.sleep(0)
            assert not preparing.done()
            go_on.set()
            await asyncio.gather(preparing, return_exceptions=True)
        assert len(files_under(world)) == 2

    play(tmp_path, story)

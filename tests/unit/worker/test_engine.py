"""The engine on fakes: lives of containers, restarts, readoption, names."""

import asyncio
import io
import tarfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from runtime.errors import StartFailed
from runtime.image import archive
from runtime.image.store import ImageStore
from runtime.oci import ContainerState, Launch, LogConfig
from runtime.supervisor.restart import RestartPolicy
from swarmapi.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, Unsupported
from tests.fakes.engine import FakeClock, FakeNetworking, FakeSupervisor
from tests.fakes.full_disk import no_room_above
from worker.api.render import container_details, status_text
from worker.engine.engine import Engine, EngineParts
from worker.engine.ports import NetworkInfo
from worker.engine.spec import decode_create


class World:
    """One machine: its disk, its supervisor, and the engine of the moment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.supervisor = FakeSupervisor()
        self.network = FakeNetworking()
        self.clock = FakeClock()
        images = ImageStore(root / "images")
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as tar:
            member = tarfile.TarInfo("etc/passwd")
            text = b"root:x:0:0::/root:/bin/sh\nbob:x:7:8::/home/bob:/bin/sh\n"
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
        raw.seek(0)
        archive.import_rootfs(images, raw, "img:1", config={"Cmd": ["serve"], "Env": ["A=image"]})
        self.images = images
        self.engine = self.boot()

    def boot(self) -> Engine:
        """Make a new engine on the same disk."""
        self.engine = Engine(
            EngineParts(
                data_root=self.root,
                supervisor=self.supervisor,
                networking=self.network,
                images=self.images,
                clock=self.clock,
            )
        )
        return self.engine

    def started(self, times: int) -> bool:
        """Tell whether there were so many starts."""
        return len(self.supervisor.launches) == times

    async def run(self, name: str, host: dict[str, object] | None = None, **config: object) -> str:
        """Create and start a container; return its id."""
        body = {"Image": "img:1", "HostConfig": host or {}, **config}
        container_id = await self.engine.create(decode_create(body, name))
        await self.engine.start(container_id)
        return container_id


def play(tmp_path: Path, story: Callable[[World], Awaitable[None]]) -> None:
    """Run a story on an open engine."""

    async def main() -> None:
        world = World(tmp_path)
        await world.engine.open()
        try:
            async with asyncio.timeout(20):
                await story(world)
        finally:
            await world.engine.close()

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until something is so."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to be")


def test_run_end_wait_remove(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        container_id = await world.run("one", User="bob", Env=["B=own"])
        process = world.supervisor.launches[0].config["process"]
        assert process["args"] == ["serve"]
        assert {"A=image", "B=own", "HOME=/home/bob"} <= set(process["env"])
        assert (process["user"]["uid"], process["user"]["gid"]) == (7, 8)
        assert world.network.members == {container_id: "10.9.0.2"}
        with pytest.raises(Conflict):
            await world.engine.remove("one")
        waiting = asyncio.create_task(world.engine.wait("one"))
        await asyncio.sleep(0)
        world.supervisor.end(container_id, 3)
        assert (await waiting).code == 3
        await world.engine.remove("one")
        assert world.network.members == {}
        assert not world.engine.places.directory(container_id).exists()
        with pytest.raises(NotFound):
            world.engine.inspect("one")

    play(tmp_path, story)


def test_stop_kills_what_ignores_its_signal(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.supervisor.obeys = {9}
        container_id = await world.run("deaf", {"RestartPolicy": {"Name": "always"}})
        assert await world.engine.stop("deaf", 0.01)
        assert world.supervisor.signals == [(container_id, 15), (container_id, 9)]
        record = world.engine.inspect("deaf").record
        assert (record.status, record.exit_code) == ("exited", 137)
        assert not await world.engine.stop("deaf")

    play(tmp_path, story)


def test_the_supervisor_restarts_and_the_record_follows(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        policy = {"Name": "on-failure", "MaximumRetryCount": 2}
        container_id = await world.run("crash", {"RestartPolicy": policy})
        record = world.engine.inspect("crash").record
        assert world.supervisor.launches[0].restart == RestartPolicy("on-failure", 2)
        waiting = asyncio.create_task(world.engine.wait("crash", "not-running"))
        for count in (1, 2):
            world.supervisor.end(container_id, 1)
            await until(lambda: record.status == "restarting")
            assert not await world.engine.start("crash")
            assert container_id in world.network.members
            world.supervisor.run_again(container_id)
            await until(lambda: record.status == "running")
            assert (record.restart_count, record.pid) == (count, 499 + count)
        assert not waiting.done()
        world.supervisor.end(container_id, 1)
        assert (await waiting).code == 1
        assert (record.status, record.restart_count) == ("exited", 2)
        assert world.network.members == {}
        past = world.engine.events.past()
        actions = [event.action for event in past if event.kind == "container"]
        assert actions[1:] == ["start", "die", "start", "die", "start", "die"]
        assert len(world.supervisor.launches) == 1

    play(tmp_path, story)


@pytest.mark.parametrize("how", ["stop", "remove"])
def test_a_container_between_two_runs_can_be_ended(tmp_path: Path, how: str) -> None:
    async def story(world: World) -> None:
        container_id = await world.run("crash", {"RestartPolicy": {"Name": "always"}})
        record = world.engine.inspect("crash").record
        world.supervisor.end(container_id, 5)
        await until(lambda: record.status == "restarting")
        if how == "stop":
            assert await world.engine.stop("crash")
            assert (record.status, record.exit_code) == ("exited", 5)
            assert record.stopped_by_user
        else:
            with pytest.raises(Conflict):
                await world.engine.remove("crash")
            await world.engine.remove("crash", force=True)
        assert world.network.members == {}
        assert container_id not in world.supervisor.states

    play(tmp_path, story)


def test_health_is_shown_and_told(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        check = {"Test": ["CMD-SHELL", "test -e /ok"], "Interval": 2_000_000_000, "Retries": 5}
        container_id = await world.run("web", Healthcheck=check)
        asked = world.supervisor.launches[0].health
        assert asked is not None
        assert asked.process["args"] == ["/bin/sh", "-c", "test -e /ok"]
        assert (asked.interval_s, asked.timeout_s, asked.retries) == (2, 30, 5)
        record = world.engine.inspect("web").record
        assert "(health: starting)" in status_text(record, record.started_ns)
        waiting = asyncio.create_task(world.engine.await_health("web", "healthy", "unhealthy"))
        world.supervisor.probe(container_id, "starting")
        world.supervisor.probe(container_id, "healthy")
        assert await waiting == "healthy"
        assert "(healthy)" in status_text(record, record.started_ns)
        assert world.engine.list({"health": ["unhealthy", "none"]}) == []
        assert len(world.engine.list({"health": ["healthy"]})) == 1
        waiting = asyncio.create_task(world.engine.await_health("web", "unhealthy"))
        world.supervisor.end(container_id, 1)
        assert await waiting == ""
        actions = [event.action for event in world.engine.events.past()]
        assert [a for a in actions if "health" in a] == ["health_status: healthy"]
        shown = container_details(world.engine, record, [])["State"]["Health"]
        assert (shown["Status"], shown["Log"][0]["Output"]) == ("unhealthy", "x")

    play(tmp_path, story)


def test_what_was_said_of_an_earlier_run_is_void(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        container_id = await world.run("web")
        record = world.engine.inspect("web").record
        container = world.engine.inspect("web")
        world.supervisor.end(container_id, 1)
        await until(lambda: record.status == "exited")
        async with container.lock:
            # seen while the lock is held, as at the moment of a start
            for queue in world.supervisor._queues:
                queue.put_nowait(ContainerState(container_id, "stopped", 0, 9, False, 1, 2, "", ()))
            await asyncio.sleep(0)
            container.launches += 1
            record.status = "running"
        await asyncio.sleep(0.01)
        assert record.running

    play(tmp_path, story)


@pytest.mark.parametrize("failure", [StartFailed, ValueError])
def test_failed_start_keeps_the_container_and_tells_why(
    tmp_path: Path, failure: type[Exception]
) -> None:
    async def story(world: World) -> None:
        world.supervisor.failure = failure
        world.supervisor.refuse = 'exec: "serve": executable file not found in $PATH'
        with pytest.raises(InvalidArgument, match="executable file not found"):
            await world.run("bad")
        record = world.engine.inspect("bad").record
        assert (record.status, record.exit_code) == ("created", 127)
        assert world.network.members == {}

    play(tmp_path, story)


def _files_may_not_grow(world: World) -> AbstractContextManager[None]:
    return no_room_above((world.root / "containers.journal").stat().st_size + 9)


def test_a_start_that_cannot_be_recorded_leaves_nothing_running(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        container_id = await world.engine.create(decode_create({"Image": "img:1"}, "one"))
        with _files_may_not_grow(world), pytest.raises(OSError, match="File too large"):
            await world.engine.start("one")
        assert world.supervisor.states == {}
        assert world.network.members == {}
        assert world.engine.inspect("one").record.status == "exited"
        await world.engine.start("one")
        assert world.engine.inspect("one").record.running
        assert set(world.supervisor.states) == {container_id}

    play(tmp_path, story)


def test_what_cannot_be_recorded_is_not_made(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.run("one")
        with _files_may_not_grow(world):
            with pytest.raises(OSError, match="File too large"):
                await world.run("two")
            with pytest.raises(OSError, match="File too large"):
                await world.engine.rename("one", "other")
            assert [c.record.name for c in world.engine.list(everything=True)] == ["one"]
            # what happens all the same is seen, and known later
            world.supervisor.end(world.engine.inspect("one").record.id, 3)
            assert (await world.engine.wait("one")).code == 3
            await world.engine.remove("one")
        with no_room_above(9), pytest.raises(OSError, match="File too large"):
            await world.engine.networks.create(NetworkInfo("", "net", "bridge"))
        assert "net" not in [n.name for n in world.engine.networks.all()]
        await world.run("three")
        await world.engine.close()
        await world.boot().open()
        assert [c.record.name for c in world.engine.list(everything=True)] == ["three"]

    play(tmp_path, story)


def test_a_start_whose_answer_is_lost_leaves_nothing_running(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.supervisor.lose_answers = 1
        with pytest.raises(InvalidArgument, match="recvmsg"):
            await world.run("one")
        assert world.supervisor.states == {}
        assert world.network.members == {}

    play(tmp_path, story)


def test_a_start_outlives_who_asked_for_it(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.engine.create(decode_create({"Image": "img:1"}, "one"))
        world.supervisor.gate = asyncio.Event()
        asking = asyncio.create_task(world.engine.start("one"))
        await until(lambda: bool(world.network.members))
        asking.cancel()
        await asyncio.wait([asking])
        world.supervisor.gate.set()
        await until(lambda: world.engine.inspect("one").record.running)
        assert world.network.members

    play(tmp_path, story)


def test_a_new_daemon_adopts_the_running_and_notices_the_lost(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        kept = await world.run("kept")
        lost = await world.run("lost")
        ended = await world.run("ended")
        again = await world.run("again", {"RestartPolicy": {"Name": "always"}})
        await world.engine.close()
        world.network.members.clear()
        world.supervisor.end(ended, 4)
        del world.supervisor.states[lost], world.supervisor.states[again]
        await world.supervisor.start(Launch("orphan", {}, None, LogConfig("none", "")))
        world.network.members["a start that died"] = "10.9.0.9"
        await world.boot().open()
        engine = world.engine
        assert engine.inspect("kept").record.running
        assert "a start that died" not in world.network.members
        assert world.network.members[kept] == "10.9.0.2"
        assert (await engine.wait("ended")).code == 4
        assert engine.inspect("lost").record.exit_code == 255
        await until(lambda: engine.inspect("again").record.running)
        assert world.supervisor.launches[-1].container_id == again
        await until(lambda: "orphan" not in world.supervisor.states)

    play(tmp_path, story)


def test_a_new_daemon_learns_what_happened_without_it(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        always: dict[str, object] = {"RestartPolicy": {"Name": "always"}}
        twice, waits, stopped = [await world.run(name, always) for name in ("a1", "b1", "c1")]
        unseen = await world.engine.create(decode_create({"Image": "img:1"}, "d1"))
        await world.engine.close()
        world.network.members.clear()
        world.supervisor.end(twice, 1)
        world.supervisor.run_again(twice)
        world.supervisor.end(waits, 2)
        await world.supervisor.kill(stopped, 9, final=True)
        # a start whose daemon died before it could write down the answer
        await world.supervisor.start(Launch(unseen, {}, None, LogConfig("none", "")))
        await world.boot().open()
        records = {c.record.name: c.record for c in world.engine.list(everything=True)}
        assert (records["a1"].status, records["a1"].restart_count) == ("running", 1)
        assert records["a1"].pid == world.supervisor.states[twice].pid
        assert records["b1"].status == "restarting"
        assert records["d1"].status == "running"
        assert set(world.network.members) >= {twice}
        await until(lambda: records["c1"].status == "exited")
        assert (records["c1"].exit_code, records["c1"].stopped_by_user) == (137, True)
        world.supervisor.run_again(waits)
        await until(lambda: waits in world.network.members)
        assert records["b1"].status == "running"

    play(tmp_path, story)


@pytest.mark.parametrize(("name", "stopped", "runs"), [
    ("always", True, True), ("unless-stopped", True, False), ("unless-stopped", False, True),
    ("on-failure", False, True), ("no", False, False),
])  # fmt: skip
def test_after_a_reboot_policies_decide(
    tmp_path: Path, name: str, stopped: bool, runs: bool
) -> None:
    async def story(world: World) -> None:
        container_id = await world.run("one", {"RestartPolicy": {"Name": name}})
        if stopped:
            await world.engine.stop("one")
        await world.engine.close()
        world.supervisor.states.pop(container_id, None)
        await world.boot().open()
        await asyncio.sleep(0.01)
        record = world.engine.inspect("one").record
        if runs:
            await until(lambda: record.running)
        assert record.running == runs
        assert record.exit_code == (0 if runs else 143 if stopped else 255)

    play(tmp_path, story)


def test_after_a_reboot_nobody_starts_before_those_it_leans_on(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        always: dict[str, object] = {"RestartPolicy": {"Name": "always"}}
        first = await world.run("first", always)
        second = await world.run("second", always)
        # made first, started last
        await world.engine.rename("first", "web")
        third = await world.run("third", {**always, "PidMode": f"container:{second}"})
        fourth = await world.run("fourth", {**always, "Links": ["third", "web:w"]})
        del world.supervisor.launches[:]
        await world.engine.close()
        world.supervisor.states.clear()
        engine = world.boot()
        wanted = (first, second, third, fourth)
        await engine.open()
        await until(lambda: all(engine.inspect(one).record.running for one in wanted))
        order = [launch.container_id for launch in world.supervisor.launches]
        assert order.index(second) < order.index(third) < order.index(fourth)
        assert order.index(first) < order.index(fourth)
        assert len(order) == 4

    play(tmp_path, story)


def test_names_are_unique_and_ids_may_be_short(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        container_id = await world.run("web")
        with pytest.raises(AlreadyExists, match="already in use"):
            await world.run("web")
        assert world.engine.inspect(container_id[:8]).record.name == "web"
        await world.engine.rename("web", "site")
        assert [c.record.name for c in world.engine.list()] == ["site"]
        assert world.engine.list({"name": ["web"]}) == []

    play(tmp_path, story)


def test_output_and_input_of_an_attach_before_the_start(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        body = {"Image": "img:1", "OpenStdin": True}
        container_id = await world.engine.create(decode_create(body, "in"))
        session = await world.engine.attach("in")
        typing = asyncio.create_task(session.write(b"early"))
        await asyncio.sleep(0)
        assert not typing.done()
        await world.engine.start("in")
        await typing
        attachment = world.supervisor.attachments[container_id]
        assert attachment.written == b"early"
        attachment.output.put_nowait(("stderr", b"out"))
        attachment.output.put_nowait(None)
        assert [item async for item in session.output()] == [(2, b"out")]

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ({"CpuRealtimePeriod": 5}, "CpuRealtimePeriod"),
        ({"SecurityOpt": ["apparmor=x"]}, "apparmor=x"),
        ({"LogConfig": {"Type": "syslog"}}, "syslog"),
    ],
)
def test_what_is_not_served_is_refused_by_name(
    tmp_path: Path, host: dict[str, object], named: str
) -> None:
    async def story(world: World) -> None:
        with pytest.raises(Unsupported, match=named):
            await world.run("x1", host)

    play(tmp_path, story)

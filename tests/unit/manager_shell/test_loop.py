"""The control loop: what a turn found is committed, however long its texts are."""

import asyncio

from manager.control.services import create_service
from manager.dispatcher.reports import LARGEST_BATCH, ReportBatcher
from manager.loop import LONGEST_REST_S, rest_s
from manager.replica import LogStatus
from swarmapi.errors import AlreadyExists
from swarmapi.model.objects import TaskState, TaskStatus
from swarmapi.model.spec import (
    ContainerSpec,
    Placement,
    Replicated,
    ServiceMode,
    ServiceSpec,
    TaskTemplate,
)
from tests.unit.manager_shell.cluster import MemoryCluster

LONG = tuple(f"node.labels.{number}=={'x' * 150}" for number in range(60))


def wanted(name: str, replicas: int, constraints: tuple[str, ...] = ()) -> ServiceSpec:
    return ServiceSpec(
        name=name,
        task_template=TaskTemplate(
            container_spec=ContainerSpec(image="a"), placement=Placement(constraints=constraints)
        ),
        mode=ServiceMode(replicated=Replicated(replicas=replicas)),
    )


def test_long_explanations_do_not_stop_the_cluster() -> None:
    """200 tasks that fit nowhere, each with a long story, are more than one log entry holds."""

    async def story() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        await cluster.settle()
        await create_service(cluster.store, wanted("stuck", 200, LONG))
        await create_service(cluster.store, wanted("fine", 1))
        await cluster.settle()
        states = {t.service_name: t.status.state for t in cluster.store.view.tasks.values()}
        assert states == {"stuck": TaskState.PENDING, "fine": TaskState.ASSIGNED}
        assert all(
            t.explanation for t in cluster.store.view.tasks.values() if t.service_name == "stuck"
        )

    asyncio.run(story())


def test_a_request_sent_again_while_it_is_in_flight_gets_the_same_answer() -> None:
    async def story() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        both = [create_service(cluster.store, wanted("web", 1), "request1") for _ in range(2)]
        one, other = await asyncio.gather(*both)
        assert one.id == other.id
        clash = [create_service(cluster.store, wanted("web", 1), "request2") for _ in range(2)]
        refused = await asyncio.gather(*clash, return_exceptions=True)
        assert [type(error) for error in refused] == [AlreadyExists, AlreadyExists]

    asyncio.run(story())


def test_reports_with_long_texts_are_stored() -> None:
    async def story() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        await cluster.settle()
        await create_service(cluster.store, wanted("many", LARGEST_BATCH))
        await cluster.settle()
        view = cluster.store.view
        failed = TaskStatus(state=TaskState.FAILED, message="m" * 9_000, error="e" * 9_000)
        tasks = list(view.tasks)
        assert await ReportBatcher(cluster.store).store(dict.fromkeys(tasks, failed)) == tasks
        assert {view.tasks[t].status.state for t in tasks} == {TaskState.FAILED}

    asyncio.run(story())


def test_a_loop_that_is_woken_as_it_is_cancelled_ends() -> None:
    """A manager whose nodes were busy did not stop: the wake swallowed the cancellation."""

    async def story() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        await cluster.settle()
        running = asyncio.create_task(cluster.loop.run())
        await asyncio.sleep(0.05)
        cluster.loop.nudge()
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=5)
        assert running in done

    asyncio.run(story())


def test_after_a_long_turn_the_loop_rests_as_long_but_not_for_ever() -> None:
    assert [rest_s(turn_s) for turn_s in (0.001, 0.1, 9.0)] == [0.0, 0.1, LONGEST_REST_S]


def test_a_manager_that_lost_the_lead_decides_nothing_more() -> None:
    """One loop does all of it, and asks each time whether it leads; jobs are no exception."""

    async def story() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        await cluster.settle()
        await create_service(cluster.store, wanted("web", 1))
        turns: list[None] = []
        step = cluster.loop.step

        async def counted() -> bool:
            turns.append(None)
            return await step()

        cluster.loop.step = counted  # type: ignore[method-assign]
        cluster.log.become(LogStatus(False, True, "m2", "192.0.2.2:2377"))
        running = asyncio.create_task(cluster.loop.run())
        cluster.loop.make_all_dirty()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not turns
        cluster.log.become(LogStatus(True, True, "m1", "192.0.2.1:2377"))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert cluster.store.view.tasks
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(story())

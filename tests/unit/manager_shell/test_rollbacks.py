"""Specs that are kept, going back to one of them, and going on with what paused."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from manager.control.services import (
    create_service,
    kept_specs,
    resume_service,
    rollback_service,
    update_service,
)
from manager.store.changes import PutCluster, SetUpdateStatus
from swarmapi.errors import FailedPrecondition
from swarmapi.model import defaults
from swarmapi.model.objects import Service, UpdateState, UpdateStatus
from swarmapi.model.spec import UpdateConfig
from tests.builders import spec
from tests.unit.manager_shell.cluster import MemoryCluster

Story = Callable[[MemoryCluster], Awaitable[None]]


def play(story: Story) -> None:
    async def main() -> None:
        cluster = MemoryCluster()
        await cluster.found()
        await asyncio.wait_for(story(cluster), 30)

    asyncio.run(main())


async def updated(cluster: MemoryCluster, service: Service, image: str) -> Service:
    new = replace(spec(image=image), name=service.spec.name)
    return await update_service(cluster.store, service.id, new, service.meta.version)


def image_of(service: Service) -> str:
    return defaults.container(service.spec).image


def versions(cluster: MemoryCluster, service: Service) -> list[int]:
    return [r.version for r in kept_specs(cluster.store.view, service)]


def test_five_specs_are_kept_and_any_may_come_back() -> None:
    async def story(cluster: MemoryCluster) -> None:
        service = await create_service(cluster.store, spec(image="image:1"))
        for number in range(2, 9):
            service = await updated(cluster, service, f"image:{number}")
        assert versions(cluster, service) == [8, 7, 6, 5, 4, 3]
        back = await rollback_service(cluster.store, "web", service.meta.version, to=4)
        assert image_of(back) == "image:4"
        assert back.update_status is not None
        assert back.update_status.state == UpdateState.ROLLBACK_STARTED
        again = await rollback_service(cluster.store, "web", back.meta.version)
        assert image_of(again) == "image:8"
        with pytest.raises(FailedPrecondition, match="cannot go back to spec version 2: kept are"):
            await rollback_service(cluster.store, "web", again.meta.version, to=2)

    play(story)


def test_how_many_is_the_clusters_setting() -> None:
    async def story(cluster: MemoryCluster) -> None:
        known = cluster.store.view.cluster
        assert known is not None
        labels = {defaults.SPECS_KEPT_LABEL: "1"}
        limited = replace(known, spec=replace(known.spec, labels=labels))
        await cluster.store.propose((PutCluster(cluster=limited),))
        service = await create_service(cluster.store, spec(image="image:1"))
        for number in range(2, 5):
            service = await updated(cluster, service, f"image:{number}")
        assert versions(cluster, service) == [4, 3]

    play(story)


def test_a_client_of_dockers_keeps_the_progress_deadline() -> None:
    async def story(cluster: MemoryCluster) -> None:
        given = spec(update=UpdateConfig(parallelism=1, progress_deadline=7))
        service = await create_service(cluster.store, given)
        sent = replace(given, update_config=UpdateConfig(parallelism=2))
        service = await update_service(cluster.store, "web", sent, service.meta.version)
        assert service.spec.update_config == UpdateConfig(parallelism=2, progress_deadline=7)

    play(story)


@pytest.mark.parametrize(
    ("paused", "state"),
    [
        (UpdateState.PAUSED, UpdateState.UPDATING),
        (UpdateState.ROLLBACK_PAUSED, UpdateState.ROLLBACK_STARTED),
    ],
)
def test_resuming(paused: UpdateState, state: UpdateState) -> None:
    async def story(cluster: MemoryCluster) -> None:
        service = await create_service(cluster.store, spec())
        with pytest.raises(FailedPrecondition, match="no update that is paused"):
            await resume_service(cluster.store, "web")
        stopped = UpdateStatus(state=paused, dirty_slots=2, failed_tasks=("a",), completed_ns=5)
        change = SetUpdateStatus(service_id=service.id, spec_version=1, status=stopped)
        await cluster.store.propose((change,))
        status = (await resume_service(cluster.store, "web")).update_status
        assert status is not None
        assert (status.state, status.forgiven, status.completed_ns) == (state, 1, 0)
        assert status.dirty_slots == 2

    play(story)

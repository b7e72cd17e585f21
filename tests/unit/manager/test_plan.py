"""Plans: what they say is what happens, and their version moves with what matters."""

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from manager.control.plans import Request, check_plan, make_plan
from manager.plan.outcome import Plan
from manager.replica import Replica, Store
from manager.store.snapshot import dump
from swarmapi.errors import AlreadyExists, Conflict, InvalidArgument, NotFound
from swarmapi.model.spec import Availability, Cron, EndpointSpec, ServiceSpec, UpdateConfig
from tests.builders import MIB, SECOND, World, job_mode, node, spec


def store_of(made: World) -> Store:
    replica = Replica()
    replica.view = made.view
    return Store(replica, None, made.new_id, lambda: made.now_ns)  # type: ignore[arg-type]  # no log


def planned(made: World, *requests: Request) -> Plan:
    return asyncio.run(make_plan(store_of(made), requests))


def create(given: ServiceSpec) -> Request:
    return Request(action="create", spec=given)


def update(service_id: str, given: ServiceSpec) -> Request:
    return Request(action="update", id=service_id, spec=given)


def slots(plan: Plan, name: str) -> list[tuple[int, str, str, str]]:
    (service,) = (s for s in plan.services if s.name == name)
    return [(t.slot, t.action, t.before_node, t.node) for t in service.tasks]


def places(made: World, service_id: str) -> list[tuple[int, str]]:
    return [(t.slot, t.node_id) for t in made.tasks(service_id)]


def nodes(made: World, count: int, **more: int) -> None:
    made.add_nodes(*(node(f"n{i}", **more) for i in range(count)))  # type: ignore[arg-type]


def test_a_plan_changes_nothing() -> None:
    made = World()
    nodes(made, 3)
    made.put_service("a", spec("a", replicas=2))
    made.converge()
    before = list(dump(made.view))
    planned(made, create(spec("b", replicas=3)), Request(action="remove", id="a"))
    assert list(dump(made.view)) == before


def test_create_says_where_every_task_goes_and_what_does_not_fit() -> None:
    """USERS T9: the plan is what happens."""
    made = World()
    nodes(made, 2, memory_bytes=250 * MIB)
    given = spec("web", replicas=5, memory_bytes=100 * MIB)
    plan = planned(made, create(given))
    made.put_service("web", given)
    made.converge()
    assert [(s, n) for s, _, _, n in slots(plan, "web")] == places(made, "web")
    (lost,) = [t for t in plan.services[0].tasks if t.unplaced]
    assert lost.unplaced == "no suitable node: 2 nodes: needs 100 MiB, at most 50 MiB free"
    assert {t.action for t in plan.services[0].tasks} == {"create"}


def test_a_job_is_planned_as_far_as_it_runs_at_first() -> None:
    """When tasks complete is not foretold; a cron job runs nothing before its start."""
    made = World()
    nodes(made, 2)
    plan = planned(made, create(spec("job", job=job_mode(5, 2))))
    assert [(s, a) for s, a, _, _ in slots(plan, "job")] == [(1, "create"), (2, "create")]
    plan = planned(made, create(spec("tick", job=job_mode(5, 2, cron=Cron(schedule="@daily")))))
    assert slots(plan, "tick") == []


def test_update_tells_replaced_from_changed_in_place() -> None:
    made = World()
    nodes(made, 3)
    made.put_service("web", spec("web", replicas=3))
    made.converge()
    labels = spec("web", replicas=3, constraints=("node.id!=n0",))
    plan = planned(made, update("web", labels))
    moved = {t.before_node: t.action for t in plan.services[0].tasks}
    assert moved == {"n0": "replace", "n1": "keep", "n2": "keep"}
    assert plan.services[0].changes == (
        'TaskTemplate.Placement.Constraints: none → ["node.id!=n0"]',
    )
    shown = replace(spec("web", replicas=3), endpoint_spec=EndpointSpec(mode="vip"))
    assert planned(made, update("web", shown)).services[0].changes == ()
    scaled = planned(made, update("web", spec("web", replicas=2))).services[0]
    assert sorted(t.action for t in scaled.tasks) == ["keep", "keep", "remove"]
    renewed = planned(made, update("web", spec("web", replicas=4, image="image:2"))).services[0]
    assert sorted(t.action for t in renewed.tasks) == ["create", "replace", "replace", "replace"]


def test_an_update_with_pauses_is_foreseen_to_its_end() -> None:
    made = World()
    nodes(made, 2)
    slow = UpdateConfig(parallelism=1, delay=20 * SECOND, monitor=30 * SECOND, order="start-first")
    made.put_service("web", spec("web", replicas=3, update=slow))
    made.converge()
    plan = planned(made, update("web", spec("web", replicas=3, update=slow, image="image:2")))
    assert {t.action for t in plan.services[0].tasks} == {"replace"}
    assert all(t.node for t in plan.services[0].tasks)


def test_a_slot_with_two_tasks_is_its_newest_ones() -> None:
    """A plan is asked for while a start-first update is under way."""
    made = World()
    nodes(made, 2)
    config = UpdateConfig(parallelism=1, order="start-first")
    made.put_service("web", spec("web", replicas=2, update=config))
    made.converge()
    made.put_service("web", spec("web", replicas=2, image="image:2", update=config))
    made.settle()
    (new,) = (t for t in made.tasks("web") if t.spec_version == 2)
    plan = planned(made, create(spec("other")), Request(action="remove", id="web"))
    assert (new.slot, "remove", new.node_id, "") in slots(plan, "web")
    assert len(slots(plan, "web")) == 2


def test_remove_and_rollback() -> None:
    made = World()
    nodes(made, 2)
    made.put_service("web", spec("web", replicas=2))
    made.converge()
    plan = planned(made, Request(action="remove", id="web"))
    assert {t.action for t in plan.services[0].tasks} == {"remove"}
    with pytest.raises(Exception, match="does not have a previous spec"):
        planned(made, Request(action="rollback", id="web"))


def test_requests_build_on_each_other_in_order() -> None:
    """As a stack's services do: the second one is placed beside the first."""
    made = World()
    nodes(made, 2)
    near = spec("near", constraints=("node.services==db",))
    plan = planned(made, create(spec("db", constraints=("node.id==n1",))), create(near))
    assert slots(plan, "near") == [(1, "create", "", "n1")]
    with pytest.raises(AlreadyExists):
        planned(made, create(spec("db")), create(spec("db")))


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Request(action="explode"), InvalidArgument),
        (Request(action="update", id="none"), NotFound),
        (create(spec("bad", constraints=("x",))), InvalidArgument),
    ],
)
def test_what_could_not_be_done_cannot_be_planned(
    request_: Request, error: type[Exception]
) -> None:
    with pytest.raises(error):
        planned(World(), request_)


def checked(made: World, request: Request, version: int) -> None:
    asyncio.run(check_plan(store_of(made), request, version, ""))


def test_a_plans_version_holds_while_nothing_that_matters_moves() -> None:
    made = World()
    nodes(made, 3)
    wish = create(spec("web", replicas=2))
    version = planned(made, wish).version
    made.put_service("far", spec("far", constraints=("node.id==n2",)))
    made.converge()
    checked(made, wish, version)  # n2 is still the last choice
    made.put_service("near", spec("near", constraints=("node.id==n0",)))
    made.converge()
    with pytest.raises(Conflict, match="the cluster moved since plan"):
        checked(made, wish, version)


def test_a_plans_version_moves_with_a_node_that_leaves() -> None:
    made = World()
    nodes(made, 2)
    wish = create(spec("web", replicas=2))
    version = planned(made, wish).version
    made.add_nodes(node("n1", availability=Availability.DRAIN))
    with pytest.raises(Conflict):
        checked(made, wish, version)
    checked(made, wish, -1)


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=3),
    st.tuples(st.integers(1, 9), st.integers(0, 4), st.booleans()),
)
def test_plan_equals_apply(
    memory: list[int], others: list[tuple[int, int]], wish: tuple[int, int, bool]
) -> None:
    """Whatever runs already, each slot goes where the plan said."""
    made = World()
    made.add_nodes(*(node(f"n{i}", memory_bytes=m * 100 * MIB) for i, m in enumerate(memory)))
    for number, (replicas, size) in enumerate(others):
        name = f"o{number}"
        made.put_service(name, spec(name, replicas=replicas, memory_bytes=size * 100 * MIB))
        made.converge()
    replicas, size, exists = wish
    if exists:
        made.put_service("web", spec("web", replicas=3))
        made.converge()
    given = spec("web", replicas=replicas, memory_bytes=size * 100 * MIB, image="image:2")
    plan = planned(made, update("web", given) if exists else create(given))
    made.put_service("web", given)
    settle(made, ("web",))
    assert [(s, n) for s, a, _, n in slots(plan, "web") if a != "remove"] == places(made, "web")


def settle(made: World, service_ids: Iterable[str]) -> None:
    """Converge, letting time pass where an update waits for it."""
    for _ in range(60):
        made.converge()
        states = [made.view.services[i].update_status for i in service_ids]
        if not any(s is not None and s.state.value == "updating" for s in states):
            return
        if made.deadline_ns is None:
            return
        made.now_ns = max(made.now_ns + 1, made.deadline_ns)
        made.dirty |= {("service", i) for i in service_ids}
    raise AssertionError("the update does not end")

"""Rebalancing: even again, start-first, at most parallelism, and at rest when it is done."""

from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from manager.store import changes as c
from manager.store.view import is_live, is_placed, is_wanted
from swarmapi.model.objects import Rebalance, TaskState
from swarmapi.model.spec import UpdateConfig
from tests.builders import MIB, SECOND, World, node, port, spec
from tests.unit.manager.test_scheduler import placed


def begin(made: World) -> None:
    made.commit(c.SetRebalance(state=Rebalance(started_ns=made.now_ns)))


def state(made: World) -> Rebalance:
    assert made.view.cluster is not None
    assert made.view.cluster.rebalance is not None
    return made.view.cluster.rebalance


def finish(made: World) -> Rebalance:
    """Let the rebalancing come to its end, and see that another one moves nothing."""
    for _ in range(100):
        made.converge()
        if state(made).ended_ns:
            return state(made)
        assert made.deadline_ns is not None
        made.now_ns = max(made.deadline_ns, made.now_ns + 1)
    raise AssertionError("rebalancing does not end")


def lopsided(replicas: int = 6, **more: object) -> World:
    """Return a world whose two new nodes are empty."""
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("web", spec("web", replicas=replicas, **more))  # type: ignore[arg-type]
    made.converge()
    made.add_nodes(node("n2"), node("n3"))
    made.converge()
    return made


def test_new_nodes_get_their_share() -> None:
    made = lopsided()
    begin(made)
    assert finish(made).moved == 4
    assert placed(made, "web") == {"n1": 2, "n2": 2, "n3": 2}
    assert [t.slot for t in made.running("web")] == [1, 2, 3, 4, 5, 6]
    begin(made)
    assert finish(made).moved == 0


def test_a_task_that_an_update_left_in_place_moves_as_well() -> None:
    made = World()
    made.add_nodes(node("n1"), node("n2"))
    made.put_service("web", spec("web", replicas=4, constraints=("node.id==n1",)))
    made.converge()
    made.put_service("web", spec("web", replicas=4))
    made.converge()
    assert placed(made, "web") == {"n1": 4}
    begin(made)
    assert finish(made).moved == 2
    assert placed(made, "web") == {"n1": 2, "n2": 2}


def test_single_tasks_of_many_services_spread_out() -> None:
    made = World()
    made.add_nodes(node("n1"))
    for number in range(4):
        made.put_service(f"s{number}", spec(f"s{number}"))
    made.converge()
    made.add_nodes(node("n2"))
    begin(made)
    assert finish(made).moved == 2
    assert made.view.loads["n1"].tasks == made.view.loads["n2"].tasks == 2


@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_move_starts_first_and_keeps_within_parallelism(parallelism: int) -> None:
    made = lopsided(update=UpdateConfig(parallelism=parallelism))
    begin(made)
    made.settle()
    for _ in range(30):
        assert len(made.running("web")) >= 6
        moving = [t for t in made.tasks("web") if t.status.state < TaskState.RUNNING]
        assert len(moving) <= parallelism
        if state(made).ended_ns:
            break
        for task in moving:
            made.report(task.id, TaskState.RUNNING)
        made.settle()
        made.obey([t.id for t in made.view.tasks.values() if t.desired > TaskState.RUNNING])
        made.settle()
    assert placed(made, "web") == {"n1": 2, "n2": 2, "n3": 2}


def test_the_delay_of_updates_lies_between_moves() -> None:
    made = lopsided(3, update=UpdateConfig(parallelism=1, delay=20 * SECOND))
    begin(made)
    made.converge()
    assert state(made).moved == 1
    made.now_ns += 19 * SECOND
    made.converge()
    assert state(made).moved == 1
    assert finish(made).moved == 2


def test_host_ports_limits_and_global_services_stay_as_they_may_be() -> None:
    made = World()
    made.add_nodes(node("n1"), node("n2"))
    made.put_service("p", spec("p", replicas=2, ports=(port(80, 8080, "host"),)))
    made.put_service("m", spec("m", replicas=2, max_replicas=1))
    made.put_service("g", spec("g", replicas=None))
    made.put_service("pack", spec("pack", replicas=4, constraints=("strategy==binpack",)))
    made.converge()
    before = {s: placed(made, s) for s in ("p", "m", "g", "pack")}
    begin(made)
    finish(made)
    assert {s: placed(made, s) for s in before} == before


def test_preferences_even_out_before_nodes() -> None:
    made = World()
    made.add_nodes(*(node(f"a{i}", labels={"az": "a"}) for i in range(3)))
    made.put_service("web", spec("web", replicas=6, spread=("node.labels.az",)))
    made.converge()
    made.add_nodes(node("b0", labels={"az": "b"}))
    begin(made)
    finish(made)
    assert placed(made, "web")["b0"] == 3


def test_a_service_whose_move_fails_is_left_alone() -> None:
    made = lopsided(2, max_attempts=1)
    begin(made)
    made.settle()
    (new,) = [t for t in made.tasks("web") if t.status.state < TaskState.RUNNING]
    made.report(new.id, TaskState.FAILED)
    assert finish(made).skipped == ("web",)
    assert len(made.running("web")) == 2
    assert state(made).moved == 0


def test_an_update_takes_over_from_a_move() -> None:
    made = lopsided()
    begin(made)
    made.settle()
    made.put_service("web", spec("web", replicas=6, image="image:2"))
    finish(made)
    for _ in range(60):
        made.now_ns += SECOND
        made.converge()
    running = made.running("web")
    assert len(running) == 6
    assert {t.spec_version for t in running} == {2}


def test_a_service_that_is_being_updated_is_said_to_be_left_alone() -> None:
    made = lopsided()
    config = UpdateConfig(parallelism=1, delay=3600 * SECOND)
    made.put_service("web", spec("web", replicas=6, image="image:2", update=config))
    made.converge()
    begin(made)
    made.converge()
    assert state(made).skipped == ("web",)
    assert state(made).ended_ns


def test_stopping_begins_nothing_more() -> None:
    made = lopsided(update=UpdateConfig(parallelism=1))
    begin(made)
    made.settle()
    made.commit(c.SetRebalance(state=Rebalance(started_ns=made.now_ns, stopping=True)))
    assert finish(made).moved == 1


@settings(max_examples=40, deadline=None)
@example(  # the last move needs the room of a task that is still on its way out
    nodes=[(2, 1), (2, 1), (3, 1), (7, 2), (9, 2)],
    services=[(4, 3, True, 0), (2, 2, False, 1), (4, 0, True, 2)],
)
@given(
    st.lists(st.tuples(st.integers(2, 12), st.integers(0, 2)), min_size=2, max_size=6),
    st.lists(
        st.tuples(st.integers(1, 8), st.integers(0, 3), st.booleans(), st.integers(0, 3)),
        min_size=1,
        max_size=4,
    ),
)
def test_it_ends_balanced_within_capacity(
    nodes: list[tuple[int, int]], services: list[tuple[int, int, bool, int]]
) -> None:
    """No oscillation: it ends, never exceeds a node, and what nothing hinders is even."""
    made = World()
    made.add_nodes(node("n0", memory_bytes=64 * 100 * MIB, labels={"z": "0"}))
    for number, (replicas, size, spreads, most) in enumerate(services):
        name = f"s{number}"
        spread = ("node.labels.z",) if spreads else ()
        wish = spec(name, replicas=replicas, memory_bytes=size * 100 * MIB, spread=spread)
        made.put_service(name, wish if not most else spec(name, replicas=1, max_replicas=most))
    made.converge()
    made.add_nodes(
        *(
            node(f"n{i + 1}", memory_bytes=memory * 100 * MIB, labels={"z": str(zone)})
            for i, (memory, zone) in enumerate(nodes)
        )
    )
    wanted = {s: len(made.running(s)) for s in made.view.services}
    begin(made)
    assert finish(made).skipped == ()
    for node_id, load in made.view.loads.items():
        assert load.memory_bytes <= made.view.nodes[node_id].description.memory_bytes
    assert {s: len(made.running(s)) for s in made.view.services} == wanted
    tasks = [t for t in made.view.tasks.values() if is_placed(t) and is_live(t)]
    assert all(is_wanted(t) for t in tasks)
    for number, (_, size, spreads, _) in enumerate(services):
        if not size and not spreads:
            counts = Counter(t.node_id for t in made.running(f"s{number}"))
            on = [counts[i] for i in made.view.nodes]
            assert max(on) - min(on) <= 1
    begin(made)
    assert finish(made).moved == 0

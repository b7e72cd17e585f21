"""Preemption: lower priorities make room, nobody flaps, and the story says why."""

from hypothesis import given, settings
from hypothesis import strategies as st

from manager.control.stories import task_story
from manager.store import changes as c
from swarmapi.model.objects import TaskState
from swarmapi.model.spec import ServiceSpec
from tests.builders import MIB, SECOND, World, job_mode, node, port, spec
from tests.unit.manager.test_plan import create, planned
from tests.unit.manager.test_scheduler import explanation, placed


def wish(
    name: str, priority: int, replicas: int | None = 1, size: int = 1, **more: int
) -> ServiceSpec:
    """Return a spec that reserves `size` hundreds of MiB."""
    return spec(
        name,
        replicas=replicas,
        memory_bytes=size * 100 * MIB,
        constraints=(f"priority=={priority}",),
        **more,  # type: ignore[arg-type]  # limits
    )


def full(*sizes: int) -> World:
    made = World()
    made.add_nodes(*(node(f"n{i}", memory_bytes=s * 100 * MIB) for i, s in enumerate(sizes)))
    return made


def test_a_greater_priority_evicts_and_the_story_says_so() -> None:
    made = full(2)
    made.put_service("low", wish("low", 0, replicas=2))
    made.converge()
    low = made.running("low")
    made.put_service("high", wish("high", 5))
    made.converge()
    assert placed(made, "high") == {"n0": 1}
    assert len(made.running("low")) == 1
    gone = next(t for t in low if t.id not in {r.id for r in made.running("low")})
    reasons = [t.line.reason for t in task_story(made.view, made.view.tasks[gone.id])]
    assert "preempted by high, which has priority 5" in reasons
    waiting = next(t for t in made.tasks("low") if not t.node_id)
    assert b"needs 100 MiB" in waiting.explanation
    made.commit(c.Delete(object="service", id="high"))
    made.converge()
    assert len(made.running("low")) == 2


def test_equal_and_greater_priorities_stay() -> None:
    made = full(1)
    made.put_service("a", wish("a", 5))
    made.converge()
    made.put_service("b", wish("b", 5))
    made.put_service("c", wish("c", -1))
    made.converge()
    assert placed(made, "a") == {"n0": 1}
    assert explanation(made, "b").refusals


def test_nobody_is_evicted_where_there_is_room_or_none_to_be_made() -> None:
    made = full(2, 1)
    made.put_service("low", wish("low", 0, replicas=2))
    made.converge()
    before = {t.id for t in made.running("low")}
    made.put_service("fits", wish("fits", 9))
    made.put_service("giant", wish("giant", 9, size=4))
    made.converge()
    assert {t.id for t in made.running("low")} == before
    assert placed(made, "fits")


def test_the_lowest_and_fewest_give_way() -> None:
    made = full(2, 2)
    made.put_service("mid", spec_at("mid", 3, "n0", size=2))
    made.put_service("small", spec_at("small", 1, "n1", replicas=2))
    made.converge()
    made.put_service("high", wish("high", 5))
    made.converge()
    assert placed(made, "mid") == {"n0": 1}
    assert placed(made, "small") == {"n1": 1}


def spec_at(
    name: str, priority: int, node_id: str, replicas: int = 1, size: int = 1
) -> ServiceSpec:
    return spec(
        name,
        replicas=replicas,
        memory_bytes=size * 100 * MIB,
        constraints=(f"priority=={priority}", f"node.id=={node_id}"),
    )


def test_room_that_becomes_free_is_waited_for_and_kept() -> None:
    """While the first one evicted stops, no other is, and nobody takes its place."""
    made = full(3)
    made.put_service("low", wish("low", 0, replicas=3))
    made.converge()
    made.put_service("high", wish("high", 5, size=2))
    made.settle()
    stopping = [t.id for t in made.view.tasks.values() if t.desired == TaskState.SHUTDOWN]
    assert len(stopping) == 2
    made.obey(stopping[:1])
    made.settle()
    made.now_ns += 3 * SECOND
    made.settle()
    after = [t.id for t in made.view.tasks.values() if t.desired == TaskState.SHUTDOWN]
    assert after == stopping
    assert not placed(made, "high")
    assert placed(made, "low") == {"n0": 1}
    made.converge()
    assert placed(made, "high") == {"n0": 1}


def test_a_host_port_and_a_global_service() -> None:
    made = full(2, 2)
    made.put_service("low", spec("low", replicas=None, ports=(port(80, 80, "host"),)))
    made.converge()
    wanted = spec(
        "high", replicas=None, ports=(port(80, 80, "host"),), constraints=("priority==1",)
    )
    made.put_service("high", wanted)
    made.converge()
    assert placed(made, "high") == {"n0": 1, "n1": 1}
    assert {t.status.state for t in made.tasks("low")} == {TaskState.PENDING}


def test_a_task_of_a_job_that_made_room_is_tried_again() -> None:
    made = full(1)
    made.put_service("job", spec("job", job=job_mode(1), memory_bytes=100 * MIB))
    made.converge()
    made.put_service("high", wish("high", 5))
    made.converge()
    assert placed(made, "high") == {"n0": 1}
    made.commit(c.Delete(object="service", id="high"))
    made.converge()
    (again,) = made.running("job")
    assert again.slot == 1


def test_a_plan_names_who_has_to_go() -> None:
    made = full(1)
    made.put_service("low", wish("low", 0))
    made.converge()
    plan = planned(made, create(wish("high", 5)))
    assert [(s.name, s.action) for s in plan.services] == [("high", "create"), ("low", "move")]
    assert plan.services[0].tasks[0].node == "n0"
    assert plan.services[1].tasks[0].unplaced


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=5),
    st.lists(
        st.tuples(st.integers(-1, 2), st.integers(1, 6), st.integers(0, 4)), min_size=1, max_size=6
    ),
)
def test_it_comes_to_rest_and_no_lower_priority_keeps_a_greater_one_out(
    sizes: list[int], services: list[tuple[int, int, int]]
) -> None:
    made = full(*sizes)
    for number, (priority, replicas, size) in enumerate(services):
        name = f"s{number}"
        made.put_service(name, wish(name, priority, replicas, size))
        made.converge()
    before = made.view.index
    made.converge()
    assert made.view.index == before
    used: dict[str, int] = {}
    for task in made.view.tasks.values():
        if task.node_id and task.status.state == TaskState.RUNNING:
            size = services[int(task.service_id[1:])][2]
            used[task.node_id] = used.get(task.node_id, 0) + size
    assert all(used.get(f"n{i}", 0) <= size for i, size in enumerate(sizes))
    for number, (priority, replicas, size) in enumerate(services):
        if len(made.running(f"s{number}")) == replicas:
            continue
        for i, total in enumerate(sizes):
            kept = sum(
                services[int(t.service_id[1:])][2]
                for t in made.view.tasks_of_node(f"n{i}")
                if t.status.state == TaskState.RUNNING
                and services[int(t.service_id[1:])][0] >= priority
            )
            assert total - kept < size

"""Who may stop being a manager."""

import pytest
from msgspec.structs import replace

from manager.control.nodes import check_demotion
from manager.store import changes as c
from swarmapi.errors import FailedPrecondition
from swarmapi.model.objects import NodeState
from swarmapi.model.spec import NodeRole
from tests.builders import World, node


def managers(count: int, *down: int) -> World:
    made = World()
    for number in range(count):
        state = NodeState.DOWN if number in down else NodeState.READY
        given = node(f"m{number}", state=state)
        made.add_nodes(replace(given, spec=replace(given.spec, role=NodeRole.MANAGER)))
    return made


@pytest.mark.parametrize(
    ("count", "down", "demoted", "words"),
    [(1, (), 0, "last manager"), (3, (1,), 0, "no quorum"), (5, (1, 2), 0, "no quorum")],
)
def test_b60_a_demotion_that_breaks_the_quorum_is_refused(
    count: int, down: tuple[int, ...], demoted: int, words: str
) -> None:
    made = managers(count, *down)
    with pytest.raises(FailedPrecondition, match=words):
        check_demotion(made.view, made.view.nodes[f"m{demoted}"])


@pytest.mark.parametrize(("count", "down", "demoted"), [(3, (), 0), (3, (1,), 1), (5, (4,), 0)])
def test_b60_a_demotion_that_keeps_the_quorum_is_taken(
    count: int, down: tuple[int, ...], demoted: int
) -> None:
    made = managers(count, *down)
    check_demotion(made.view, made.view.nodes[f"m{demoted}"])


def test_b60_two_demotions_at_a_time_leave_one_manager() -> None:
    made = managers(2)
    conflicts = []
    for node_id in ("m0", "m1"):
        old = made.view.nodes[node_id]
        worker = replace(old.spec, role=NodeRole.WORKER)
        change = c.SetNodeSpec(node_id=node_id, spec=worker, read_index=old.meta.version)
        conflicts.append(made.commit(change).conflict)
    assert conflicts[0] is None
    assert conflicts[1] is not None
    assert conflicts[1].code == "manager"

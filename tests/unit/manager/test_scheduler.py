"""Placement: filters, spread, preferences, explanations."""

import msgspec
import pytest
from msgspec.structs import replace

from manager.scheduler.constraints import matches_all, parse
from manager.scheduler.schedule import explain
from manager.scheduler.table import table_of
from manager.store import changes as c
from swarmapi.errors import InvalidArgument
from swarmapi.model.objects import Explanation, Node, NodeState, TaskState
from swarmapi.model.spec import Availability, NodeRole, NodeSpec, Platform, PortConfig, ServiceSpec
from tests.builders import MIB, World, node, port, spec


def placed(made: World, service_id: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for task in made.tasks(service_id):
        if task.node_id:
            counts[task.node_id] = counts.get(task.node_id, 0) + 1
    return counts


def explanation(made: World, service_id: str) -> Explanation:
    task = made.tasks(service_id)[0]
    assert task.status.state == TaskState.PENDING
    return msgspec.msgpack.decode(task.explanation, type=Explanation)


def test_b46_spreads_by_service_then_total() -> None:
    """The emptiest of this service first, ties by all tasks."""
    made = World()
    made.add_nodes(node("n1"), node("n2"))
    made.put_service("a", spec("a", replicas=3, constraints=("node.id==n1",)))
    made.converge()
    made.add_nodes(node("n3"))
    made.put_service("b", spec("b", replicas=4))
    made.converge()
    assert placed(made, "b") == {"n1": 1, "n2": 2, "n3": 1} or placed(made, "b") == {
        "n1": 1,
        "n2": 1,
        "n3": 2,
    }


def test_b47_preference_tree() -> None:
    """Az1 with one node and az2 with four share 8 tasks evenly."""
    made = World()
    made.add_nodes(node("a1", labels={"az": "1"}))
    made.add_nodes(*(node(f"b{i}", labels={"az": "2"}) for i in range(4)))
    made.put_service("s", spec(replicas=8, spread=("node.labels.az",)))
    made.converge()
    assert placed(made, "s") == {"a1": 4, "b0": 1, "b1": 1, "b2": 1, "b3": 1}


def test_b47_nested_preferences_and_full_branches() -> None:
    """Level by level; a full branch gives its share to the others."""
    made = World()
    made.add_nodes(
        node("a1", labels={"az": "1", "rack": "x"}, memory_bytes=100 * MIB),
        node("b1", labels={"az": "2", "rack": "x"}),
        node("b2", labels={"az": "2", "rack": "y"}),
        node("b3", labels={"az": "2", "rack": "y"}),
        node("c1"),
    )
    spread = ("node.labels.az", "node.labels.rack")
    made.put_service("s", spec(replicas=9, spread=spread, memory_bytes=100 * MIB))
    made.converge()
    counts = placed(made, "s")
    assert counts["a1"] == 1
    assert counts["c1"] == 4
    assert counts["b1"] == 2
    assert counts["b2"] == counts["b3"] == 1


def test_b48_resources_hold_and_release() -> None:
    """Pending with an explanation; placed when a task ends or a bigger node joins."""
    made = World()
    made.add_nodes(node("n1", memory_bytes=300 * MIB))
    made.put_service("a", spec("a", memory_bytes=200 * MIB))
    made.converge()
    made.put_service("b", spec("b", memory_bytes=200 * MIB))
    made.settle()
    assert explanation(made, "b").text() == (
        "no suitable node: 1 node: needs 200 MiB, at most 100 MiB free"
    )
    made.commit(c.Delete(object="service", id="a"))
    made.converge()
    assert placed(made, "b") == {"n1": 1}
    made.put_service("c", spec("c", memory_bytes=500 * MIB))
    made.settle()
    made.add_nodes(node("n2", memory_bytes=500 * MIB))
    made.converge()
    assert placed(made, "c") == {"n2": 1}
    assert made.running("c")[0].explanation == b""


@pytest.mark.parametrize(
    ("given", "changed", "name", "reason"),
    [
        (spec(), {"state": NodeState.DOWN}, "ready", "node is down"),
        (spec(), {"availability": Availability.PAUSE}, "ready", "availability is pause"),
        (spec(memory_bytes=1 << 40), {}, "resources", "needs 1024 GiB, at most 1024 MiB free"),
        (
            spec(constraints=("node.labels.disk==ssd",)),
            {},
            "constraints",
            "constraint node.labels.disk==ssd not satisfied",
        ),
        (
            spec(platforms=(Platform(os="linux", architecture="arm64"),)),
            {},
            "platform",
            "does not offer platform linux/arm64",
        ),
    ],
)
def test_b49_b50_filters(
    given: ServiceSpec, changed: dict[str, NodeState], name: str, reason: str
) -> None:
    """Never placed there; pending with the filter's words, and placed later."""
    made = World()
    made.add_nodes(node("n1", **changed))  # type: ignore[arg-type]  # one keyword per case
    made.put_service("s", given)
    made.settle()
    refusals = explanation(made, "s").refusals
    assert [(r.filter, r.count, r.examples) for r in refusals] == [(name, 1, ("n1",))]
    assert refusals[0].reason == reason
    better = node("n2", labels={"disk": "ssd"}, memory_bytes=1 << 41)
    described = replace(better.description, platform=Platform(os="linux", architecture="aarch64"))
    made.add_nodes(replace(better, description=described))
    made.converge()
    assert placed(made, "s") == {"n2": 1}


def test_every_filter_is_counted() -> None:
    """A node that fails several filters is counted by each."""
    made = World()
    made.add_nodes(node("n1", memory_bytes=MIB, state=NodeState.DOWN), node("n2", memory_bytes=MIB))
    made.put_service("s", spec(memory_bytes=2 * MIB, constraints=("node.labels.a==b",)))
    made.settle()
    found = {r.filter: r.count for r in explanation(made, "s").refusals}
    assert found == {"ready": 1, "resources": 2, "constraints": 2}
    assert explain(made.view, made.tasks("s")[0]) == explanation(made, "s")


def test_b49_host_ports_and_max_replicas() -> None:
    """One task per node where a host port or the limit says so."""
    made = World()
    made.add_nodes(node("n1"), node("n2"))
    made.put_service("p", spec("p", replicas=3, ports=(port(80, 8080, "host"),)))
    made.put_service("m", spec("m", replicas=3, max_replicas=1))
    made.converge()
    assert placed(made, "p") == placed(made, "m") == {"n1": 1, "n2": 1}
    waiting = next(t for t in made.tasks("p") if not t.node_id)
    assert "host port 8080/tcp already in use" in explain(made.view, waiting).text()
    waiting = next(t for t in made.tasks("m") if not t.node_id)
    assert "max replicas per node is 1" in explain(made.view, waiting).text()


def test_a_host_port_is_taken_at_its_place() -> None:
    def at(address: str) -> PortConfig:
        return replace(port(80, 8080, "host"), address=address)

    made = World()
    made.add_nodes(node("n1"))
    made.put_service("a", spec("a", ports=(at("10.0.0.5"),)))
    made.put_service("b", spec("b", ports=(at("10.0.0.6"),)))
    made.converge()
    made.put_service("c", spec("c", ports=(at("10.0.0.6"),)))
    made.converge()
    assert placed(made, "a") == placed(made, "b") == {"n1": 1}
    waiting = explain(made.view, made.tasks("c")[0]).text()
    assert "host port 10.0.0.6:8080/tcp already in use" in waiting


def test_b50_unplaceable_tasks_write_nothing_again() -> None:
    """Refused again for the same kind of reason, nothing is stored again."""
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("s", spec(replicas=3, memory_bytes=1 << 60))
    made.settle()
    made.put_service("other", spec("other", memory_bytes=MIB))
    made.settle()
    before = made.view.index
    made.dirty.add(("node", "n1"))
    made.settle()
    assert made.view.index == before


def test_b51_faulty_node_comes_last() -> None:
    """5 failures of a version within 5 min; a new version is judged afresh.

    The history limit, which keeps fewer records than that, does not matter.
    """
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("s", spec())
    made.converge()
    for _ in range(5):
        made.report(made.running("s")[0].id, TaskState.FAILED)
        made.converge()
        made.advance(10)
        made.converge()
    made.add_nodes(node("n2"))
    busy = spec("busy", replicas=4, constraints=("node.id==n2",))
    made.put_service("busy", busy)
    made.converge()
    made.put_service("twin", spec("twin", replicas=1))
    made.converge()
    assert placed(made, "twin") == {"n1": 1}
    made.report(made.running("s")[0].id, TaskState.FAILED)
    made.converge()
    assert placed(made, "s") == {"n2": 1}
    made.advance(301)
    made.converge()
    made.report(made.running("s")[0].id, TaskState.FAILED)
    made.converge()
    assert placed(made, "s") == {"n1": 1}


def test_b52_preassigned_task_is_only_confirmed() -> None:
    """A global task waits for its own node and never moves."""
    made = World()
    made.add_nodes(node("n1", memory_bytes=MIB), node("n2"))
    made.put_service("g", spec("g", replicas=None, memory_bytes=2 * MIB))
    made.converge()
    assert [t.node_id for t in made.running("g")] == ["n2"]
    made.add_nodes(node("n1"))
    made.converge()
    assert sorted(t.node_id for t in made.running("g")) == ["n1", "n2"]


def test_b53_stale_pending_task_is_ended() -> None:
    """An old pending task desired SHUTDOWN ends without an agent."""
    made = World()
    made.add_nodes(node("n1"))
    made.put_service("s", spec(memory_bytes=1 << 60))
    made.settle()
    old = made.tasks("s")[0]
    made.put_service("s", spec(memory_bytes=0, image="image:2"))
    made.converge()
    assert made.view.tasks[old.id].status.state == TaskState.SHUTDOWN
    assert len(made.running("s")) == 1


CASES = [
    ("node.id==n1", True),
    ("node.id!=n1", False),
    ("node.hostname == N1", True),
    ("node.role==manager", False),
    ("node.role!=manager", True),
    ("node.platform.os==linux", True),
    ("node.platform.arch==amd64", True),
    ("node.platform.arch==x86_64", True),
    ("node.labels.disk==ssd", True),
    ("node.labels.none==x", False),
    ("node.labels.none!=x", True),
    ("engine.labels.gpu==yes", True),
    ("node.ip==192.0.2.0/24", True),
    ("node.ip!=192.0.2.7", False),
    ("node.ip in (198.51.100.0/24, 192.0.2.0/24)", True),
    ("node.labels.disk in (hdd, SSD)", True),
    ("node.labels.disk not in (hdd, ssd)", False),
    ("node.labels.none not in (hdd)", True),
    ("node.labels.disk =~ ^s+d$", True),
    ("node.labels.disk =~ hdd|nvme", False),
    ("node.labels.none =~ .*", False),
    ("node.labels.rack<10", True),
    ("node.labels.rack <= 9", True),
    ("node.labels.rack > 9.5", False),
    ("node.labels.rack >= 9", True),
    ("node.labels.disk > 1", False),
    ("node.labels.none < 1", False),
    ("node.labels.disk exists", True),
    ("node.labels.none exists", False),
    ("node.labels.none not exists", True),
    ("node.role==manager or node.labels.disk==ssd", True),
    ("node.role==manager or node.labels.rack > 10 or node.labels.none exists", False),
    ("node.labels.disk==this or that", False),
]


@pytest.mark.parametrize(("expression", "matched"), CASES)
def test_constraint_language(expression: str, matched: bool) -> None:
    described = replace(node("n1").description, labels={"gpu": "yes"})
    given = Node(
        id="n1",
        spec=NodeSpec(labels={"disk": "ssd", "rack": "9"}, role=NodeRole.WORKER),
        description=described,
        address="192.0.2.7",
    )
    assert matches_all((expression,), given) is matched


@pytest.mark.parametrize(
    "expression",
    [
        "node.id=n1",
        "node.id<3",
        "node.id==",
        "disk==ssd",
        "",
        "node.labels.a in ()",
        "node.labels.a < much",
        "node.labels.a =~ (a+)+",
        "node.labels.a =~ [",
        "node.labels.a =~ a?a?a?a?a?",
        "node.role==worker or node.labels.a",
        "strategy==random",
        "priority==high",
        "priority==9999999",
        "node.role==worker or priority==3",
        "prefer",
    ],
)
def test_constraint_refusals(expression: str) -> None:
    with pytest.raises(InvalidArgument, match="constraint"):
        parse(expression)
    assert not matches_all((expression,), node("n1"))


def test_the_table_has_every_filters_numbers_and_remedies() -> None:
    """USERS T6: the exact missing amount of memory, port, label, platform, and of ready nodes."""
    made = World()
    made.add_nodes(
        node("small", memory_bytes=300 * MIB, labels={"disk": "ssd"}),
        node("plain"),
        node("paused", labels={"disk": "ssd"}, availability=Availability.PAUSE),
    )
    made.put_service(
        "old", spec("old", ports=(port(80, 8080, "host"),), constraints=("node.id==plain",))
    )
    made.converge()
    wish = spec(
        "web",
        memory_bytes=512 * MIB,
        constraints=("node.labels.disk==ssd",),
        ports=(port(80, 8080, "host"),),
        platforms=(Platform(os="linux", architecture="amd64"),),
        max_replicas=1,
    )
    made.put_service("web", wish)
    made.settle()
    rows = {row.node_id: row for row in table_of(made.view, made.tasks("web")[0])}
    cells = {n: {c.filter: c for c in row.cells if not c.passes} for n, row in rows.items()}
    assert cells["small"]["resources"].detail == "needs 512 MiB, 300 MiB free"
    assert cells["small"]["resources"].remedy == "212 MiB more free memory"
    assert cells["plain"]["constraints"].remedy == (
        "swarmctl node update --label-add disk=ssd plain"
    )
    assert cells["plain"]["host-port"].detail == "8080/tcp already in use by old"
    assert list(cells["paused"]) == ["ready"]
    assert cells["paused"]["ready"].remedy == ("swarmctl node update --availability active paused")


def test_the_table_of_a_running_task_says_why_it_is_there() -> None:
    """It is made as if the task were not there: its own port and memory are free."""
    made = World()
    made.add_nodes(node("n1"), node("n2", memory_bytes=100 * MIB))
    made.put_service(
        "web", spec("web", memory_bytes=900 * MIB, ports=(port(80, 8080, "host"),), max_replicas=1)
    )
    made.converge()
    first, second = table_of(made.view, made.running("web")[0])
    assert (first.node_id, first.fits, first.tasks) == ("n1", True, 0)
    assert (second.node_id, second.fits) == ("n2", False)
    assert made.running("web")[0].node_id == "n1"

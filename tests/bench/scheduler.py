"""The scheduler in memory: every task placed and stored, without Raft, in CPU seconds.

Budgets are halves of SwarmKit's best figure of its own benchmarks on this kind of machine (1.3 s),
and a twentieth of 318 s for the constrained one, where a third of the nodes are eligible.
"""

import time

from manager.orchestrator.drain import evict
from manager.reconcile import Env
from manager.scheduler.schedule import schedule
from manager.store import changes as c
from manager.store.apply import apply
from manager.store.turn import Turn
from manager.store.view import PENDING, View
from swarmapi.model.objects import Service, SpecVersion, Task, TaskState, TaskStatus
from tests.bench.contest import Benchmark, Contender
from tests.builders import MIB, node, spec

SERVICES = 10


def cluster(nodes: int, tasks: int, constraints: tuple[str, ...]) -> View:
    """Return a View with nodes, every third one labelled, and pending tasks of ten services."""
    view = View()
    labels = {"net": "yes"}
    changes: list[c.Change] = [
        c.PutNode(node=node(f"n{i:05}", labels=labels if i % 3 == 0 else None))
        for i in range(nodes)
    ]
    for number in range(SERVICES):
        name = f"s{number}"
        made = spec(name, replicas=tasks // SERVICES, memory_bytes=MIB, constraints=constraints)
        changes.append(c.PutSpecVersion(record=SpecVersion(service_id=name, version=1, spec=made)))
        changes.append(c.PutService(service=Service(id=name, spec=made, spec_version=1)))
    for number in range(tasks):
        task = Task(
            id=f"t{number:06}",
            service_id=f"s{number % SERVICES}",
            spec_version=1,
            slot=1 + number // SERVICES,
            status=TaskStatus(state=TaskState.PENDING),
        )
        changes.append(c.PutTask(task=task))
    apply(view, 1, 1, c.Transaction(request_id="", changes=tuple(changes)))
    return view


def place_all(view: View) -> float:
    """Run turns and apply them until no task waits; return the CPU seconds."""
    start = time.process_time()
    while view.by_stage.of(PENDING):
        turn = Turn(view, Env(view.now_ns, lambda: ""), {})
        schedule(turn, evict)
        transaction = c.Transaction(request_id="", changes=tuple(turn.changes))
        apply(view, view.index + 1, view.now_ns + 1, transaction)
        if not turn.changes:
            raise RuntimeError("tasks are left that fit nowhere")
    return time.process_time() - start


def benchmark() -> Benchmark:
    """1,000 nodes, 10,000 tasks."""
    sample = Contender("swarm", lambda: place_all(cluster(1_000, 10_000, ())))
    return Benchmark("scheduler, 1k nodes × 10k tasks in memory", "s", (sample,), 0.65, 3, "", 0)

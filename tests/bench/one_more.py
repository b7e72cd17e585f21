"""One more service among 100, 1,000 and 10,000: from the request to its tasks' places, in memory.

What is counted is the CPU time of the store and of the turns, without Raft. The budget says that it
does at most double where a hundred times as many are there.
"""

import time
from functools import cache, partial

from manager.store import changes as c
from swarmapi.model.objects import Service, SpecVersion, Task, TaskState, TaskStatus
from tests.bench.contest import Benchmark, Contender
from tests.builders import MIB, World, node, spec

COUNTS = (10_000, 1_000, 100)
NODES = 100
REPLICAS = 3
ASKED = 20
"""How often a sample asks: one alone is too short to be told from noise."""


@cache
def world(services: int) -> World:
    """Return a cluster at rest with so many services, each of three running tasks."""
    made = World()
    made.add_nodes(*(node(f"n{i:03}", memory_bytes=1 << 40) for i in range(NODES)))
    changes: list[c.Change] = []
    for number in range(services):
        name = f"s{number:05}"
        wanted = spec(name, replicas=REPLICAS, memory_bytes=MIB)
        record = SpecVersion(service_id=name, version=1, spec=wanted)
        changes += [c.PutSpecVersion(record=record)]
        changes += [c.PutService(service=Service(id=name, spec=wanted, spec_version=1))]
        for slot in range(REPLICAS):
            task = Task(
                id=f"u{number:05}-{slot}",
                service_id=name,
                service_name=name,
                spec_version=1,
                slot=slot + 1,
                node_id=f"n{(number * REPLICAS + slot) % NODES:03}",
                desired=TaskState.RUNNING,
                status=TaskStatus(state=TaskState.RUNNING),
            )
            changes += [c.PutTask(task=task)]
    made.commit(*changes)
    made.settle(turns=1 + services)
    return made


def sample(services: int) -> float:
    """Return the CPU milliseconds of one more service; its removal is not counted."""
    made, spent_s = world(services), 0.0
    for number in range(ASKED):
        name = f"more{number}"
        began_s = time.process_time()
        made.put_service(name, spec(name, replicas=REPLICAS, memory_bytes=MIB))
        made.settle()
        spent_s += time.process_time() - began_s
        if len(made.tasks(name)) != REPLICAS:
            raise RuntimeError(f"{name} has no place")
        made.commit(c.Delete(object="service", id=name, reason="asked"))
        made.converge()
    return spent_s * 1000 / ASKED


def benchmark() -> Benchmark:
    """Return the benchmark: ours is the largest cluster, the peer the smallest."""
    contenders = tuple(Contender(f"among {n:,}", partial(sample, n)) for n in COUNTS)
    return Benchmark("one more service", "ms", contenders, 2.0, 5, contenders[-1].name, 1)

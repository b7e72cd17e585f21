"""How long a cluster is without a machine: medians of power cuts, `python -m tests.soak.failover`.

Worker: from the cut until as many tasks run elsewhere as ran on it. Leader: from the cut until
another manager accepts a write. The lab's own boot and the wait for five ready nodes lie between
the tries.
"""

import argparse
import os
import statistics
import sys
import time

from tests.e2e.lab import LabHandle, wait_until

SPEC = {
    "Name": "web",
    "TaskTemplate": {"ContainerSpec": {"Image": "busybox:latest", "Command": ["sleep", "100000"]}},
    "Mode": {"Replicated": {"Replicas": 10}},
}


def node_id(lab: LabHandle, via: str, name: str) -> str:
    """Return a node's id by its name."""
    nodes = lab.api(via, "GET", "/nodes").body
    return next(str(n["ID"]) for n in nodes if n["Description"]["Hostname"] == name)


def lose_worker(lab: LabHandle, worker: str) -> float:
    """Cut a worker's power; returns the seconds until all ten tasks run elsewhere."""
    via = lab.leader("m1")
    lost = node_id(lab, via, worker)
    wait_until(
        lambda: any(t["NodeID"] == lost for t in lab.running(via, "web")), 60, "it has a task"
    )
    started = time.monotonic()
    lab.run("kill", worker)

    def replaced() -> bool:
        places = [task["NodeID"] for task in lab.running(via, "web")]
        return len(places) == 10 and lost not in places

    wait_until(replaced, 60, "ten tasks run elsewhere")
    return time.monotonic() - started


def lose_leader(lab: LabHandle, number: int) -> float:
    """Cut the leader's power; returns the seconds until a follower accepts a write."""
    leader = lab.leader("m1")
    via = next(name for name in lab.managers() if name != leader)
    node = lab.api(via, "GET", f"/nodes/{node_id(lab, via, 'w1')}").body
    spec = node["Spec"] | {"Labels": {"try": str(number)}}
    url = f"/nodes/{node['ID']}/update?version={node['Version']['Index']}"
    started = time.monotonic()
    lab.run("kill", leader)
    while lab.api(via, "POST", url, spec).status != 200:
        if time.monotonic() - started > 60:
            raise AssertionError("no write within 60 s")
        # A heartbeat may have changed the version meanwhile.
        fresh = lab.api(via, "GET", f"/nodes/{node['ID']}")
        if fresh.status == 200:
            url = f"/nodes/{node['ID']}/update?version={fresh.body['Version']['Index']}"
    spent_s = time.monotonic() - started
    lab.run("start", leader)
    return spent_s


def main() -> int:
    """Run the tries and print every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=5)
    options = parser.parse_args()
    lab = LabHandle(f"t{os.getpid()}f")
    try:
        lab.run("up")
        lab = LabHandle(lab.name, tuple(lab.run("nodes").stdout.split()))
        assert lab.api("m1", "POST", "/services/create", SPEC).status == 201
        lab.await_running("m1", "web", 10)
        results: dict[str, list[float]] = {"worker": [], "leader": []}
        for number in range(options.tries):
            worker = ("w1", "w2")[number % 2]
            results["worker"].append(lose_worker(lab, worker))
            lab.run("start", worker)
            lab.await_ready("m1", 60)
            # Spread the tasks again, so that the next worker to be lost holds some.
            for replicas in (2, 10):
                lab.swarmctl("m1", "service", "scale", "--detach", f"web={replicas}")
                lab.await_running("m1", "web", replicas)
            results["leader"].append(lose_leader(lab, number))
            lab.await_ready("m1", 60)
        for what, values in results.items():
            shown = " ".join(f"{value:.2f}" for value in values)
            print(f"{what} lost: median {statistics.median(values):.2f} s of {shown}")
    finally:
        lab.run("down")
    return 0


if __name__ == "__main__":
    sys.exit(main())

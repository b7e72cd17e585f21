"""Plans, explanations, stories and rebalancing on real nodes."""

from tests.e2e.lab import LabHandle, wait_until

NAME = "placed"
WORKERS = ("--constraint", "node.hostname in (w1, w2) or node.labels.none exists")


def nodes_of(lab: LabHandle) -> list[str]:
    hosts = {n["ID"]: n["Description"]["Hostname"] for n in lab.api("m1", "GET", "/nodes").body}
    return sorted(hosts[task["NodeID"]] for task in lab.running("m1", NAME))


def test_what_is_planned_happens_and_is_told(lab: LabHandle) -> None:
    flags = ["--name", NAME, "--replicas", "4", "--no-resolve-image", *WORKERS]
    program = ["busybox:latest", "sleep", "100000"]
    plan = lab.swarmctl("m1", "service", "create", "--plan", *flags, *program).splitlines()
    version = plan[-1].removeprefix("Plan version: ")
    flags += ["--plan-version", version]
    lab.swarmctl("m1", "service", "create", "--quiet", *flags, *program)
    assert nodes_of(lab) == sorted(line.split()[-1] for line in plan[1:-1])
    story = lab.swarmctl("m1", "task", "story", f"{NAME}.1")
    assert "assigned to w" in story
    assert "running" in story.splitlines()[-1]
    found = lab.api("m1", "GET", f"/swarm/v1/tasks/{NAME}.1/explain").body
    assert {row["Node"] for row in found["Table"] if row["Fits"]} == {"w1", "w2"}


def test_tasks_go_where_there_is_room_again(lab: LabHandle) -> None:
    flags = ["--name", NAME, "--replicas", "4", "--no-resolve-image", "--quiet"]
    one = "node.hostname==w1"
    lab.swarmctl(
        "m1", "service", "create", *flags, "--constraint", one, "busybox:latest", "sleep", "100000"
    )
    change = ["--quiet", "--constraint-rm", one, WORKERS[0] + "-add", WORKERS[1]]
    lab.swarmctl("m1", "service", "update", *change, NAME)
    assert nodes_of(lab) == ["w1"] * 4, "a constraint that is gone moves nothing"
    told = lab.swarmctl("m1", "cluster", "rebalance")
    assert told.splitlines()[-1] == "Everything is balanced."
    wait_until(lambda: nodes_of(lab) == ["w1", "w1", "w2", "w2"], 30, "the tasks are even")

"""The demo's story: a service converges, is reached everywhere, and survives power cuts."""

import json

import pytest

from tests.e2e.lab import LabHandle, wait_until


def urls(lab: LabHandle, nodes: tuple[str, ...]) -> list[str]:
    return [f"http://{lab.address(node)}:8080/" for node in nodes]


def test_all_nodes_are_listed_with_their_roles(lab: LabHandle) -> None:
    nodes = lab.api("w1", "GET", "/nodes")
    assert nodes.status == 503, "a worker does not serve cluster state"
    listed = lab.api("m2", "GET", "/nodes").body
    roles = {node["Description"]["Hostname"]: node["Spec"]["Role"] for node in listed}
    assert roles == {name: "manager" if name[0] == "m" else "worker" for name in lab.nodes}
    assert sum(1 for node in listed if node.get("ManagerStatus", {}).get("Leader")) == 1


def test_every_node_reaches_every_replica_and_shows_the_true_client(
    lab: LabHandle, web: str
) -> None:
    containers = {
        task["Status"]["ContainerStatus"]["ContainerID"][:12] for task in lab.running("m1", web)
    }
    assert len(containers) == 3
    for node in lab.nodes:
        answers = lab.fetch(urls(lab, (node,)), times=30)
        assert {answer["hostname"] for answer in answers} == containers, node
        assert {answer["client"] for answer in answers} == {lab.address("client")}, node


def test_the_name_leads_to_the_vip_and_the_vip_to_all_replicas(lab: LabHandle) -> None:
    lab.swarmctl("m1", "network", "create", "--driver", "overlay", "front")
    try:
        web = ["--name", "web", "--replicas", "3", "--network", "front", "swarm-demo/web:1"]
        lab.swarmctl("m1", "service", "create", *web)
        probe = ["--name", "probe", "--network", "front", "busybox:latest", "sleep", "100000"]
        lab.swarmctl("m1", "service", "create", *probe)
        lab.await_running("m1", "web", 3)
        lab.await_running("m1", "probe", 1)
        (task,) = lab.running("m1", "probe")
        hosts = {entry["ID"]: entry for entry in lab.api("m1", "GET", "/nodes").body}
        node = hosts[task["NodeID"]]["Description"]["Hostname"]
        container = task["Status"]["ContainerStatus"]["ContainerID"]
        ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc web 80 | tail -n 1"
        loop = f"for i in $(seq 30); do {ask}; done"
        lines = lab.swarmctl(node, "exec", container, "sh", "-c", loop).splitlines()
        assert len({json.loads(line)["hostname"] for line in lines}) == 3
        for service in lab.api("m1", "GET", "/services").body:
            lab.api("m1", "DELETE", f"/services/{service['ID']}")
    finally:
        wait_until(
            lambda: lab.api("m1", "DELETE", "/networks/front").status in (204, 404),
            30,
            "the network front is removed",
        )


def test_a_power_cut_on_a_worker_replaces_its_tasks_elsewhere(lab: LabHandle, web: str) -> None:
    lab.swarmctl("m1", "service", "scale", f"{web}=5")
    lab.await_running("m1", web, 5)
    ids = {e["Description"]["Hostname"]: e["ID"] for e in lab.api("m1", "GET", "/nodes").body}
    assert any(task["NodeID"] == ids["w1"] for task in lab.running("m1", web))
    lab.run("kill", "w1")
    wait_until(lambda: lab.node_states("m1").get("w1") == "down", 30, "w1 is seen to be down")

    def replaced() -> bool:
        places = [task["NodeID"] for task in lab.running("m1", web)]
        return len(places) == 5 and ids["w1"] not in places

    wait_until(replaced, 30, "five tasks run elsewhere")
    answers = lab.fetch(urls(lab, ("m1", "m2", "m3", "w2")), times=10)
    assert len({answer["hostname"] for answer in answers}) == 5


@pytest.mark.parametrize("loss", ["kill", "pause"])
def test_a_lost_leader_leaves_a_cluster_that_accepts_changes_and_its_nodes_ready(
    lab: LabHandle, web: str, loss: str
) -> None:
    leader = lab.leader("m1")
    other = next(name for name in lab.managers() if name != leader)
    lost_id = next(
        entry["ID"]
        for entry in lab.api(other, "GET", "/nodes").body
        if entry["Description"]["Hostname"] == leader
    )
    kept = {task["ID"] for task in lab.running(other, web) if task["NodeID"] != lost_id}
    lab.run(loss, leader)
    try:
        lab.swarmctl(other, "service", "scale", f"{web}=5")
        assert lab.leader(other) != leader
        # The successor gives every node the same grace: when it is over for the lost one, it is
        # for all that have not found the successor.
        wait_until(lambda: lab.node_states(other).get(leader) == "down", 30, "the loss is seen")
        states = lab.node_states(other)
        assert {states[node] for node in lab.nodes if node != leader} == {"ready"}, states
        lab.await_running(other, web, 5)
        assert kept <= {task["ID"] for task in lab.running(other, web)}
    finally:
        if loss == "pause":
            lab.run("resume", leader)


def test_a_restart_of_the_daemons_leaves_containers_running(lab: LabHandle, web: str) -> None:
    before = {task["Status"]["ContainerStatus"]["PID"] for task in lab.running("m1", web)}
    for node in lab.nodes:
        lab.run("restart", node)
    lab.await_ready("m1")
    lab.await_running("m1", web, 3)
    after = {task["Status"]["ContainerStatus"]["PID"] for task in lab.running("m1", web)}
    assert after == before


def test_a_minority_of_managers_refuses_and_the_majority_goes_on(lab: LabHandle, web: str) -> None:
    alone = lab.leader("m1")
    other = next(name for name in lab.managers() if name != alone)
    lab.run("partition", alone)
    lab.swarmctl(other, "service", "scale", f"{web}=4")
    lab.await_running(other, web, 4)
    spec = {
        "Name": "late",
        "TaskTemplate": {"ContainerSpec": {"Image": "busybox:latest"}},
        "Mode": {"Replicated": {"Replicas": 1}},
    }
    assert lab.api(alone, "POST", "/services/create", spec).status in (500, 503)
    lab.run("heal")
    lab.await_ready(alone, timeout_s=60)
    names = {entry["Spec"]["Name"] for entry in lab.api(alone, "GET", "/services").body}
    assert names == {web}

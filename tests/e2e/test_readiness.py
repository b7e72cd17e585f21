"""Who gets connections: a task that is ready, and not one whose health check has failed."""

import json
from typing import Any

from tests.e2e.lab import LabHandle, wait_until

IMAGE = "swarm-demo/web:1"


def tasks(lab: LabHandle, service: str) -> list[dict[str, Any]]:
    """Return the service's wanted tasks."""
    return [
        task
        for task in lab.api("m1", "GET", f'/tasks?filters={{"service":["{service}"]}}').body
        if task["DesiredState"] == "running"
    ]


def inside(lab: LabHandle, task: dict[str, Any], *command: str) -> None:
    """Run a command in a task's container, on its node: what starts takes no `service exec`."""
    node = lab.api("m1", "GET", f"/nodes/{task['NodeID']}").body["Description"]["Hostname"]
    lab.swarmctl(node, "exec", task["Status"]["ContainerStatus"]["ContainerID"], *command)


def is_serving(lab: LabHandle, task: dict[str, Any]) -> bool:
    found: str = lab.api("m1", "GET", f"/tasks/{task['ID']}").body["EndpointState"]
    return found == "serving"


def test_traffic_follows_readiness_and_an_ill_task_is_withdrawn_first(lab: LabHandle) -> None:
    """By flags of swarmctl; no request fails on the way, and readiness replaces no task."""
    words = ["--name", "web", "--replicas", "2", "--publish", "8080:80", "--detach"]
    words += ["--ready-cmd", "[ -e /tmp/go ]", "--ready-interval", "200ms", "--ready-retries", "1"]
    words += ["--health-cmd", "[ ! -e /tmp/ill ]", "--health-interval", "200ms"]
    words += ["--health-retries", "1", "--restart-delay", "0s"]
    lab.swarmctl("m1", "service", "create", *words, IMAGE)

    def starting() -> list[dict[str, Any]]:
        return [t for t in tasks(lab, "web") if t["Status"]["State"] == "starting"]

    wait_until(lambda: len(starting()) == 2, 30, "both tasks are started")
    one, other = starting()
    inside(lab, one, "touch", "/tmp/go")
    lab.await_running("m1", "web", 1)
    wait_until(lambda: is_serving(lab, one), 10, "the ready task serves")
    url = f"http://{lab.address('m1')}:8080/"
    assert len({a["hostname"] for a in lab.fetch([url], 10)}) == 1
    inside(lab, other, "touch", "/tmp/go")
    wait_until(lambda: is_serving(lab, other), 10, "the other task serves")
    assert len({a["hostname"] for a in lab.fetch([url], 30)}) == 2

    inside(lab, one, "rm", "/tmp/go")
    wait_until(lambda: not is_serving(lab, one), 10, "the task that is not ready is withdrawn")
    assert len({a["hostname"] for a in lab.fetch([url], 30)}) == 1
    shown = lab.api("m1", "GET", f"/tasks/{one['ID']}").body["Status"]
    assert (shown["State"], shown["Message"]) == ("running", "not ready: exit code 1")
    inside(lab, one, "touch", "/tmp/go")
    wait_until(lambda: is_serving(lab, one), 10, "the task that is ready again serves")

    inside(lab, other, "touch", "/tmp/ill")

    def end_of_other() -> str:
        lab.fetch([url], 10)  # raises where a request fails
        found: str = lab.api("m1", "GET", f"/tasks/{other['ID']}").body["Status"].get("Err", "")
        return found

    wait_until(lambda: bool(end_of_other()), 15, "the ill task is stopped")
    assert end_of_other() == "task: unhealthy container"
    story = json.dumps(lab.api("m1", "GET", f"/swarm/v1/tasks/{other['ID']}/story").body)
    assert "every node acknowledged" in story

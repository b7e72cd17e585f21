"""Jobs over REST, as Docker's clients send and read them."""

from typing import Any

import pytest

from manager.store.changes import SetTaskStatus
from swarmapi.model.objects import TaskState, TaskStatus
from tests.unit.manager_shell.cluster import MemoryCluster
from tests.unit.manager_shell.test_rest import Client, get, play, post, spec


def job(total: int | None = 2, concurrent: int | None = 1, **more: Any) -> dict[str, Any]:
    """Return the body of a replicated job; without `total` of a global one."""
    counts = {"MaxConcurrent": concurrent, "TotalCompletions": total}
    mode = {"ReplicatedJob": counts} if total is not None else {"GlobalJob": {}}
    return spec("job", Mode={**mode, **more})


async def complete(cluster: MemoryCluster) -> None:
    """Let what runs complete."""
    await cluster.settle()
    await cluster.run_tasks()
    for task in list(cluster.store.view.tasks.values()):
        if task.status.state == TaskState.RUNNING:
            status = TaskStatus(state=TaskState.COMPLETE, timestamp_ns=cluster.store.now_ns())
            await cluster.store.propose((SetTaskStatus(task_id=task.id, status=status),))
    await cluster.settle()


def test_a_job_as_the_docker_cli_reads_it() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        await post(client, "/services/create", job(), 201)
        await cluster.settle()
        await cluster.run_tasks()
        service = await get(client, "/services/job?insertDefaults=false")
        assert service["Spec"]["Mode"] == {
            "ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 2}
        }
        assert service["JobStatus"]["JobIteration"] == {"Index": 0}
        assert service["JobStatus"]["LastExecution"].endswith("Z")
        (task,) = await get(client, "/tasks", filters={"service": ["job"]})
        assert (task["Slot"], task["JobIteration"]) == (0, {"Index": 0})
        assert (task["DesiredState"], task["Status"]["State"]) == ("complete", "running")
        (listed,) = await get(client, "/services?status=true", filters={"mode": ["replicated-job"]})
        assert listed["ServiceStatus"] == {
            "RunningTasks": 1,
            "DesiredTasks": 1,
            "CompletedTasks": 0,
        }
        await complete(cluster)
        await complete(cluster)
        tasks = await get(client, "/tasks", filters={"desired-state": ["complete"]})
        assert sorted(t["Slot"] for t in tasks) == [0, 1]
        (listed,) = await get(client, "/services?status=true")
        assert listed["ServiceStatus"]["CompletedTasks"] == 2
        assert listed["JobStatus"]["State"] == "complete"
        assert "UpdateStatus" not in listed

    play(story)


def test_updates_and_iterations() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        async def update(change: dict[str, Any], status: int = 200, query: str = "") -> Any:
            service = await get(client, "/services/job")
            body = {**service["Spec"], **change}
            path = f"/services/{service['ID']}/update?version={service['Version']['Index']}{query}"
            answer = await post(client, path, body, status)
            return (await get(client, "/services/job"))["JobStatus"] if status == 200 else answer

        await post(client, "/services/create", job(Deadline=10**12), 201)
        await complete(cluster)
        assert (await update({"Labels": {"a": "b"}}))["JobIteration"]["Index"] == 0
        again = job(2, 2)["Mode"]
        assert (await update({"Mode": again}))["JobIteration"]["Index"] == 0
        kept = (await get(client, "/services/job"))["Spec"]["Mode"]
        assert kept == {**again, "Deadline": 10**12}
        template = {**job()["TaskTemplate"], "ForceUpdate": 1}
        assert (await update({"TaskTemplate": template}))["JobIteration"]["Index"] == 1
        back = await update({}, query="&rollback=previous")
        assert back["JobIteration"]["Index"] == 2
        assert "UpdateStatus" not in await get(client, "/services/job")
        refused = await update({"Mode": {"GlobalJob": {}}}, 400)
        assert "mode of a service cannot be changed" in refused["message"]

    play(story)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"UpdateConfig": {"Parallelism": 1}}, "UpdateConfig: jobs have no rolling update"),
        ({"RollbackConfig": {"Parallelism": 1}}, "RollbackConfig: jobs have no rolling rollback"),
        ({"Mode": {"GlobalJob": {}, "Global": {}}}, "must specify only one service mode"),
        ({"Mode": {"Replicated": {}, "Deadline": 5}}, "Mode.Deadline: goes with"),
        ({"Mode": {"Global": {}, "Cron": {"Schedule": "* * * * *"}}}, "Mode.Cron: goes with"),
        ({"Mode": {"ReplicatedJob": {"TotalCompletions": -1}}}, "TotalCompletions: must be betw"),
        ({"Mode": {"GlobalJob": {}, "Deadline": -1}}, "Mode.Deadline: cannot be negative"),
        ({"Mode": {"Cron": {"Schedule": "61 * * * *"}}}, "Mode.Cron: schedule: minute '61'"),
        ({"Mode": {"Cron": {"Schedule": "* * *"}}}, "Mode.Cron: schedule '* * *'"),
        ({"Mode": {"Cron": {"Schedule": "0 0 31 2 *"}}}, "Mode.Cron.Schedule: '0 0 31 2 *' never"),
        (
            {"Mode": {"Cron": {"Schedule": "@daily", "TimeZone": "Mars/Base"}}},
            "Mode.Cron: time zone 'Mars/Base' is not known",
        ),
        (
            {"Mode": {"Cron": {"Schedule": "@daily", "MissedRunWindow": 5}}},
            "MissedRunWindow: must be between 1s and 168h",
        ),
        ({"Mode": {"Cron": {"Schedule": "@daily", "History": -1}}}, "Mode.Cron.History"),
    ],
)
def test_what_a_job_cannot_be(change: dict[str, Any], words: str) -> None:
    async def story(_: MemoryCluster, client: Client) -> None:
        answer = await post(client, "/services/create", {**job(), **change}, 400)
        assert words in answer["message"]

    play(story)


def test_a_cron_job_is_a_job_with_a_schedule() -> None:
    async def story(cluster: MemoryCluster, client: Client) -> None:
        cron = {"Schedule": "@yearly", "TimeZone": "Europe/Berlin", "Overlap": "replace"}
        await post(client, "/services/create", spec("job", Mode={"Cron": cron}), 201)
        await complete(cluster)
        service = await get(client, "/services/job")
        assert service["Spec"]["Mode"] == {
            "ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1},
            "Cron": cron,
        }
        assert service["JobStatus"]["State"] == "waiting"
        assert service["JobStatus"]["NextStart"].endswith("-12-31T23:00:00Z")
        assert await get(client, "/tasks") == []
        # What a client sends that does not know our fields.
        body = {**service["Spec"], "Mode": {"ReplicatedJob": {"TotalCompletions": 3}}}
        body["TaskTemplate"] = {**body["TaskTemplate"], "ForceUpdate": 1}
        path = f"/services/job/update?version={service['Version']['Index']}"
        await post(client, path, body)
        await complete(cluster)
        service = await get(client, "/services/job")
        assert service["Spec"]["Mode"]["Cron"] == cron
        assert service["JobStatus"]["JobIteration"] == {"Index": 1}

    play(story)

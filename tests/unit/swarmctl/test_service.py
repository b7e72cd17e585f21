"""service commands: specs as Docker's client sends them, convergence, logs."""

import base64
import copy
import io
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from swarmapi.model.spec import ServiceSpec
from swarmctl import converge
from swarmctl.http import Client
from tests.unit.swarmctl.conftest import Run
from tests.unit.swarmctl.daemon import Daemon, Reply, Seen, frame, refusal

SERVICE: dict[str, Any] = {
    "ID": "svc1aaaaaaaaaaaaaaaaaaaaa",
    "Version": {"Index": 43},
    "Spec": {
        "Name": "web",
        "Labels": {"old": "1"},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "busybox:latest@sha256:1", "Env": ["A=1", "B=2"]},
            "ForceUpdate": 0,
        },
        "Mode": {"Replicated": {"Replicas": 2}},
        "EndpointSpec": {"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080}]},
        "UpdateConfig": {"Monitor": 400_000_000},
    },
    "Endpoint": {
        "Ports": [
            {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}
        ]
    },
    "ServiceStatus": {"RunningTasks": 1, "DesiredTasks": 2},
}
NODES = [
    {"ID": "n1", "Spec": {}, "Status": {"State": "ready"}, "Description": {"Hostname": "alpha"}},
    {"ID": "n2", "Spec": {}, "Status": {"State": "down"}, "Description": {"Hostname": "beta"}},
]


def task(slot: int, state: str, **more: Any) -> dict[str, Any]:
    return {
        "ID": f"t{slot}{state}",
        "ServiceID": SERVICE["ID"],
        "Slot": slot,
        "NodeID": "n1",
        "DesiredState": "running",
        "Status": {"State": state, "Timestamp": "2026-01-01T00:00:00Z"},
        "Spec": {"ContainerSpec": {"Image": "busybox:latest@sha256:1"}},
        "CreatedAt": "2026-01-01T00:00:00Z",
        **more,
    }


def serve(daemon: Daemon, tasks: list[Any], **service: Any) -> None:
    found = copy.deepcopy(SERVICE) | service
    for name in (SERVICE["ID"], "web"):
        daemon.on("GET", f"/services/{name}", found)
    daemon.on("GET", "/services", [found])
    daemon.on("POST", "/services/create", {"ID": SERVICE["ID"]})
    daemon.on("POST", f"/services/{SERVICE['ID']}/update", {"Warnings": None})
    daemon.on("GET", "/tasks", tasks)
    daemon.on("GET", "/nodes", NODES)
    daemon.on("GET", "/nodes/n1", NODES[0])
    daemon.on("GET", "/networks/ov1", {"Id": "net1", "Name": "ov1"})


class FakeClock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def clock(self) -> converge.Clock:
        return converge.Clock(lambda: self.now_s, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds
        assert self.now_s < 100, "the watch does not end"


def test_create_sends_dockers_body(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    result = ctl(
        *shlex.split(
            "service create -d --name web --replicas 2 --network ov1 --env A=1 --label sl=1"
        ),
        *shlex.split("--container-label cl=2 --publish published=8090,target=80,mode=host"),
        *shlex.split("--mount type=volume,source=vv,target=/v --constraint node.role==manager"),
        *shlex.split(
            "--limit-memory 64m --reserve-cpu 0.1 --restart-condition any --restart-delay 1s"
        ),
        *shlex.split("--update-delay 1s --update-parallelism 1 --update-order start-first"),
        *shlex.split("--rollback-parallelism 1 --health-cmd true --stop-grace-period 1s"),
        *shlex.split("--placement-pref spread=node.labels.rack --no-resolve-image"),
        *["busybox", "sh", "-c", "sleep 1"],
    )
    assert (result.code, result.out, result.err) == (0, SERVICE["ID"] + "\n", "")
    body = daemon.body("/services/create")
    assert body == {
        "Name": "web",
        "Labels": {"sl": "1"},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "busybox:latest",
                "Args": ["sh", "-c", "sleep 1"],
                "Labels": {"cl": "2"},
                "Env": ["A=1"],
                "StopGracePeriod": 10**9,
                "Healthcheck": {"Test": ["CMD-SHELL", "true"]},
                "Mounts": [{"Type": "volume", "Source": "vv", "Target": "/v"}],
            },
            "Resources": {
                "Limits": {"MemoryBytes": 67108864},
                "Reservations": {"NanoCPUs": 100000000},
            },
            "RestartPolicy": {"Condition": "any", "Delay": 10**9},
            "Placement": {
                "Constraints": ["node.role==manager"],
                "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.rack"}}],
            },
            "Networks": [{"Target": "net1"}],
        },
        "Mode": {"Replicated": {"Replicas": 2}},
        "UpdateConfig": {"Delay": 10**9, "Parallelism": 1, "Order": "start-first"},
        "RollbackConfig": {"Parallelism": 1},
        "EndpointSpec": {
            "Ports": [
                {
                    "Protocol": "tcp",
                    "TargetPort": 80,
                    "PublishMode": "host",
                    "PublishedPort": 8090,
                }
            ]
        },
    }
    assert_in_model(body)


def assert_in_model(body: Any) -> None:
    """Every key the client can send must be a field of the model."""
    import msgspec

    from swarmapi.model.spec import to_json

    spec = msgspec.convert(body, ServiceSpec)
    missing = set(_keys(body)) - set(_keys(to_json(spec)))
    assert not missing


def _keys(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if inner not in (0, "", None, {}, [], False):
                yield f"{path}.{name}"
            yield from _keys(inner, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _keys(inner, path)


def test_every_flag_of_create_is_a_field_of_the_model(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    result = ctl(
        *shlex.split(
            "service create -d -q -t --read-only --init --hostname h --user u --workdir /w"
        ),
        *shlex.split("--entrypoint x --stop-signal INT --health-interval 1s --health-timeout 1s"),
        *shlex.split("--health-retries 2 --health-start-period 1s --health-start-interval 1s"),
        *shlex.split("--limit-cpu 1 --limit-pids 9 --reserve-memory 1m --restart-max-attempts 3"),
        *shlex.split("--restart-window 1s --replicas-max-per-node 2 --endpoint-mode dnsrr"),
        *shlex.split("--update-monitor 1s --update-failure-action rollback --lb random"),
        *shlex.split("--update-max-failure-ratio 0.1"),
        *shlex.split("--rollback-delay 1s --rollback-monitor 1s --rollback-failure-action pause"),
        *shlex.split(
            "--rollback-max-failure-ratio 0.5 --rollback-order stop-first --host a:1.1.1.1"
        ),
        *shlex.split(
            "--dns 1.1.1.1 --dns-search x --dns-option y --cap-add NET_ADMIN --cap-drop KILL"
        ),
        *shlex.split("--ulimit nofile=1:2 --sysctl a=b --network name=ov1,alias=z --publish 80"),
        *shlex.split("--mount type=bind,src=/a,dst=/b,bind-propagation=shared,bind-create-src"),
        *shlex.split("--mount type=volume,src=v,dst=/c,volume-nocopy,volume-label=l"),
        *shlex.split("--mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700 --no-resolve-image x"),
    )
    assert (result.code, result.err) == (0, "")
    assert_in_model(daemon.body("/services/create"))


def test_create_pins_the_digest_or_warns(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    result = ctl("service", "create", "-d", "busybox")
    assert "image busybox:latest could not be accessed on a registry to record" in result.err
    assert daemon.seen[-1].body["TaskTemplate"]["ContainerSpec"]["Image"] == "busybox:latest"
    found = {
        "Descriptor": {"digest": "sha256:2"},
        "Platforms": [{"architecture": "amd64", "os": "l"}],
    }
    daemon.on("GET", "/distribution/busybox:latest/json", found)
    assert ctl("service", "create", "-d", "busybox").err == ""
    template = daemon.seen[-1].body["TaskTemplate"]
    assert template["ContainerSpec"]["Image"] == "busybox:latest@sha256:2"
    assert template["Placement"] == {"Platforms": [{"Architecture": "amd64", "OS": "l"}]}


def test_an_update_pins_the_digest_the_tag_has_by_now(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    daemon.on("GET", "/distribution/busybox:latest/json", {"Descriptor": {"digest": "sha256:3"}})
    assert ctl("service", "update", "-d", "--image", "busybox", "web").code == 0
    template = daemon.body(f"/services/{SERVICE['ID']}/update")["TaskTemplate"]
    assert template["ContainerSpec"]["Image"] == "busybox:latest@sha256:3"


def test_the_nodes_get_the_login_only_when_asked_to(
    daemon: Daemon, ctl: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(daemon, [])
    daemon.on("POST", "/auth", {"Status": "Login Succeeded"})
    monkeypatch.setattr("sys.stdin", io.StringIO("sekret\n"))
    assert ctl("login", "-u", "alice", "--password-stdin", "r.example:5000").code == 0

    def sent(*words: str) -> dict[str, list[Any]]:
        daemon.seen.clear()
        assert ctl("service", *words).code == 0
        found: dict[str, list[Any]] = {}
        for seen in daemon.seen:
            raw = seen.headers.get("X-Registry-Auth", "")
            login = json.loads(base64.urlsafe_b64decode(raw)) if raw else {}
            found.setdefault(seen.path, []).append(login.get("username"))
        return found

    look, make = "/distribution/r.example:5000/web:1/json", "/services/create"
    change = f"/services/{SERVICE['ID']}/update"
    plain = sent("create", "-d", "r.example:5000/web:1")
    assert (plain[look], plain[make]) == ([None], [None])
    given = sent("create", "-d", "--with-registry-auth", "r.example:5000/web:1")
    assert (given[look], given[make]) == (["alice"], ["alice"])
    words = ("update", "-d", "--image", "r.example:5000/web:1", "--with-registry-auth", "web")
    given = sent(*words)
    assert (given[look], given[change]) == (["alice"], ["alice"])
    assert sent("update", "-d", "--force", "--with-registry-auth", "web")[change] == [None]
    given = sent(*words[:-1], "--no-resolve-image", "web")
    assert (given.get(look), given[change]) == (None, ["alice"])


def test_create_global_and_its_conflicts(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    line = ("service", "create", "-d", "--no-resolve-image", "--mode", "global")
    assert ctl(*line, "x").code == 0
    assert daemon.body("/services/create")["Mode"] == {"Global": {}}
    refused = ctl(*line, "--replicas", "2", "x")
    words = "replicas can only be used with replicated or replicated-job mode\n"
    assert (refused.code, refused.err) == (1, words)
    assert ctl(*line, "--no-healthcheck", "--health-cmd", "x", "y").code == 125


def test_update_changes_lists_by_their_keys(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    result = ctl(
        *shlex.split("service update -d --env-add B=3 --env-rm A --label-add n=2 --label-rm old"),
        *shlex.split("--publish-rm 80 --publish-add 81:81 --force --args"),
        "sleep '1 2'",
        "web",
    )
    assert (result.code, result.out) == (0, "web\n")
    assert daemon.seen[-1].query == {"version": "43", "registryAuthFrom": "spec"}
    spec = daemon.seen[-1].body
    container = spec["TaskTemplate"]["ContainerSpec"]
    assert (container["Env"], container["Args"]) == (["B=3"], ["sleep", "1 2"])
    assert spec["Labels"] == {"n": "2"}
    assert [port["TargetPort"] for port in spec["EndpointSpec"]["Ports"]] == [81]
    assert spec["TaskTemplate"]["ForceUpdate"] == 1
    assert container["Image"] == "busybox:latest@sha256:1"


def test_rollback_and_what_does_not_go_with_it(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    assert ctl("service", "rollback", "-d", "web").code == 0
    assert daemon.seen[-2].query == {"rollback": "previous", "version": "43"}
    refused = ctl("service", "update", "--rollback", "--image", "x", "web")
    assert (refused.code, refused.err) == (1, "--image cannot be combined with --rollback\n")


def test_a_flag_of_the_update_does_not_make_it_all_at_once(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    daemon.on("POST", "/services/create", {"ID": SERVICE["ID"]})
    words = ["-d", "--no-resolve-image", "--update-monitor", "1s"]
    assert ctl("service", "create", *words, "web").code == 0
    body = daemon.body("/services/create")
    assert body["UpdateConfig"] == {"Monitor": 1_000_000_000, "Parallelism": 1}
    assert "RollbackConfig" not in body


def test_history_and_back_to_a_version(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    template = {"TaskTemplate": {"ContainerSpec": {"Image": "web:7@sha256:0"}}}
    kept = [{"Version": 9, "Spec": SERVICE["Spec"]}, {"Version": 7, "Spec": template}]
    daemon.on("GET", f"/swarm/v1/services/{SERVICE['ID']}/specs", kept)
    daemon.on("POST", f"/swarm/v1/services/{SERVICE['ID']}/rollback", {"Warnings": None})
    daemon.on("POST", f"/swarm/v1/services/{SERVICE['ID']}/resume", {"Warnings": None})
    head, newest, older = ctl("service", "history", "web").out.splitlines()
    assert head.split() == ["VERSION", "STATE", "IMAGE", "REPLICAS"]
    assert newest.split()[:3] == ["9", "in", "force"]
    assert older.split() == ["7", "kept", "web:7"]
    assert ctl("service", "history", "-q", "web").out == "9\n7\n"
    assert ctl("service", "rollback", "-d", "--to", "7", "web").code == 0
    asked = next(s for s in daemon.seen if s.path.endswith("/rollback"))
    assert asked.query == {"to": "7", "version": "43"}
    assert ctl("service", "resume", "-d", "web").out == "web\n"


def test_scale_several_and_report_the_missing(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    result = ctl("service", "scale", "-d", "web=5", "ghost=1")
    assert (result.code, result.out) == (1, "web scaled to 5\n")
    assert result.err.startswith("ghost: Error response from daemon")
    assert daemon.body(f"/services/{SERVICE['ID']}/update")["Mode"] == {
        "Replicated": {"Replicas": 5}
    }
    assert ctl("service", "scale", "web").code == 1


def test_ls_ps_rm(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [task(1, "running"), task(1, "failed", CreatedAt="2025-01-01T00:00:00Z")])
    daemon.on("DELETE", "/services/web", None)
    head, row = ctl("service", "ls").out.splitlines()
    assert head.split() == ["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"]
    assert row.split() == [
        "svc1aaaaaaaa",
        "web",
        "replicated",
        "1/2",
        "busybox:latest",
        "*:8080->80/tcp",
    ]
    assert daemon.seen[-1].query["status"] == "true"
    _, newest, older = ctl("service", "ps", "web").out.splitlines()
    assert newest.split()[:6] == [
        "t1running",
        "web.1",
        "busybox:latest",
        "alpha",
        "Running",
        "Running",
    ]
    assert older.split()[1:3] == ["\\_", "web.1"]
    asked = next(seen for seen in daemon.seen if seen.path == "/tasks")
    assert json.loads(asked.query["filters"]) == {"service": {SERVICE["ID"]: True}}
    missing = ctl("service", "ps", "ghost")
    assert (missing.code, missing.err) == (1, "no such service: ghost\n")
    assert ctl("service", "rm", "web").out == "web\n"


def test_create_waits_until_converged(daemon: Daemon, ctl: Run) -> None:
    polls = 0

    def tasks(seen: Seen) -> Any:
        nonlocal polls
        polls += 1
        filters = json.loads(seen.query["filters"])
        assert filters == {"service": {SERVICE["ID"]: True}, "_up-to-date": {"true": True}}
        return [task(1, "running"), task(2, "running" if polls > 1 else "preparing")]

    serve(daemon, [])
    daemon.on("GET", "/tasks", tasks)
    result = ctl("service", "create", "--no-resolve-image", "busybox")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert re.fullmatch(
        r"verify: all tasks running after [\d.]+ s, watching .* 0.4 s", lines.pop(-2)
    )
    assert lines == [
        SERVICE["ID"],
        "overall progress: 1 out of 2 tasks",
        "1/2: running",
        "2/2: preparing",
        "overall progress: 2 out of 2 tasks",
        "2/2: running",
        f"verify: Service {SERVICE['ID']} converged",
    ]


@pytest.mark.parametrize(
    ("tasks", "update", "code", "words"),
    [
        (["running", "running"], None, 0, ""),
        (["running", "pending"], None, 3, "1 of 2 tasks running"),
        (["running", "failed"], None, 1, "no restart is left"),
        (["running", "running"], "paused", 2, "update paused: too many"),
        (["running", "running"], "rollback_paused", 2, "rollback paused"),
        (["running", "running"], "rollback_completed", 2, "rolled back"),
        (["running", "running"], "completed", 0, ""),
        (["running", "running"], "updating", 3, "has not converged after 9 s"),
    ],
)
def test_exit_codes_of_the_watch(
    daemon: Daemon,
    capfd: pytest.CaptureFixture[str],
    tasks: list[str],
    update: str | None,
    code: int,
    words: str,
) -> None:
    more = {"UpdateStatus": {"State": update, "Message": "too many"}} if update else {}
    serve(daemon, [task(slot, state) for slot, state in enumerate(tasks, 1)], **more)
    clock = FakeClock().clock()
    client = Client(daemon.host)
    got = converge.watch(client, SERVICE["ID"], quiet=True, timeout_s=9, clock=clock)
    out, err = capfd.readouterr()
    assert (got, out) == (code, "")
    assert words in err


def test_a_service_that_vanishes_is_a_failure(daemon: Daemon) -> None:
    clock = FakeClock().clock()
    assert converge.watch(Client(daemon.host), "gone", quiet=True, clock=clock) == 1


def test_measure_counts_slots_not_tasks() -> None:
    tasks = [
        task(1, "running"),
        task(1, "shutdown", DesiredState="shutdown"),
        task(2, "running", NodeID="n2"),
    ]
    progress = converge.measure(SERVICE, tasks, NODES)
    assert (progress.running, progress.wanted) == (1, 2)
    everywhere: dict[str, Any] = {"Spec": {"Mode": {"Global": {}}}}
    progress = converge.measure(
        everywhere, [task(0, "running"), task(0, "new", NodeID="n2")], NODES
    )
    assert [(slot.name, slot.state) for slot in progress.slots] == [("alpha", "running")]


def test_logs_name_the_task_of_each_line(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    context = f"com.docker.swarm.node.id=n1,com.docker.swarm.service.id={SERVICE['ID']},"
    context += "com.docker.swarm.task.id=t1running"
    pieces = (
        frame(1, f"{context} one\n".encode()),
        frame(2, f"2026-01-01T00:00:00Z {context} two\n".encode()),
    )
    daemon.on("GET", "/services/web/logs", Reply(200, pieces, "application/octet-stream"))
    daemon.on("GET", "/tasks/t1running", task(1, "running"))
    result = ctl("service", "logs", "--tail", "2", "web")
    assert result.out == "web.1.t1running@alpha    | one\n"
    assert result.err == "web.1.t1running@alpha    | 2026-01-01T00:00:00Z two\n"
    (asked,) = (seen for seen in daemon.seen if seen.path == "/services/web/logs")
    assert asked.query == {"stdout": "1", "stderr": "1", "tail": "2", "details": "1"}
    assert ctl("service", "logs", "--raw", "web").out == "one\n"
    short = ctl("service", "logs", "--no-task-ids", "web")
    assert short.out == "web.1@alpha    | one\n"
    missing = ctl("service", "logs", "ghost")
    assert (missing.code, missing.err) == (1, "no such task or service: ghost\n")


def test_details_of_the_log_driver_are_shown_when_asked_for(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    context = f"com.docker.swarm.node.id=n1,com.docker.swarm.service.id={SERVICE['ID']},"
    context += "com.docker.swarm.task.id=t1running,colour=red"
    piece = frame(1, f"{context} one\n".encode())
    daemon.on("GET", "/services/web/logs", Reply(200, (piece,), "application/octet-stream"))
    daemon.on("GET", "/tasks/t1running", task(1, "running"))
    assert ctl("service", "logs", "--raw", "--details", "web").out == "colour=red one\n"
    assert ctl("service", "logs", "--raw", "web").out == "one\n"


def test_an_incomplete_stream_is_an_error_after_its_lines(daemon: Daemon, ctl: Run) -> None:
    serve(daemon, [])
    pieces = (frame(1, b"one\n"), frame(3, b"warning: incomplete log stream: node w1 is down\n"))
    daemon.on("GET", "/services/web/logs", Reply(200, pieces, "application/octet-stream"))
    result = ctl("service", "logs", "web")
    assert (result.code, result.out) == (1, "one\n")
    assert "incomplete log stream: node w1 is down" in result.err


def test_the_daemons_conflict_is_shown(daemon: Daemon, ctl: Run) -> None:
    daemon.on("POST", "/services/create", refusal(409, "name conflicts with an existing object"))
    result = ctl("service", "create", "-d", "--no-resolve-image", "x")
    assert result.code == 1
    assert result.err == "Error response from daemon: name conflicts with an existing object\n"

"""Containers, images and the daemon itself: calls, streams, exit codes, output."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.swarmctl.conftest import Run
from tests.unit.swarmctl.daemon import Daemon, Reply, Seen, frame, lines, refusal

ROOT = Path(__file__).parents[3]
ID = "c1" + "0" * 62


def serve_run(daemon: Daemon) -> None:
    daemon.on("POST", "/containers/create", {"Id": ID, "Warnings": ["no swap limit"]})
    daemon.on("POST", f"/containers/{ID}/start", Reply(204))
    daemon.hijacked.add(f"/containers/{ID}/attach")


def spawn(daemon: Daemon, *words: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run the client as a program, with a pipe as its stdin."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    return subprocess.run(
        [sys.executable, "-m", "swarmctl.main", "-H", daemon.host, *words],
        input=stdin,
        capture_output=True,
        check=False,
        env=environment,
        timeout=60,
    )


def test_run_attaches_waits_and_then_starts(daemon: Daemon, ctl: Run) -> None:
    serve_run(daemon)
    daemon.exit_code = 3
    result = ctl(
        *("run", "--rm", "--name", "n", "-e", "A=1", "-v", "/h:/c:ro", "-p", "8080:80"),
        *(
            "--network",
            "ov1",
            "--restart=no",
            "--privileged=false",
            "busybox",
            "sh",
            "-c",
            "exit 3",
        ),
    )
    assert result.code == 3
    assert result.out == "hello\n"
    assert result.err == "WARNING: no swap limit\nwarning\n"
    assert daemon.calls() == [
        "POST /containers/create",
        f"POST /containers/{ID}/attach",
        f"POST /containers/{ID}/wait",
        f"POST /containers/{ID}/start",
    ]
    assert daemon.seen[0].query == {"name": "n"}
    assert daemon.seen[1].query == {"stream": "1", "stdout": "1", "stderr": "1"}
    assert daemon.seen[2].query == {"condition": "removed"}
    body = daemon.body("/containers/create")
    assert (body["Image"], body["Cmd"]) == ("busybox", ["sh", "-c", "exit 3"])
    assert (body["Env"], body["OpenStdin"], body["Tty"]) == (["A=1"], False, False)
    host = body["HostConfig"]
    assert (host["AutoRemove"], host["Binds"]) == (True, ["/h:/c:ro"])
    assert (host["NetworkMode"], host["Privileged"]) == ("ov1", False)
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}
    assert body["NetworkingConfig"] == {"EndpointsConfig": {"ov1": {}}}


def test_run_passes_stdin_and_its_end(daemon: Daemon) -> None:
    serve_run(daemon)
    done = spawn(daemon, "run", "-i", "busybox", "cat", stdin=b"words\n")
    assert done.stdout.startswith(b"hello\n")
    assert b"got words\n" in done.stdout
    assert done.returncode == 0
    assert daemon.seen[1].query["stdin"] == "1"
    assert daemon.body("/containers/create")["StdinOnce"] is True


def test_run_refuses_a_terminal_that_is_not_there(daemon: Daemon) -> None:
    done = spawn(daemon, "run", "-it", "busybox", stdin=b"")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"not a TTY" in done.stderr
    assert daemon.calls() == []


def test_run_detached_prints_the_id(daemon: Daemon, ctl: Run) -> None:
    serve_run(daemon)
    assert ctl("run", "-d", "busybox").out == ID + "\n"
    assert daemon.calls() == ["POST /containers/create", f"POST /containers/{ID}/start"]


def test_run_pulls_a_missing_image(daemon: Daemon, ctl: Run) -> None:
    def create(seen: Seen) -> Any:
        pulled = "POST /images/create" in daemon.calls()
        return {"Id": ID} if pulled else refusal(404, "No such image: busybox:latest")

    serve_run(daemon)
    daemon.on("POST", "/containers/create", create)
    daemon.on("POST", "/images/create", lines({"status": "Pulling", "id": "latest"}))
    result = ctl("run", "-d", "busybox")
    assert (result.code, result.out) == (0, ID + "\n")
    assert result.err == "Unable to find image 'busybox:latest' locally\nlatest: Pulling\n"
    pulled = next(seen for seen in daemon.seen if seen.path == "/images/create")
    assert pulled.query == {"fromImage": "busybox", "tag": "latest"}


@pytest.mark.parametrize(
    ("path", "reason", "code"),
    [
        ("/containers/create", "no space left", 125),
        (f"/containers/{ID}/start", "exec: x: executable file not found in $PATH", 127),
        (f"/containers/{ID}/start", "exec: /: permission denied", 126),
        (f"/containers/{ID}/start", "port is already allocated", 125),
    ],
)
def test_exit_codes_of_a_run_that_never_ran(
    daemon: Daemon, ctl: Run, path: str, reason: str, code: int
) -> None:
    serve_run(daemon)
    daemon.on("POST", path, refusal(400, reason))
    result = ctl("run", "-d", "busybox")
    assert result.code == code
    assert result.err.endswith(f"Error response from daemon: {reason}\n")


def test_exec_returns_the_programs_code(daemon: Daemon) -> None:
    daemon.on("POST", "/containers/c/exec", {"Id": "e1"})
    daemon.on("GET", "/exec/e1/json", {"ExitCode": 7, "Running": False})
    daemon.hijacked.add("/exec/e1/start")
    line = ("exec", "-i", "-e", "A=1", "-u", "u", "-w", "/w", "c", "cat", "-n")
    done = spawn(daemon, *line, stdin=b"in")
    assert (done.returncode, done.stderr) == (7, b"warning\n")
    assert done.stdout == b"hello\ngot in"
    body = daemon.body("/containers/c/exec")
    assert (body["Cmd"], body["User"], body["WorkingDir"]) == (["cat", "-n"], "u", "/w")
    assert (body["AttachStdin"], body["Env"]) == (True, ["A=1"])
    assert daemon.body("/exec/e1/start") == {"Detach": False, "Tty": False}


def test_exec_detached_opens_no_stream(daemon: Daemon, ctl: Run) -> None:
    daemon.on("POST", "/containers/c/exec", {"Id": "e1"})
    daemon.on("POST", "/exec/e1/start", None)
    assert ctl("exec", "-d", "c", "true").code == 0
    assert daemon.body("/exec/e1/start") == {"Detach": True, "Tty": False}
    assert ctl("exec", "c").code == 1


def container(**more: Any) -> dict[str, Any]:
    return {
        "Id": ID,
        "Image": "busybox",
        "Command": "sh -c 'while true; do sleep 1; done'",
        "Created": int(time.time()) - 90,
        "State": "running",
        "Status": "Up 1 minute",
        "Names": ["/web"],
        "Ports": [{"PrivatePort": 80, "PublicPort": 8080, "IP": "::", "Type": "tcp"}],
        **more,
    }


def test_ps_is_dockers_table(daemon: Daemon, ctl: Run) -> None:
    daemon.on("GET", "/containers/json", [container()])
    head, row = ctl(
        "ps", "-a", "--filter", "status=running", "--filter", "label=a=b"
    ).out.splitlines()
    assert head.split("  ")[0] == "CONTAINER ID"
    assert row == (
        'c10000000000   busybox   "sh -c \'while true; …"   About a minute ago   Up 1 minute   '
        "[::]:8080->80/tcp   web"
    )
    query = daemon.seen[-1].query
    assert query["all"] == "1"
    assert json.loads(query["filters"]) == {"status": {"running": True}, "label": {"a=b": True}}
    assert ctl("ps", "-q", "--no-trunc").out == ID + "\n"
    assert ctl("ps", "--format", "{{.Names}} {{.State}}").out == "web running\n"
    assert json.loads(ctl("ps", "--format", "json").out)["Names"] == "web"
    assert "can't evaluate field Nope" in ctl("ps", "--format", "{{.Nope}}").err


@pytest.mark.parametrize(
    ("line", "call", "query"),
    [
        (["start"], "POST /containers/web/start", {}),
        (
            ["stop", "-t", "3", "-s", "INT"],
            "POST /containers/web/stop",
            {"t": "3", "signal": "INT"},
        ),
        (["restart"], "POST /containers/web/restart", {}),
        (["kill", "-s", "HUP"], "POST /containers/web/kill", {"signal": "HUP"}),
        (["rm", "-f", "-v"], "DELETE /containers/web", {"force": "1", "v": "1"}),
        (["container", "rm"], "DELETE /containers/web", {}),
    ],
)
def test_commands_on_containers(
    daemon: Daemon, ctl: Run, line: list[str], call: str, query: dict[str, str]
) -> None:
    method, path = call.split()
    daemon.on(method, path, Reply(204))
    result = ctl(*line, "web", "ghost")
    forced = line[:2] == ["rm", "-f"]  # then gone is as good as removed
    assert (result.code, result.out) == (0 if forced else 1, "web\n")
    assert "ghost" in result.err
    assert (daemon.calls()[0], daemon.seen[0].query) == (call, query)


def test_wait_inspect_and_logs(daemon: Daemon, ctl: Run) -> None:
    daemon.on("POST", "/containers/web/wait", {"StatusCode": 42})
    daemon.on("GET", "/containers/web/json", {"Id": ID, "Config": {"Tty": False}})
    pieces = (frame(1, b"out\n") + frame(2, b"err\n")[:5], frame(2, b"err\n")[5:])
    daemon.on("GET", "/containers/web/logs", Reply(200, pieces, "application/octet-stream"))
    assert ctl("wait", "web").out == "42\n"
    assert ctl("inspect", "-f", "{{.Config.Tty}}", "web").out == "false\n"
    result = ctl("logs", "-f", "--tail", "5", "-t", "--since", "100", "web")
    assert (result.out, result.err) == ("out\n", "err\n")
    assert daemon.seen[-1].query == {
        "stdout": "1",
        "stderr": "1",
        "tail": "5",
        "follow": "1",
        "timestamps": "1",
        "since": "100",
    }
    assert ctl("logs", "--tail", "x", "web").code == 1


def test_images_and_their_names(daemon: Daemon, ctl: Run) -> None:
    image = {
        "Id": "sha256:" + "ab" * 32,
        "RepoTags": ["127.0.0.1:5000/bb:1", "bb:2"],
        "Created": int(time.time()) - 7200,
        "Size": 4260000,
    }
    daemon.on("GET", "/images/json", [image, {**image, "RepoTags": []}])
    _, *rows = ctl("images", "bb").out.splitlines()
    assert rows[0].split() == [
        "127.0.0.1:5000/bb",
        "1",
        "abababababab",
        "2",
        "hours",
        "ago",
        "4.26MB",
    ]
    assert rows[2].split()[:2] == ["<none>", "<none>"]
    assert json.loads(daemon.seen[-1].query["filters"]) == {"reference": {"bb": True}}
    assert ctl("images", "-q").out == "abababababab\n"


def test_tag_and_rmi_keep_slashes_and_colons(daemon: Daemon, ctl: Run) -> None:
    name = "127.0.0.1:5000/a/bb:1"
    daemon.on("POST", f"/images/{name}/tag", None)
    daemon.on("DELETE", f"/images/{name}", [{"Untagged": name}, {"Deleted": "sha256:1"}])
    assert ctl("tag", name, "r:5000/x").code == 0
    assert daemon.seen[-1].query == {"repo": "r:5000/x", "tag": "latest"}
    assert ctl("rmi", "-f", name).out == f"Untagged: {name}\nDeleted: sha256:1\n"


def test_save_and_load_move_the_bytes(daemon: Daemon, ctl: Run, tmp_path: Path) -> None:
    data = os.urandom(700_000)
    pieces = (data[:1000], data[1000:])
    daemon.on("GET", "/images/get", Reply(200, pieces, "application/x-tar"))
    daemon.on("POST", "/images/load", lines({"stream": "Loaded image: bb:1\n"}))
    target = tmp_path / "bb.tar"
    assert ctl("save", "-o", str(target), "bb:1", "cc").code == 0
    assert target.read_bytes() == data
    assert daemon.seen[-1].query == {"names": "bb:1,cc"}
    assert ctl("load", "-i", str(target)).out == "Loaded image: bb:1\n"
    assert daemon.seen[-1].body == data
    assert daemon.seen[-1].headers["Transfer-Encoding"] == "chunked"
    assert ctl("load", "-i", str(tmp_path / "none")).err.endswith("no such file or directory\n")
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_an_error_inside_a_stream_fails_the_command(daemon: Daemon, ctl: Run) -> None:
    answer = lines({"status": "Pulling"}, {"errorDetail": {"message": "denied"}, "error": "denied"})
    daemon.on("POST", "/images/create", answer)
    result = ctl("pull", "bb:1")
    assert (result.code, result.out, result.err) == (1, "Pulling\n", "denied\n")


def test_build_sends_the_context_without_what_is_ignored(
    daemon: Daemon, ctl: Run, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    (context / "sub").mkdir(parents=True)
    (context / "Dockerfile").write_text("FROM scratch\n")
    (context / ".dockerignore").write_text("*.log\nsub/*\n!sub/keep\nDockerfile\n")
    (context / "a.log").write_text("x")
    (context / "run.sh").write_bytes(b"y" * 1500)
    (context / "run.sh").chmod(0o750)
    (context / "link").symlink_to("run.sh")
    (context / "sub" / "keep").write_text("kept")
    (context / "sub" / "drop").write_text("dropped")
    daemon.on("POST", "/build", lines({"stream": "Step 1\n"}, {"aux": {"ID": "sha256:9"}}))
    line = ("build", "-t", "a/b", "-t", "c:1", "--build-arg", "V=1", "--no-cache", "--target", "s")
    result = ctl(*line, str(context))
    assert (result.code, result.out) == (0, "Step 1\n")
    seen = daemon.seen[-1]
    assert seen.query == {
        "dockerfile": "Dockerfile",
        "version": "1",
        "rm": "1",
        "nocache": "1",
        "target": "s",
        "t": "a/b:latest,c:1",
        "buildargs": '{"V":"1"}',
    }
    with tarfile.open(fileobj=io.BytesIO(seen.body)) as tar:
        members = {member.name: member for member in tar}
        assert set(members) == {
            ".dockerignore",
            "Dockerfile",
            "link",
            "run.sh",
            "sub",
            "sub/keep",
        }
        assert (members["run.sh"].mode, members["run.sh"].uid) == (0o750, 0)
        assert members["link"].linkname == "run.sh"
        content = tar.extractfile("run.sh")
        assert content is not None
        assert content.read() == b"y" * 1500
    daemon.on("POST", "/build", lines({"stream": "sha256:9\n"}))
    assert ctl("build", "-q", str(context)).out == "sha256:9\n"
    assert "there is no Dockerfile" in ctl("build", str(context / "sub")).err


def test_build_with_a_dockerfile_from_elsewhere(daemon: Daemon, ctl: Run, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    other = tmp_path / "Other"
    other.write_text("FROM other\n")
    daemon.on("POST", "/build", lines())
    assert ctl("build", "-f", str(other), str(context)).code == 0
    name = daemon.seen[-1].query["dockerfile"]
    with tarfile.open(fileobj=io.BytesIO(daemon.seen[-1].body)) as tar:
        content = tar.extractfile(name)
        assert content is not None
        assert content.read() == b"FROM other\n"


def test_info_version_events(daemon: Daemon, ctl: Run, tmp_path: Path) -> None:
    swarm = {"LocalNodeState": "active", "NodeID": "n1", "ControlAvailable": True, "Managers": 1}
    swarm["Cluster"] = {
        "ID": "c1",
        "Spec": {
            "Orchestration": {"TaskHistoryRetentionLimit": 4},
            "Raft": {"SnapshotInterval": 77, "KeepOldSnapshots": 2},
            "Dispatcher": {"HeartbeatPeriod": 3 * 10**9},
        },
    }
    info = {"Containers": 3, "MemTotal": 25276502016, "Swarm": swarm, "Warnings": ["careful"]}
    daemon.on("GET", "/info", info)
    daemon.on("GET", "/version", {"Version": "28.2.2", "ApiVersion": "1.50", "Os": "linux"})
    event = {
        "Type": "container",
        "Action": "start",
        "timeNano": 1767225600_000000001,
        "Actor": {"ID": "c1", "Attributes": {"name": "web", "image": "bb"}},
    }
    daemon.on("GET", "/events", lines(event))
    shown = ctl("info")
    assert " Swarm: active\n  NodeID: n1\n  Is Manager: true\n" in shown.out
    for line in (
        "   Task History Retention Limit: 4",
        "   Snapshot Interval: 77",
        "   Number of Old Snapshots to Retain: 2",
        "   Heartbeat Period: 3 seconds",
        "  Autolock Managers: false",
    ):
        assert f"{line}\n" in shown.out
    assert " Total Memory: 23.54GiB\n" in shown.out
    assert shown.err == "careful\n"
    assert ctl("info", "--format", "{{.Swarm.NodeID}}").out == "n1\n"
    assert "\n Version:     28.2.2" in ctl("version").out
    events = ctl("events", "--filter", "type=container", "--until", "5")
    assert events.out == (
        "2026-01-01T00:00:00.000000001Z container start c1 (image=bb, name=web)\n"
    )
    assert daemon.seen[-1].query["until"] == "5"
    assert ctl("events", "--format", "{{.Action}} {{.TimeNano}}").out == (
        "start 1767225600000000001\n"
    )


def test_inspect_finds_any_kind(daemon: Daemon, ctl: Run) -> None:
    daemon.on("GET", "/nodes/web", refusal(503, "This node is not a swarm manager."))
    daemon.on("GET", "/services/web", {"ID": "s1"})
    assert json.loads(ctl("inspect", "web").out) == [{"ID": "s1"}]
    assert daemon.calls()[:3] == [
        "GET /containers/web/json",
        "GET /images/web/json",
        "GET /networks/web",
    ]
    refused = ctl("inspect", "--type", "node", "web")
    assert "not a swarm manager" in refused.err
    missing = ctl("inspect", "ghost")
    assert (missing.code, missing.err) == (1, "Error: No such object: ghost\n")


def test_an_answer_cut_short_is_an_error(daemon: Daemon, ctl: Run) -> None:
    daemon.on("GET", "/containers/json", Reply(200, (b"[{",)))
    result = ctl("ps")
    assert result.code == 1
    assert "is not JSON" in result.err

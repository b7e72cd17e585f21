"""Health checks and restart policies through both clients, with and without the daemon."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.engine.clients import Client
from tests.e2e.engine.machine import Machine

_FAST = ("--health-interval", "100ms", "--health-retries", "2")


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def _shown(client: Client, name: str, template: str) -> str:
    return client.out("inspect", "-f", template, name)


def test_health_is_probed_shown_and_told(client: Client) -> None:
    since = str(time.time())
    check = ["--health-cmd", "test -e /ok", "--health-timeout", "9s"]
    check += ["--health-start-period", "60s", "--health-start-interval", "60ms"]
    client.good("run", "-d", "--name", "web", *check, *_FAST, "box:1", "sleep", "100")
    shown = json.loads(_shown(client, "web", "{{json .Config.Healthcheck}}"))
    assert shown == {
        "Test": ["CMD-SHELL", "test -e /ok"], "Interval": 10**8, "Timeout": 9 * 10**9,
        "StartPeriod": 60 * 10**9, "StartInterval": 6 * 10**7, "Retries": 2,
    }  # fmt: skip
    status = ("ps", "--format", "{{.Status}}")
    assert client.out(*status).endswith("(health: starting)")
    client.good("exec", "web", "touch", "/ok")
    _until(lambda: client.out(*status).endswith("(healthy)"), "healthy")
    assert client.good("ps", "-q", "--filter", "health=unhealthy") == ""
    client.good("exec", "web", "rm", "/ok")
    health = "{{.State.Health.Status}} {{.State.Health.FailingStreak}}"
    _until(lambda: _shown(client, "web", health).startswith("unhealthy"), "unhealthy")
    assert client.good("ps", "-q", "--filter", "health=unhealthy") != ""
    (last, *_) = reversed(json.loads(_shown(client, "web", "{{json .State.Health.Log}}")))
    assert last["ExitCode"] == 1
    wanted = ("events", "--since", since, "--until", str(time.time()), "--format", "{{.Action}}")
    told = client.good(*wanted, "--filter", "container=web").splitlines()
    assert [e for e in told if "health" in e] == [
        "health_status: healthy", "health_status: unhealthy",
    ]  # fmt: skip


def test_an_images_check_is_run_unless_it_is_waived(client: Client, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        'FROM box:1\nHEALTHCHECK --interval=100ms CMD ["true"]\nCMD ["sleep", "100"]\n'
    )
    client.good("build", "-q", "-t", "checked:1", str(tmp_path))
    client.good("run", "-d", "--name", "asked", "checked:1")
    client.good("run", "-d", "--name", "waived", "--no-healthcheck", "checked:1")
    health = "{{if .State.Health}}{{.State.Health.Status}}{{end}}"
    _until(lambda: _shown(client, "asked", health) == "healthy", "healthy")
    assert _shown(client, "waived", health) == ""
    (tmp_path / "Dockerfile").write_text("FROM checked:1\nHEALTHCHECK NONE\n")
    client.good("build", "-q", "-t", "unchecked:1", str(tmp_path))
    client.good("run", "-d", "--name", "unasked", "unchecked:1")
    assert _shown(client, "unasked", "{{json .Config.Healthcheck.Test}}" + health) == '["NONE"]'
    short = ("--health-cmd", "x", "--health-timeout", "1us")
    assert "1ms" in client.refused("create", *short, "box:1", "true")


def test_restarts_and_probes_go_on_while_the_daemon_is_away(machine: Machine) -> None:
    client = Client("docker", machine)
    fails = "echo run; test $(wc -l < /runs) -lt 3 || exec sleep 100; echo >> /runs; exit 3"
    start = f"touch /runs; {fails}"
    machine.docker(
        "run", "-d", "--name", "crash", "--restart", "on-failure:5", "-p", "18081:80", "box:1",
        "sh", "-c", start,
    )  # fmt: skip
    count = ("--health-cmd", "echo >> /count", "--health-interval", "100ms")
    machine.docker("run", "-d", "--name", "probed", *count, "box:1", "sleep", "100")
    machine.docker("run", "-d", "--name", "ended", "--restart", "always", "box:1", "sleep", "100")
    machine.docker("stop", "-t", "0", "ended")
    _until(lambda: _shown(client, "probed", "{{.State.Health.Status}}") == "healthy", "healthy")
    machine.stop(signal.SIGKILL)
    (runs,) = (machine.data / "containers").glob("*/upper/runs")
    (probes,) = (machine.data / "containers").glob("*/upper/count")
    before = probes.read_text().count("\n")
    _until(lambda: runs.read_text().count("\n") == 3, "three failures without a daemon")
    _until(lambda: probes.read_text().count("\n") > before, "probed without a daemon")
    machine.start()
    _until(lambda: _shown(client, "crash", "{{.State.Status}}") == "running", "runs again")
    assert _shown(client, "crash", "{{.RestartCount}}") == "3"
    assert machine.docker("logs", "crash").stdout == b"run\n" * 4
    assert machine.docker("port", "crash").stdout == b"80/tcp -> 0.0.0.0:18081\n"
    assert _shown(client, "probed", "{{.State.Health.Status}}") == "healthy"
    # a daemon's start is what `always` starts again after a stop
    _until(lambda: _shown(client, "ended", "{{.State.Status}}") == "running", "always")


def test_a_policy_can_be_changed_and_a_restart_stopped(client: Client) -> None:
    client.good("run", "-d", "--name", "one", "box:1", "sleep", "100")
    client.good("update", "--restart", "always", "one")
    pid = _shown(client, "one", "{{.State.Pid}}")
    client.good("run", "-d", "--name", "loop", "--restart", "always", "box:1", "sh", "-c", "exit 1")
    os.kill(int(pid), signal.SIGKILL)
    _until(lambda: _shown(client, "one", "{{.RestartCount}}") == "1", "restarted")
    _until(lambda: _shown(client, "loop", "{{.State.Status}}") == "restarting", "restarting")
    client.good("stop", "loop")
    assert _shown(client, "loop", "{{.State.Status}}") == "exited"
    client.good("rm", "loop")


def test_what_each_policy_restarts(client: Client) -> None:
    ends = (("no", "exit 1", 0), ("on-failure:2", "exit 1", 2), ("on-failure", "exit 0", 0))
    for policy, script, _ in ends:
        name = policy.replace(":", "-")
        client.good("run", "-d", "--name", name, "--restart", policy, "box:1", "sh", "-c", script)
    keep = ("--restart", "unless-stopped")
    client.good("run", "-d", "--name", "kept", *keep, "box:1", "sleep", "100")
    os.kill(int(_shown(client, "kept", "{{.State.Pid}}")), signal.SIGKILL)
    state = "{{.State.Status}} {{.RestartCount}}"
    for policy, _, count in ends:
        name, ended = policy.replace(":", "-"), f"exited {count}"
        _until(lambda n=name, e=ended: _shown(client, n, state) == e, f"{name}: {ended}")  # type: ignore[misc]
    _until(lambda: _shown(client, "kept", state) == "running 1", "restarted")


def test_init_is_the_first_process(client: Client) -> None:
    ran = client.run("run", "--rm", "--init", "box:1", "sh", "-c", "cat /proc/1/cmdline; exit 7")
    assert ran.code == 7
    assert ran.out.startswith("/sbin/docker-init\0--\0sh\0")

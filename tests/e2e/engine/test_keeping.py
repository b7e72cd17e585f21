"""Health checks and restart policies through the docker CLI, with and without the daemon."""

import json
import os
import signal
import time
from collections.abc import Callable

from tests.e2e.engine.machine import Machine

_FAST = ("--health-interval", "100ms", "--health-retries", "2")


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def _shown(machine: Machine, name: str, template: str) -> str:
    return machine.docker("inspect", "-f", template, name).stdout.decode().strip()


def test_health_is_probed_shown_and_told(machine: Machine) -> None:
    since = str(time.time())
    check = ("--health-cmd", "test -e /ok")
    machine.docker("run", "-d", "--name", "web", *check, *_FAST, "box:1", "sleep", "100")
    status = ("ps", "--format", "{{.Status}}")
    assert machine.docker(*status).stdout.strip().endswith(b"(health: starting)")
    machine.docker("exec", "web", "touch", "/ok")
    _until(lambda: machine.docker(*status).stdout.strip().endswith(b"(healthy)"), "healthy")
    assert machine.docker("ps", "-q", "--filter", "health=unhealthy").stdout == b""
    machine.docker("exec", "web", "rm", "/ok")
    health = "{{.State.Health.Status}} {{.State.Health.FailingStreak}}"
    _until(lambda: _shown(machine, "web", health).startswith("unhealthy"), "unhealthy")
    assert len(machine.docker("ps", "-q", "--filter", "health=unhealthy").stdout) > 0
    (last, *_) = reversed(json.loads(_shown(machine, "web", "{{json .State.Health.Log}}")))
    assert last["ExitCode"] == 1
    wanted = ("events", "--since", since, "--until", str(time.time()), "--format", "{{.Action}}")
    told = machine.docker(*wanted, "--filter", "container=web").stdout.decode().splitlines()
    assert [e for e in told if "health" in e] == [
        "health_status: healthy", "health_status: unhealthy",
    ]  # fmt: skip


def test_an_images_check_is_run_unless_it_is_waived(machine: Machine) -> None:
    context = machine.root / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        'FROM box:1\nHEALTHCHECK --interval=100ms CMD ["true"]\nCMD ["sleep", "100"]\n'
    )
    machine.docker("build", "-q", "-t", "checked:1", str(context))
    machine.docker("run", "-d", "--name", "asked", "checked:1")
    machine.docker("run", "-d", "--name", "waived", "--no-healthcheck", "checked:1")
    health = "{{if .State.Health}}{{.State.Health.Status}}{{end}}"
    _until(lambda: _shown(machine, "asked", health) == "healthy", "healthy")
    assert _shown(machine, "waived", health) == ""
    refused = machine.docker(
        "create", "--health-cmd", "x", "--health-timeout", "1us", "box:1", "true", check=False
    )
    assert refused.returncode == 1
    assert b"1ms" in refused.stderr


def test_restarts_and_probes_go_on_while_the_daemon_is_away(machine: Machine) -> None:
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
    _until(lambda: _shown(machine, "probed", "{{.State.Health.Status}}") == "healthy", "healthy")
    machine.stop(signal.SIGKILL)
    (runs,) = (machine.data / "containers").glob("*/upper/runs")
    (probes,) = (machine.data / "containers").glob("*/upper/count")
    before = probes.read_text().count("\n")
    _until(lambda: runs.read_text().count("\n") == 3, "three failures without a daemon")
    _until(lambda: probes.read_text().count("\n") > before, "probed without a daemon")
    machine.start()
    _until(lambda: _shown(machine, "crash", "{{.State.Status}}") == "running", "runs again")
    assert _shown(machine, "crash", "{{.RestartCount}}") == "3"
    assert machine.docker("logs", "crash").stdout == b"run\n" * 4
    assert machine.docker("port", "crash").stdout == b"80/tcp -> 0.0.0.0:18081\n"
    assert _shown(machine, "probed", "{{.State.Health.Status}}") == "healthy"
    # a daemon's start is what `always` starts again after a stop
    _until(lambda: _shown(machine, "ended", "{{.State.Status}}") == "running", "always")


def test_a_policy_can_be_changed_and_a_restart_stopped(machine: Machine) -> None:
    machine.docker("run", "-d", "--name", "one", "box:1", "sleep", "100")
    machine.docker("update", "--restart", "always", "one")
    pid = _shown(machine, "one", "{{.State.Pid}}")
    machine.docker(
        "run", "-d", "--name", "loop", "--restart", "always", "box:1", "sh", "-c", "exit 1"
    )
    os.kill(int(pid), signal.SIGKILL)
    _until(lambda: _shown(machine, "one", "{{.RestartCount}}") == "1", "restarted")
    _until(lambda: _shown(machine, "loop", "{{.State.Status}}") == "restarting", "restarting")
    machine.docker("stop", "loop")
    assert _shown(machine, "loop", "{{.State.Status}}") == "exited"
    machine.docker("rm", "loop")


def test_init_is_the_first_process(machine: Machine) -> None:
    ran = machine.docker(
        "run", "--rm", "--init", "box:1", "sh", "-c", "cat /proc/1/cmdline; exit 7", check=False
    )
    assert ran.returncode == 7
    assert ran.stdout.startswith(b"/sbin/docker-init\0--\0sh\0")

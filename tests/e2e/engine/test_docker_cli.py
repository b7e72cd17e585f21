"""`swarmd` alone, driven by the unmodified docker CLI in a network namespace of its own."""

import signal
import subprocess

from tests.e2e.engine.machine import Machine


def test_run_exec_and_logs(machine: Machine) -> None:
    words = "echo out; echo err >&2; exit 3"
    ran = machine.docker("run", "--name", "one", "box:1", "sh", "-c", words, check=False)
    assert ran.stderr == b"err\n"
    assert ran.stdout == b"out\n"
    assert ran.returncode == 3
    logs = machine.docker("logs", "one")
    assert (logs.stdout, logs.stderr) == (b"out\n", b"err\n")
    megabytes = bytes(3_000_000)
    counted = machine.docker("run", "--rm", "-i", "box:1", "wc", "-c", stdin=megabytes)
    assert counted.stdout.strip() == b"3000000"
    missing = machine.docker("run", "--rm", "box:1", "nothing-there", check=False)
    assert missing.returncode == 127
    machine.docker("run", "-d", "--name", "two", "box:1", "sleep", "100")
    assert machine.docker("exec", "-i", "two", "cat", stdin=b"typed").stdout == b"typed"
    assert machine.docker("exec", "two", "sh", "-c", "exit 5", check=False).returncode == 5
    assert machine.docker("rm", "two", check=False).returncode == 1
    machine.docker("rm", "-f", "one", "two")
    assert machine.docker("ps", "-aq").stdout == b""


def test_containers_and_their_ports_outlive_the_daemon(machine: Machine) -> None:
    serve = "mkdir /w; echo page > /w/index.html; exec httpd -f -p 80 -h /w"
    machine.docker("run", "-d", "--name", "web", "-p", "18080:80", "box:1", "sh", "-c", serve)
    fetch = machine.inside("busybox", "wget", "-qO-", "http://127.0.0.1:18080/")
    machine.stop(signal.SIGKILL)
    machine.start()
    assert machine.docker("ps", "--format", "{{.Names}} {{.State}}").stdout == b"web running\n"
    page = subprocess.run(fetch, capture_output=True, timeout=20, check=False)
    assert page.stdout == b"page\n"
    assert machine.docker("exec", "web", "echo", "alive").stdout == b"alive\n"


def test_build_save_and_load(machine: Machine) -> None:
    context = machine.root / "context"
    context.mkdir()
    (context / "note").write_text("copied\n")
    (context / "Dockerfile").write_text(
        'FROM box:1\nCOPY note /note\nRUN cat /note > /built\nCMD ["cat", "/built"]\n'
    )
    machine.docker("build", "-t", "made:1", str(context))
    saved = machine.root / "made.tar"
    machine.docker("save", "-o", str(saved), "made:1")
    machine.docker("rmi", "made:1")
    assert machine.docker("image", "inspect", "made:1", check=False).returncode == 1
    machine.docker("load", "-i", str(saved))
    assert machine.docker("run", "--rm", "made:1").stdout == b"copied\n"

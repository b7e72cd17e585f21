"""`swarmd` alone, driven by the unmodified docker CLI in a network namespace of its own."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runtime.client import Supervisor

BUSYBOX = Path("/usr/bin/busybox")
APPLETS = ("sh", "cat", "echo", "sleep", "true", "wget", "httpd", "mkdir", "wc")


class Machine:
    """A daemon in a network namespace, its directories and the CLI that talks to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data, self.run_dir = root / "data", root / "run"
        self.cgroup = f"swarme2e{os.getpid()}"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n"

    def inside(self, *argv: str) -> list[str]:
        """Return a command line that runs in the namespace."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", *argv]

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        flags = ["--data-root", str(self.data), "--run-dir", str(self.run_dir)]
        flags += ["--cgroup-parent", self.cgroup]
        with (self.root / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                self.inside(sys.executable, "-m", "worker.main", *flags),
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + 30
        while self.docker("version", check=False).returncode != 0:
            assert self._daemon.poll() is None, (self.root / "log").read_text()
            assert time.monotonic() < deadline, (self.root / "log").read_text()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the daemon."""
        assert self._daemon is not None
        self._daemon.send_signal(number)
        self._daemon.wait(20)

    def docker(
        self, *argv: str, stdin: bytes = b"", check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the docker CLI."""
        done = subprocess.run(
            ["docker", *argv],
            input=stdin,
            capture_output=True,
            timeout=30,
            env={**os.environ, "DOCKER_HOST": f"unix://{self.run_dir}/swarmd.sock"},
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr.decode() + (self.root / "log").read_text()
        return done

    def close(self) -> None:
        """Take everything away: daemon, containers, supervisor, namespace, cgroups."""
        if self._daemon is not None and self._daemon.poll() is None:
            self.stop(signal.SIGKILL)
        asyncio.run(self._end_supervisor())
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(10)
        assert self._holder.stdout is not None
        self._holder.stdout.close()
        for group in Path("/sys/fs/cgroup").glob(f"*/{self.cgroup}"):
            with suppress(OSError):
                group.rmdir()

    async def _end_supervisor(self) -> None:
        supervisor = await Supervisor.connect(self.data / "runtime", self.run_dir, self.cgroup)
        await supervisor.shutdown(force=True)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A running daemon with the image `box:1`."""
    machine = Machine(tmp_path)
    try:
        machine.start()
        rootfs = tmp_path / "rootfs"
        (rootfs / "bin").mkdir(parents=True)
        shutil.copy(BUSYBOX, rootfs / "bin/busybox")
        for name in APPLETS:
            (rootfs / "bin" / name).symlink_to("busybox")
        with tarfile.open(tmp_path / "box.tar", "w") as tar:
            tar.add(rootfs, ".")
        machine.docker("import", str(tmp_path / "box.tar"), "box:1")
        yield machine
    finally:
        machine.close()


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

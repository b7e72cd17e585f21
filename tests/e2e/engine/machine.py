"""A machine for tests: `swarmd` in a network namespace of its own, and the docker CLI."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runtime.client import Supervisor

REPOSITORY = Path(__file__).parents[3]
BUSYBOX = Path("/usr/bin/busybox")
APPLETS = (
    "sh", "cat", "echo", "sleep", "true", "wget", "httpd", "mkdir", "wc", "ls", "id", "stat",
    "hostname", "nslookup", "ip", "mount", "touch", "ping", "nc", "grep", "chown", "chmod", "rm",
)  # fmt: skip


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
            start_new_session=True,  # ctrl-c is for the tests, which then close this
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n"

    @property
    def namespace_pid(self) -> int:
        """A process in the network namespace."""
        return self._holder.pid

    @property
    def daemon_pid(self) -> int:
        """The daemon itself."""
        assert self._daemon is not None
        return self._daemon.pid

    def inside(self, *argv: str) -> list[str]:
        """Return a command line that runs in the namespace."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", *argv]

    def start(self, *more: str) -> None:
        """Start the daemon, with further flags, and wait until it answers."""
        flags = ["--data-root", str(self.data), "--run-dir", str(self.run_dir)]
        flags += ["--cgroup-parent", self.cgroup, *more]
        with (self.root / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                self.inside(sys.executable, "-m", "worker.main", *flags),
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
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

    def power_cut(self) -> None:
        """Take away what a reboot takes: every process, the run directory, the links."""
        self.stop(signal.SIGKILL)
        asyncio.run(self._end_supervisor())
        shutil.rmtree(self.run_dir)
        links = subprocess.run(self.inside("ip", "-o", "link"), capture_output=True, text=True)
        for line in links.stdout.splitlines():
            name = line.split(": ")[1].partition("@")[0]
            if name != "lo":
                subprocess.run(self.inside("ip", "link", "del", name), capture_output=True)

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

    def out(self, *argv: str) -> str:
        """Run the docker CLI and return its output without the final newline."""
        return self.docker(*argv).stdout.decode().strip()

    def swarmctl(self, *argv: str) -> str:
        """Run our own client and return its output without the final newline."""
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "swarmctl.main",
                "-H",
                f"unix://{self.run_dir}/swarmd.sock",
                *argv,
            ],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr + (self.root / "log").read_text()
        return done.stdout.strip()

    def refused(self, *argv: str, code: int = 1) -> str:
        """Run the docker CLI, which must end with `code`, and return its complaint."""
        done = self.docker(*argv, check=False)
        assert done.returncode == code, done
        return done.stderr.decode()

    def inspect(self, *argv: str) -> Any:
        """Return the first object an inspect shows."""
        return json.loads(self.out(*argv))[0]

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
        for line in Path("/proc/mounts").read_text().splitlines():
            if line.split()[1].startswith((f"{self.data}/volumes/", f"{self.run_dir}/")):
                subprocess.run(["umount", line.split()[1]], check=False)
        for group in Path("/sys/fs/cgroup").glob(f"*/{self.cgroup}"):
            with suppress(OSError):
                group.rmdir()

    async def _end_supervisor(self) -> None:
        supervisor = await Supervisor.connect(self.data / "runtime", self.run_dir, self.cgroup)
        await supervisor.shutdown(force=True)


def install_box(machine: Machine) -> None:
    """Import the image `box:1`: busybox and nothing else."""
    rootfs = machine.root / "rootfs"
    (rootfs / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, rootfs / "bin/busybox")
    for name in APPLETS:
        (rootfs / "bin" / name).symlink_to("busybox")
    with tarfile.open(machine.root / "box.tar", "w") as tar:
        tar.add(rootfs, ".")
    machine.docker("import", str(machine.root / "box.tar"), "box:1")


@contextmanager
def serving_registry(machine: Machine, port: int, auth: str) -> Iterator[None]:
    """Run the fake registry on the machine's loopback for the length of the block."""
    process = subprocess.Popen(
        machine.inside(sys.executable, "-m", "tests.fakes.registry", str(port), auth),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"up\n"
        yield
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()

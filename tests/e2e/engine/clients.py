"""Both clients of the engine against one machine, run alike."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.engine.machine import Machine

TIMEOUT_S = 30
PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001:bob:/home/bob:/bin/sh\n"
GROUP = "root:x:0:\nbobs:x:1001:\nwheel:x:10:bob\n"


@dataclass(frozen=True)
class Ended:
    """How a command ended; text is decoded."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Client:
    """The docker CLI or swarmctl; `name` also tells apart what their tests make."""

    name: str
    machine: Machine

    @property
    def argv(self) -> list[str]:
        """The program."""
        return ["docker"] if self.name == "docker" else [sys.executable, "-m", "swarmctl.main"]

    @property
    def environment(self) -> dict[str, str]:
        """The environment that leads to the machine."""
        host = f"unix://{self.machine.run_dir}/swarmd.sock"
        paths = os.pathsep.join(path for path in sys.path if path)
        return {**os.environ, "DOCKER_HOST": host, "PYTHONPATH": paths}

    def run(self, *words: str, stdin: str = "", cwd: Path | None = None) -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            [*self.argv, *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=self.environment,
            cwd=cwd,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def good(self, *words: str, stdin: str = "", cwd: Path | None = None) -> str:
        """Run a command that must succeed and return its output."""
        ended = self.run(*words, stdin=stdin, cwd=cwd)
        log = self.machine.root / "log"
        assert ended.code == 0, f"{words}: {ended.out}{ended.err}{log.read_text()[-2000:]}"
        return ended.out

    def out(self, *words: str) -> str:
        """Run a command that must succeed and return its output without the final newline."""
        return self.good(*words).strip()

    def inspect(self, *words: str) -> Any:
        """Return the first object an inspect shows."""
        return json.loads(self.good(*words))[0]

    def refused(self, *words: str, code: int = 1) -> str:
        """Run a command that must end with `code` and return its complaint."""
        ended = self.run(*words)
        assert ended.code == code, ended
        return ended.err

    def open(self, *words: str) -> subprocess.Popen[str]:
        """Start a command with pipes."""
        return subprocess.Popen(
            [*self.argv, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )


def install_users(machine: Machine) -> None:
    """Build the image `users:1`: box:1 with accounts, /tmp and a command."""
    context = machine.root / "users"
    context.mkdir()
    (context / "passwd").write_text(PASSWD)
    (context / "group").write_text(GROUP)
    (context / "Dockerfile").write_text(
        "FROM box:1\nCOPY passwd group /etc/\nENV PATH=/bin\nRUN mkdir -m 1777 /tmp\n"
        "EXPOSE 80\nCMD sleep 1000\n"
    )
    machine.docker("build", "-t", "users:1", str(context))

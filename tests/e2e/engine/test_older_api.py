"""The docker CLI at older versions of the API, down to the oldest that it speaks."""

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.e2e.engine.machine import Machine

VERSIONS = ("1.24", "1.30", "1.35", "1.40", "1.41", "1.44")


@pytest.mark.usefixtures("docker_cli")
@pytest.mark.parametrize("version", VERSIONS)
def test_everyday_commands_work_at_an_older_version(
    machine: Machine, version: str, tmp_path: Path
) -> None:
    def docker(*words: str, code: int = 0, stdin: bytes = b"") -> str:
        done = subprocess.run(
            ["docker", "-H", f"unix://{machine.run_dir}/swarmd.sock", *words],
            env={**os.environ, "DOCKER_API_VERSION": version, "DOCKER_BUILDKIT": "0"},
            input=stdin,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout.decode()

    assert docker("version", "--format", "{{.Client.APIVersion}}").strip() == version
    assert docker("run", "--rm", "box:1", "sh", "-c", "echo out; exit 3", code=3) == "out\n"
    assert docker("run", "--rm", "-i", "box:1", "cat", stdin=b"through") == "through"
    docker(
        "run",
        "-d",
        "--name",
        "one",
        "--label",
        "a=b",
        "-p",
        "127.0.0.1::80",
        "box:1",
        "sleep",
        "60",
    )
    assert (
        docker("ps", "--filter", "label=a=b", "--format", "{{.Names}} {{.Image}}") == "one box:1\n"
    )
    assert docker("exec", "one", "echo", "hello") == "hello\n"
    assert docker("exec", "one", "sh", "-c", "exit 7", code=7) == ""
    assert "127.0.0.1:" in docker("port", "one", "80")
    assert "sleep 60" in docker("top", "one")
    (told,) = json.loads(docker("inspect", "one"))
    assert told["State"]["Running"] is True
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("new")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"text"))
    docker("cp", "-", "one:/", stdin=packed.getvalue())
    assert docker("exec", "one", "cat", "/new") == "text"
    assert "A /new" in docker("diff", "one")
    docker("rename", "one", "two")
    docker("pause", "two")
    docker("unpause", "two")
    docker("stats", "--no-stream", "two")
    docker("update", "--memory", "64m", "--memory-swap", "64m", "two")
    docker("commit", "two", "made:1")
    assert "made" in docker("images", "made")
    docker("network", "create", "net")
    docker("network", "connect", "net", "two")
    docker("network", "disconnect", "net", "two")
    docker("network", "rm", "net")
    docker("volume", "create", "vol")
    assert "vol" in docker("volume", "ls", "-q").split()
    docker("volume", "rm", "vol")
    docker("stop", "-t", "0", "two")
    assert docker("wait", "two") == "137\n"
    docker("rm", "two")
    (tmp_path / "Dockerfile").write_text("FROM box:1\nENV A=b\nCMD echo $A\n")
    docker("build", "-q", "-t", "built:1", str(tmp_path))
    assert docker("run", "--rm", "built:1") == "b\n"
    assert "CMD" in docker("history", "built:1")
    docker("rmi", "built:1", "made:1")
    docker("info")

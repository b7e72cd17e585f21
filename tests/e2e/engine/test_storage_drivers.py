"""The storage drivers vfs and btrfs: a copy or a snapshot per container, told from its image."""

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import peers
from tests.e2e.engine.machine import Machine, install_box
from tests.e2e.lab import wait_until

FILL = ("if=/dev/zero", "of=/f", "bs=1M", "count=20", "conv=fsync")


@pytest.fixture(params=["vfs", "btrfs"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A driver, with the data root on a file system where it can work."""
    name = str(request.param)
    data = tmp_path / "data"
    if name == "btrfs":
        mkfs = shutil.which("mkfs.btrfs") or peers.program("mkfs.btrfs")
        if not mkfs:
            pytest.skip(peers.missing("mkfs.btrfs"))
        disk = tmp_path / "disk"
        with disk.open("wb") as file:
            file.truncate(1 << 30)
        data.mkdir()
        subprocess.run([mkfs, "-q", str(disk)], check=True)
        subprocess.run(["mount", "-o", "loop", str(disk), str(data)], check=True)
    yield name
    if name == "btrfs":
        left = ["umount", str(data)]
        wait_until(lambda: subprocess.run(left, check=False).returncode == 0, 20, "it is unused")


@pytest.fixture
def machine(tmp_path: Path, driver: str) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    try:
        machine.start("--storage-driver", driver)
        install_box(machine)
        yield machine
    finally:
        machine.close()


def names_of_top_layer(machine: Machine, image: str) -> list[str]:
    saved = machine.docker("save", image).stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
        manifest = json.load(tar.extractfile("manifest.json") or io.BytesIO())
        top = tar.extractfile(manifest[0]["Layers"][-1])
        assert top is not None
        with tarfile.open(fileobj=io.BytesIO(top.read())) as layer:
            return sorted(layer.getnames())


def test_a_container_changes_its_copy_alone(machine: Machine, driver: str) -> None:
    assert machine.out("info", "-f", "{{.Driver}}") == driver
    assert machine.inspect("image", "inspect", "box:1")["GraphDriver"]["Name"] == driver
    script = (
        "echo 1 > /new; rm /bin/ping; chmod 700 /bin/busybox; mkdir /d; echo 2 > /d/f;"
        " grep ' / ' /proc/mounts"
    )
    words = ("run", "--name", "one", "--net=none", "box:1", "sh", "-c", script)
    assert b"overlay" not in machine.docker(*words).stdout
    changed = machine.docker("diff", "one").stdout.decode().splitlines()
    assert sorted(changed) == [
        *("A /d", "A /d/f", "A /new", "C /bin", "C /bin/busybox", "D /bin/ping"),
    ]
    machine.docker("commit", "one", "made:1")
    assert names_of_top_layer(machine, "made:1") == [
        *(".", "bin", "bin/.wh.ping", "bin/busybox", "d", "d/f", "new"),
    ]
    script = "cat /new /d/f; ls /bin/ping"
    run = machine.docker("run", "--rm", "--net=none", "made:1", "sh", "-c", script, check=False)
    assert (run.stdout, run.returncode) == (b"1\n2\n", 1)
    clean = machine.docker("run", "--rm", "--net=none", "box:1", "ls", "/new", check=False)
    assert clean.returncode == 1
    assert machine.docker("start", "-a", "one").returncode == 0
    exported = machine.docker("export", "one").stdout
    with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
        assert "new" in tar.getnames()


def test_files_go_in_and_out_before_and_after_a_start(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("in\n")
    words = ("create", "--name", "two", "--net=none", "box:1", "sh", "-c", "cat /f; echo out > /g")
    machine.docker(*words)
    machine.docker("cp", str(tmp_path / "f"), "two:/f")
    assert machine.docker("start", "-a", "two").stdout == b"in\n"
    machine.docker("cp", "two:/g", str(tmp_path / "g"))
    assert (tmp_path / "g").read_text() == "out\n"
    machine.docker("rm", "two")
    assert list((machine.data / "containers").rglob("busybox")) == []


def test_a_container_grows_to_its_size(machine: Machine, driver: str) -> None:
    words = ["run", "--rm", "--net=none", "--storage-opt", "size=8m", "box:1", "busybox", "dd"]
    done = machine.docker(*words, *FILL, check=False)
    if driver == "btrfs":
        assert b"Disk quota exceeded" in done.stderr
        machine.docker("run", "--rm", "--net=none", "box:1", *words[-2:], *FILL)
    else:
        assert b"size needs storage driver btrfs, not vfs" in done.stderr


def test_builds_and_their_layers(machine: Machine, driver: str, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM box:1\nRUN echo 1 > /a; echo 1 > /b\nRUN echo 2 > /a; rm /b\nVOLUME /v\n"
        "RUN mkdir -p /v; echo 3 > /v/gone; echo 3 > /c\nCMD cat /a /c\n"
    )
    built = subprocess.run(
        [
            *("docker", "-H", f"unix://{machine.run_dir}/swarmd.sock", "build"),
            *("--network=none", "-t", "built:1", str(context)),
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert machine.docker("run", "--rm", "--net=none", "built:1").stdout == b"2\n3\n"
    assert names_of_top_layer(machine, "built:1") == [".", "c", "v"]
    if driver == "btrfs":  # what a step was copied from goes with its image
        assert list(machine.data.rglob("copy/root/bin/busybox"))
        machine.docker("rmi", "-f", "built:1", "box:1")
        assert list(machine.data.rglob("busybox")) == []

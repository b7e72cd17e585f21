"""Images that mean harm, run and built on: refused, or contained in their own tree."""

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engine.machine import BUSYBOX, Machine, install_box


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("hostile"))
    try:
        machine.start("--image-max-size", "64m")
        install_box(machine)
        yield machine
    finally:
        machine.close()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    place = tmp_path / "outside"
    place.mkdir()
    (place / "secret").write_text("safe")
    return place


def untouched(outside: Path) -> bool:
    secret = outside / "secret"
    return [path.name for path in outside.iterdir()] == ["secret"] and secret.read_text() == "safe"


def image_with_link(machine: Machine, link: str, target: str) -> None:
    """Import `bad:1`: busybox, and a link at one place."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        shell = tarfile.TarInfo("bin/sh")
        shell.type, shell.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(shell)
        info = tarfile.TarInfo(link)
        info.type, info.linkname = tarfile.SYMTYPE, target
        tar.addfile(info)
    machine.docker("import", "-", "bad:1", stdin=out.getvalue())


@pytest.mark.parametrize("link", ["dev", "proc", "sys", "etc", "etc/hosts", "etc/resolv.conf"])
def test_a_link_in_the_place_of_a_mount_point(
    shared: Machine, outside: Path, tmp_path: Path, link: str
) -> None:
    """CVE-2026-41579: the image ships /dev as a link."""
    target = str(outside / "secret" if "/" in link else outside)
    image_with_link(shared, link, target)
    script = "busybox mount; echo evil > /etc/hosts; echo evil > /dev/secret; echo done"
    shared.docker("run", "--rm", "--net=none", "bad:1", "/bin/sh", "-c", script, check=False)
    (tmp_path / "Dockerfile").write_text(f"FROM bad:1\nCOPY Dockerfile /{link}/\nRUN {script}\n")
    subprocess.run(
        ["docker", "build", "--network=none", str(tmp_path)],
        capture_output=True,
        timeout=60,
        env={
            **os.environ,
            "DOCKER_BUILDKIT": "0",
            "DOCKER_HOST": f"unix://{shared.run_dir}/swarmd.sock",
        },
        check=False,
    )
    assert untouched(outside)
    assert shared.docker("run", "--rm", "--net=none", "box:1", "echo", "well").stdout == b"well\n"


def test_other_users_reach_no_program_of_an_image(shared: Machine, tmp_path: Path) -> None:
    """CVE-2021-41091: a program with setuid in a layer or in a container's own files."""
    (tmp_path / "Dockerfile").write_text("FROM box:1\nRUN chmod 4755 /bin/busybox\n")
    shared.docker("build", "-t", "setuid:1", "--network=none", str(tmp_path))
    shared.docker("run", "--name", "suid", "--net=none", "setuid:1", "sh", "-c", "echo > /x")
    found = [
        path
        for place in ("images", "containers")
        for path in (shared.data / place).rglob("busybox" if place == "images" else "x")
    ]
    assert len(found) >= 3
    for path in found:
        way = [parent for parent in path.parents if parent.is_relative_to(shared.data)]
        assert any(parent.stat().st_mode & 0o001 == 0 for parent in way), path
    shared.docker("rm", "suid")
    shared.docker("rmi", "setuid:1")


def test_what_is_larger_than_the_daemon_allows(shared: Machine, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        info = tarfile.TarInfo("zeros")
        info.size = 65 << 20
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    for words in (("import", "-"), ("load",)):
        done = shared.docker(*words, stdin=out.getvalue(), check=False)
        assert done.returncode == 1
        assert b"more than 67108864 bytes" in done.stderr
    (tmp_path / "zeros.tgz").write_bytes(out.getvalue())
    (tmp_path / "Dockerfile").write_text("FROM scratch\nADD zeros.tgz /\n")
    built = shared.docker("build", str(tmp_path), check=False)
    assert b"more than 67108864 bytes" in built.stderr
    assert not list((shared.data / "images/tmp").iterdir())

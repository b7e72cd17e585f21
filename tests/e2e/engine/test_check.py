"""`swarmctl system check`: what does not fit the records is named and repaired."""

import os
import subprocess
import sys

from tests.e2e.engine.machine import Machine


def _check(machine: Machine, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "swarmctl.main", "system", "check", *flags],
        env={**os.environ, "SWARM_HOST": f"unix://{machine.run_dir}/swarmd.sock"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_sound_machine_and_one_with_leftovers(machine: Machine) -> None:
    machine.docker("run", "-d", "--name", "runs", "box:1", "sleep", "100")
    machine.docker("run", "--name", "ended", "box:1", "true")
    sound = _check(machine)
    assert (sound.returncode, sound.stdout) == (0, "everything is in order\n"), sound.stderr
    stray = "f" * 64
    (machine.data / "containers" / stray / "upper").mkdir(parents=True)
    (machine.data / "images/blobs/sha256" / stray).write_bytes(b"nobody's")
    (machine.data / "images/layers/sha256" / stray).mkdir()
    (machine.run_dir / "network/endpoints" / f"{stray}.msgpack").write_bytes(b"")
    seen = _check(machine, "--dry-run")
    assert seen.returncode == 1
    kinds = [line.split()[0] for line in seen.stdout.splitlines()]
    assert kinds == ["directory", "endpoint", "blob", "layer"]
    assert seen.stdout.count("(NOT repaired)") == 4
    mended = _check(machine)
    assert (mended.returncode, mended.stdout.count("(repaired)")) == (0, 4)
    assert _check(machine).stdout == "everything is in order\n"
    assert machine.docker("exec", "runs", "echo", "alive").stdout == b"alive\n"
    assert machine.docker("ps", "-q").stdout.count(b"\n") == 1


def test_a_damaged_blob_is_named_with_the_way_out(machine: Machine) -> None:
    blobs = list((machine.data / "images/blobs/sha256").iterdir())
    largest = max(blobs, key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    found = _check(machine)
    assert found.returncode == 1
    assert f"blob sha256:{largest.name}: its content has another digest" in found.stdout
    assert "pull or load it again (NOT repaired)" in found.stdout

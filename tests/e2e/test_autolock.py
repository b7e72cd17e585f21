"""Autolock with the docker CLI: a restarted manager waits for its key, the cluster goes on."""

import re
import subprocess

import pytest

from tests.e2e.lab import LabHandle, wait_until


def docker(lab: LabHandle, node: str, *words: str, stdin: str = "") -> str:
    """Run the docker CLI against a node; return what it says, on both streams."""
    done = subprocess.run(
        ["docker", "-H", f"unix://{lab.socket(node)}", *words],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.stdout


@pytest.mark.usefixtures("docker_cli")
def test_a_restarted_manager_is_locked_until_its_key_comes(lab: LabHandle, web: str) -> None:
    locked = "m2" if lab.leader("m1") != "m2" else "m3"
    told = docker(lab, "m1", "swarm", "update", "--autolock=true")
    try:
        (key,) = re.findall(r"SWMKEY-1-[A-Za-z0-9+/]{43}", told)
        assert docker(lab, locked, "swarm", "unlock-key", "-q").strip() == key
        rotated = docker(lab, "m1", "swarm", "unlock-key", "--rotate", "-q").strip()
        assert rotated != key
        lab.run("restart", locked)
        wait_until(
            lambda: "Swarm: locked" in docker(lab, locked, "info"), 30, "the manager is locked"
        )
        assert "Swarm is encrypted and needs to be unlocked" in docker(lab, locked, "node", "ls")
        assert "invalid key provided" in docker(lab, locked, "swarm", "unlock", stdin=f"{key}\n")
        lab.swarmctl("m1", "service", "scale", "--detach", f"{web}=4")
        lab.await_running("m1", web, 4)
        assert docker(lab, locked, "swarm", "unlock", stdin=f"{rotated}\n") == ""
        lab.await_ready(locked)
        for manager in lab.managers():
            assert lab.traces(manager, rotated) == [], "neither disk, log nor processes tell it"
    finally:
        docker(lab, "m1", "swarm", "update", "--autolock=false")
    lab.run("restart", locked)
    lab.await_ready(locked)

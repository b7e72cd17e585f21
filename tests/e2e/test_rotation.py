"""The root certificate is rotated while a service is updated: nothing fails, nobody starts anew."""

import subprocess
from typing import Any

import pytest

from tests.e2e.lab import LabHandle, wait_until


def pids(lab: LabHandle) -> dict[str, str]:
    """Return each node's manager process."""
    return {
        node: lab.run("exec", node, "pgrep", "-f", "manager.main run").stdout
        for node in lab.managers()
    }


def issuers(lab: LabHandle, via: str) -> dict[str, str]:
    """Return whose certificate each node shows."""
    nodes: list[dict[str, Any]] = lab.api(via, "GET", "/nodes").body
    found = {n["Description"]["Hostname"]: n["Description"].get("TLSInfo", {}) for n in nodes}
    return {name: tls.get("CertIssuerPublicKey", "") for name, tls in found.items()}


@pytest.mark.usefixtures("docker_cli")
def test_rotation_under_a_stream_of_updates_with_a_node_away(lab: LabHandle, web: str) -> None:
    before, away = lab.api("m1", "GET", "/swarm").body, max(lab.nodes)
    running = pids(lab)
    lab.run("kill", away)
    wait_until(lambda: lab.node_states("m1")[away] == "down", 60, "the node is down")
    command = ["docker", "-H", f"unix://{lab.socket('m1')}", "swarm", "ca", "--rotate"]
    rotating = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        rounds = 0
        wait_until(
            lambda: lab.api("m1", "GET", "/swarm").body["RootRotationInProgress"], 20, "it begins"
        )
        wanted = lab.api("m1", "GET", "/swarm").body["TLSInfo"]["CertIssuerPublicKey"]

        def only_the_lost_one_is_behind() -> bool:
            nonlocal rounds
            rounds += 1
            words = ["--detach", "--env-add", f"ROUND={rounds}", web]
            lab.swarmctl("m2", "service", "update", *words)
            late = [name for name, issuer in issuers(lab, "m1").items() if issuer != wanted]
            return late == [away]

        wait_until(only_the_lost_one_is_behind, 60, "all others have renewed")
        assert lab.api("m1", "GET", "/swarm").body["RootRotationInProgress"]
        lab.swarmctl("m1", "swarm", "ca", "--skip-down", "--quiet")
        after = lab.api("m3", "GET", "/swarm").body
        assert not after["RootRotationInProgress"]
        assert after["TLSInfo"]["TrustRoot"] != before["TLSInfo"]["TrustRoot"]
        assert after["JoinTokens"] != before["JoinTokens"]
        lab.run("start", away)
        lab.await_ready("m1", timeout_s=90)
        output, _ = rotating.communicate(timeout=60)
    finally:
        rotating.kill()
        rotating.wait()
    assert rotating.returncode == 0, output.decode()
    assert after["TLSInfo"]["TrustRoot"].strip() in output.decode()
    assert pids(lab) == running, "no manager was started anew"
    lab.await_running("m1", web, 3)

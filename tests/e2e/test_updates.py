"""Updates that pause, go on and go back, and a node that is drained, on a whole cluster."""

from tests.e2e.lab import LabHandle


def update_state(lab: LabHandle, name: str) -> str:
    return str(lab.api("m3", "GET", f"/services/{name}").body["UpdateStatus"]["State"])


def code_of(lab: LabHandle, *words: str) -> int:
    return lab.run("exec", "m2", "swarmctl", *words, check=False).returncode


def test_an_update_pauses_is_resumed_and_goes_back_to_any_spec(lab: LabHandle) -> None:
    """Through a follower; the first command is good, the second one ends at once."""
    create = ["--name", "s", "--replicas", "2", "--stop-grace-period", "100ms"]
    create += ["--update-monitor", "1s", "--rollback-monitor", "1s", "--no-resolve-image"]
    lab.swarmctl("m2", "service", "create", *create, "busybox:latest", "sleep", "1000")
    assert code_of(lab, "service", "update", "--args", "sleep 2000", "s") == 0
    assert code_of(lab, "service", "update", "-q", "--args", "false", "s") != 0
    assert update_state(lab, "s") == "paused"
    assert code_of(lab, "service", "resume", "-q", "s") != 0
    assert update_state(lab, "s") == "paused"
    assert lab.swarmctl("m2", "service", "history", "-q", "s").split() == ["3", "2", "1"]
    assert code_of(lab, "service", "rollback", "--to", "1", "s") == 0
    spec = lab.api("m1", "GET", "/services/s").body["Spec"]
    assert spec["TaskTemplate"]["ContainerSpec"]["Args"] == ["sleep", "1000"]
    assert update_state(lab, "s") == "rollback_completed"


def test_a_drained_node_is_waited_for(lab: LabHandle) -> None:
    """Start-first: the service never has less than its replicas on the way."""
    words = ["--name", "s", "--replicas", "5", "--update-order", "start-first"]
    words += ["--stop-grace-period", "100ms", "--no-resolve-image"]
    lab.swarmctl("m1", "service", "create", *words, "busybox:latest", "sleep", "1000")
    try:
        assert code_of(lab, "node", "drain", "--wait", "--timeout", "60s", "w1") == 0
        live = lab.swarmctl("m1", "service", "ps", "-f", "desired-state=running", "s")
        assert "w1" not in live
        assert live.count("Running") >= 5
    finally:
        lab.swarmctl("m1", "node", "update", "--availability", "active", "w1")

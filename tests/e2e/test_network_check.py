"""`cluster check network` on a whole network, and on one with a small MTU on one node."""

from tests.e2e.lab import LabHandle

CHECK = ("cluster", "check", "network")


def check(lab: LabHandle, *words: str) -> tuple[int, str]:
    """Ask a follower where there is one; return exit code and output."""
    done = lab.run("exec", lab.managers()[-1], "swarmctl", *CHECK, *words, check=False)
    return done.returncode, done.stdout


def test_the_check_finds_a_small_mtu_and_where(lab: LabHandle) -> None:
    """Names and VIPs are asked for from inside the service's own containers."""
    lab.swarmctl("m1", "network", "create", "-d", "overlay", "checked")
    words = ["--name", "web", "--mode", "global", "--network", "checked", "--publish", "8080:80"]
    lab.swarmctl("m1", "service", "create", *words, "swarm-demo/web:1")
    lab.await_running("m1", "web", len(lab.nodes))
    try:
        code, out = check(lab)
        assert (code, out.splitlines()[-1]) == (0, "The network is whole."), out
        assert "node w1: 1 of 1 services answer from its containers" in out
        rows = check(lab, "--format", "{{.From}}")[1].split()
        assert len(rows) == len(lab.nodes) * (len(lab.nodes) - 1)

        lab.run("exec", "w1", "ip", "link", "set", "eth0", "mtu", "1400")
        code, out = check(lab, "-q")
        assert code == 1
        assert "node w1 and every other: full-size frames do not pass: at most 1280 bytes" in out
    finally:
        lab.run("exec", "w1", "ip", "link", "set", "eth0", "mtu", "1500")
    assert check(lab, "-q")[0] == 0
    assert lab.api("m1", "DELETE", "/services/web").status == 200
    assert lab.api("m1", "DELETE", "/networks/checked").status == 204

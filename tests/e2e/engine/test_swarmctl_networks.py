"""Networks, ports and volumes of one machine, by swarmctl."""

from tests.e2e.engine.machine import Machine

SERVE = "mkdir /w; echo page > /w/index.html; exec httpd -f -p 80 -h /w"


def test_networks_ports_and_volumes(machine: Machine) -> None:
    ctl = machine.swarmctl
    network_id = ctl("network", "create", "--subnet", "10.72.0.0/24", "--label", "q=1", "n1")
    assert ctl("network", "ls", "--filter", "label=q=1", "-q") == network_id[:12]
    shown = ctl("network", "inspect", "-f", "{{.IPAM.Config}}", "n1")
    assert "10.72.0.0/24" in shown
    words = ["--network", "n1", "--network-alias", "www", "-p", "18080:80", "-v", "v1:/data"]
    ctl("run", "-d", "--name", "web", *words, "box:1", "sh", "-c", SERVE)
    assert ctl("port", "web", "80") == "0.0.0.0:18080"
    assert ctl("run", "--rm", "--network", "n1", "box:1", "wget", "-qO-", "http://www/") == "page"
    ctl("network", "create", "n2")
    ctl("network", "connect", "--alias", "other", "n2", "web")
    assert ctl("run", "--rm", "--network", "n2", "box:1", "wget", "-qO-", "http://other/") == "page"
    ctl("network", "disconnect", "n2", "web")
    assert ctl("network", "prune", "-f") == "Deleted Networks:\nn2"
    ctl("volume", "create", "--label", "x=y", "v2")
    assert ctl("volume", "ls", "-q").split() == ["v1", "v2"]
    assert ctl("volume", "prune", "-a", "-f").splitlines()[:2] == ["Deleted Volumes:", "v2"]
    ctl("rm", "-f", "web")
    assert ctl("volume", "rm", "v1") == "v1"
    assert ctl("network", "rm", "n1") == "n1"

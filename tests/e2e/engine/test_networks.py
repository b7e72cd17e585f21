"""Networks and ports of one machine, by the docker CLI and by swarmctl."""

import signal
import subprocess
import time
from typing import Any

import pytest

from tests.e2e.engine.clients import Client
from tests.e2e.engine.machine import Machine

SERVE = "mkdir /w; echo page-of-$(hostname) > /w/index.html; exec httpd -f -p 80 -h /w"


def networks_of(client: Client, name: str) -> Any:
    return client.inspect("inspect", name)["NetworkSettings"]["Networks"]


def serve(client: Client, name: str, *argv: str) -> None:
    client.good("run", "-d", "--name", name, *argv, "box:1", "sh", "-c", SERVE)


def fetch(machine: Machine, url: str) -> str:
    """GET from the host's own namespace, waiting for the server to listen."""
    command = machine.inside("busybox", "wget", "-qO-", url)
    deadline = time.monotonic() + 10
    while not (page := subprocess.run(command, capture_output=True, text=True).stdout.strip()):
        assert time.monotonic() < deadline, f"nobody answers at {url}"
    return page


def test_a_network_from_create_to_prune(client: Client) -> None:
    words = ["--subnet", "10.70.0.0/24", "--gateway", "10.70.0.7", "--ip-range", "10.70.0.128/25"]
    words += ["--aux-address", "router=10.70.0.129", "--label", "q=1", "--attachable"]
    words += [
        "-o",
        "com.docker.network.bridge.name=brx",
        "-o",
        "com.docker.network.driver.mtu=1400",
    ]
    network_id = client.out("network", "create", *words, "n1")
    shown = client.inspect("network", "inspect", "n1")
    assert shown["Id"] == network_id
    assert shown["IPAM"]["Config"] == [
        {
            "Subnet": "10.70.0.0/24",
            "IPRange": "10.70.0.128/25",
            "Gateway": "10.70.0.7",
            "AuxiliaryAddresses": {"router": "10.70.0.129"},
        }
    ]
    assert shown["Options"]["com.docker.network.bridge.name"] == "brx"
    assert shown["Attachable"] is True
    link = subprocess.run(client.machine.inside("ip", "link", "show", "brx"), capture_output=True)
    assert b"mtu 1400" in link.stdout
    assert "already exists" in client.refused("network", "create", "n1")
    assert "overlaps" in client.refused("network", "create", "--subnet", "10.70.0.0/16", "n2")
    several = ["--subnet", "10.75.0.0/24", "--subnet", "10.76.0.0/24"]
    assert "one subnet of IPv4" in client.refused("network", "create", *several, "n2")
    assert "network option x is not supported" in client.refused(
        "network", "create", "-o", "x=y", "n2"
    )
    assert "macvlan" in client.refused("network", "create", "-d", "macvlan", "n2")
    assert "pre-defined network" in client.refused("network", "rm", "bridge")
    client.out("network", "create", "--internal", "n2")
    names = ["network", "ls", "--format", "{{.Name}}"]
    assert client.out(*names).split() == ["bridge", "host", "n1", "n2", "none"]
    short = client.out("network", "ls", "-q").split()
    shown = client.out("network", "inspect", "-f", "{{.Name}}", *short).split()
    assert sorted(shown) == ["bridge", "host", "n1", "n2", "none"]
    assert client.out(*names, "--filter", "label=q=1") == "n1"
    assert client.out(*names, "--filter", "type=custom").split() == ["n1", "n2"]
    assert client.out(*names, "--filter", "dangling=true").split() == ["n1", "n2"]
    client.good("run", "-d", "--name", "c1", "--network", "n1", "box:1", "sleep", "100")
    assert client.out(*names, "--filter", "dangling=true") == "n2"
    client.good("run", "-d", "--name", "c2", "--network", "n1", "box:1", "sleep", "100")
    members = client.inspect("network", "inspect", network_id[:8])["Containers"].values()
    places = {member["Name"]: member["IPv4Address"] for member in members}
    assert places == {"c1": "10.70.0.128/24", "c2": "10.70.0.130/24"}
    assert 'has active endpoints (name:"c1"' in client.refused("network", "rm", "n1")
    assert client.out("network", "prune", "-f", "--filter", "label!=q").endswith("n2")
    assert client.out("network", "prune", "-f") == ""
    client.good("rm", "-f", "c1", "c2")
    assert client.out("network", "prune", "-f", "--filter", "until=1h") == ""
    assert client.out("network", "rm", "n1") == "n1"
    assert "network nosuch not found" in client.refused("network", "rm", "nosuch")
    links = subprocess.run(client.machine.inside("ip", "link"), capture_output=True).stdout
    assert b"brx" not in links


def test_names_and_addresses_on_user_defined_networks(client: Client) -> None:
    client.good("network", "create", "--subnet", "10.71.0.0/24", "n1")
    client.good("network", "create", "-d", "bridge", "--internal", "--subnet", "10.77.0.0/24", "n2")
    serve(client, "web", "--network", "n1", "--network-alias", "www", "--ip", "10.71.0.80",
          "-h", "page.example.org")  # fmt: skip
    run = ["run", "--rm", "--network", "n1", "box:1"]
    for name in ("web", "www", "WWW", "web.n1", "page.example.org"):
        assert client.out(*run, "wget", "-qO-", f"http://{name}/") == "page-of-page.example.org"
    short = client.out("ps", "-q")
    assert "10.71.0.80" in client.out(*run, "nslookup", short)
    assert "name = web.n1" in client.out(*run, "nslookup", "10.71.0.80")
    hosts = client.out("exec", "web", "cat", "/etc/hosts")
    assert "10.71.0.80\tpage.example.org page" in hosts
    assert "nameserver 127.0.0.11" in client.out("exec", "web", "cat", "/etc/resolv.conf")
    # A second network, and back.
    client.good("network", "connect", "--alias", "inner", "--ip", "10.77.0.9", "n2", "web")
    assert client.out("run", "--rm", "--network", "n2", "box:1", "wget", "-qO-", "http://inner/")
    shown = networks_of(client, "web")
    assert list(shown) == ["n1", "n2"]
    assert shown["n1"]["IPAMConfig"] == {"IPv4Address": "10.71.0.80"}
    assert shown["n2"]["Aliases"] == ["inner"]
    assert shown["n2"]["IPAddress"] == "10.77.0.9"
    assert "inner" in shown["n2"]["DNSNames"]
    assert shown["n2"]["IPAddress"] in client.out("exec", "web", "cat", "/etc/hosts")
    assert "already exists in network n2" in client.refused("network", "connect", "n2", "web")
    client.good("rename", "web", "shop")
    assert client.out(*run, "wget", "-qO-", "http://shop/")
    assert client.run(*run, "wget", "-qO-", "http://web/").code != 0
    client.good("network", "disconnect", "n2", "shop")
    assert "is not connected to network n2" in client.refused("network", "disconnect", "n2", "shop")
    client.good("network", "connect", "n2", "shop")
    client.good("network", "disconnect", "--force", "n2", "shop")
    assert shown["n2"]["IPAddress"] not in client.out("exec", "shop", "cat", "/etc/hosts")
    assert "in use" in client.refused(
        "run", "--rm", "--network", "n1", "--ip", "10.71.0.80", "box:1", "true", code=125
    )
    client.good("network", "create", "n3")
    place = ["--ip", "172.18.0.9"]
    for words in (["network", "connect", *place, "n3", "shop"],
                  ["create", *place, "--network", "n3", "box:1", "true"]):  # fmt: skip
        assert "networks with user configured subnets" in client.refused(*words)
    assert "user defined networks only" in client.refused(
        "run", "--rm", "--ip", "172.17.0.9", "box:1", "true", code=125
    )


def test_several_networks_at_create_and_after_restarts(client: Client) -> None:
    for name in ("n1", "n2"):
        client.good("network", "create", name)
    words = ["--network", "name=n1,alias=one,mac-address=02:00:00:00:00:11", "--network", "n2"]
    serve(client, "web", *words, "-p", "18080:80")
    assert "02:00:00:00:00:11" in client.out("exec", "web", "ip", "addr", "show", "eth0")
    before = networks_of(client, "web")
    assert set(before) == {"n1", "n2"}
    client.good("network", "connect", "bridge", "web")
    client.good("network", "disconnect", "n2", "web")
    client.machine.stop(signal.SIGKILL)
    client.machine.start()
    assert fetch(client.machine, "http://127.0.0.1:18080/").startswith("page-of-")
    assert set(networks_of(client, "web")) == {
        "n1",
        "bridge",
    }
    assert client.out("run", "--rm", "--network", "n1", "box:1", "wget", "-qO-", "http://one/")
    client.good("network", "connect", "n2", "web")
    client.good("network", "disconnect", "n1", "web")
    client.good("restart", "-t", "0", "web")
    assert set(networks_of(client, "web")) == {
        "n2",
        "bridge",
    }
    # A network made anew under its name will do.
    client.good("stop", "-t", "0", "web")
    client.good("network", "rm", "n2")
    assert "network n2 not found" in client.refused("start", "web")
    client.good("network", "create", "n2")
    client.good("start", "web")
    assert set(networks_of(client, "web")) == {"n2", "bridge"}
    client.good("rm", "-f", "web")
    assert client.out("network", "prune", "-f").split()[-2:] == ["n1", "n2"]


def test_modes_that_share_or_have_no_network(client: Client) -> None:
    serve(client, "web", "-h", "shared")
    sharing = ["run", "--rm", "--network", "container:web", "box:1"]
    assert client.out(*sharing, "wget", "-qO-", "http://127.0.0.1/") == "page-of-shared"
    assert client.out(*sharing, "hostname") == "shared"
    assert "\tshared" in client.out(*sharing, "cat", "/etc/hosts")
    assert "port publishing and the container type" in client.refused(
        "run", "--rm", "-p", "80", "--network", "container:web", "box:1", "true", code=125
    )
    none = client.run("run", "--rm", "--network", "none", "-p", "80", "box:1", "ip", "addr")
    assert "eth0" not in none.out
    assert "Published ports are discarded when using none network mode" in none.err
    bridge = client.out("run", "--rm", "--network", "bridge", "box:1", "ip", "addr", "show", "eth0")
    assert "inet 172.17.0." in bridge
    host = client.out("run", "--rm", "--network", "host", "box:1", "ip", "addr")
    assert "swarm0" in host
    assert "not found" in client.refused("run", "--network", "nosuch", "box:1", "true", code=125)
    client.good("run", "-d", "--name", "alone", "--network", "none", "box:1", "sleep", "100")
    assert "private (none) mode" in client.refused("network", "connect", "bridge", "alone")


def test_files_of_the_network(client: Client) -> None:
    words = ["--dns", "10.0.0.53", "--dns-search", "example.org", "--dns-option", "ndots:3"]
    words += ["--add-host", "db:10.1.2.3", "--add-host", "up:host-gateway", "-h", "box"]
    words += ["--domainname", "example.org"]
    shown = client.out("run", "--rm", *words, "box:1", "cat", "/etc/resolv.conf", "/etc/hosts",
                "/etc/hostname")  # fmt: skip
    expected = "nameserver 10.0.0.53\nsearch example.org\noptions ndots:3\n127.0.0.1\tlocalhost\n"
    assert shown.startswith(expected)
    assert "10.1.2.3\tdb\n172.17.0.1\tup\n" in shown
    assert "\tbox.example.org box\nbox" in shown
    client.good("network", "create", "n1")
    shown = client.out("run", "--rm", "--network", "n1", *words, "box:1", "cat", "/etc/resolv.conf")
    assert shown == "nameserver 127.0.0.11\nsearch example.org\noptions ndots:3"


def test_published_ports(client: Client) -> None:
    serve(client, "web", "-p", "18080:80", "-p", "127.0.0.1:18081:80", "-p", "19000-19002:80",
          "-p", "18053:53/udp", "-p", "80")  # fmt: skip
    shown = client.out("port", "web").splitlines()
    assert "80/tcp -> 0.0.0.0:18080" in shown
    assert "80/tcp -> 127.0.0.1:18081" in shown
    assert "80/tcp -> 0.0.0.0:19000" in shown
    assert "53/udp -> 0.0.0.0:18053" in shown
    assert len(shown) == 5
    for port in ("18080", "18081", "19000"):
        assert fetch(client.machine, f"http://127.0.0.1:{port}/").startswith("page-of-")
    # Another container, and the container itself, through the bridge's address.
    for words in (["run", "--rm", "box:1"], ["exec", "web"]):
        assert client.out(*words, "wget", "-qO-", "http://172.17.0.1:18080/").startswith("page")
    taken = client.refused("run", "--name", "two", "-p", "18080:80", "box:1", "true", code=125)
    assert "Bind for 0.0.0.0:18080 failed: port is already allocated" in taken
    client.good("run", "-d", "--name", "three", "-p", "19000-19002:80", "box:1", "sleep", "100")
    assert client.out("port", "three", "80") == "0.0.0.0:19001"
    assert "sctp" in client.refused("run", "-p", "7:7/sctp", "box:1", "true", code=125)
    client.good("rm", "-f", "web")
    client.good("start", "two")
    client.good("run", "-d", "--name", "all", "-P", "--expose", "90", "box:1", "sleep", "100")
    assert client.out("port", "all").startswith("90/tcp -> 0.0.0.0:")


def test_network_events(client: Client) -> None:
    since = f"{time.time():.9f}"
    client.good("network", "create", "n1")
    client.good("run", "--rm", "--network", "n1", "box:1", "true")
    client.good("network", "rm", "n1")
    now = f"{time.time():.9f}"
    words = ["events", "--since", since, "--until", now, "--filter", "type=network"]
    actions = client.out(*words, "--format", "{{.Action}} {{.Actor.Attributes.name}}").splitlines()
    assert actions == ["create n1", "connect n1", "disconnect n1", "destroy n1"]


def test_networks_outlive_a_reboot(machine: Machine) -> None:
    client = Client("docker", machine)
    client.good("network", "create", "--subnet", "10.73.0.0/24", "n1")
    words = ["--network", "n1", "--ip", "10.73.0.9", "--restart", "always", "-p", "18080:80"]
    serve(client, "web", *words)
    machine.power_cut()
    machine.start()
    assert client.out("network", "ls", "-q", "--filter", "name=n1")
    assert fetch(machine, "http://127.0.0.1:18080/").startswith("page-of-")
    assert networks_of(client, "web")["n1"]["IPAddress"] == "10.73.0.9"
    client.good("rm", "-f", "web")
    client.good("network", "rm", "n1")


def test_options_of_the_default_bridge(machine: Machine) -> None:
    client = Client("docker", machine)
    machine.stop()
    machine.start("-b", "br9", "--bip", "10.74.0.1/24", "--fixed-cidr", "10.74.0.128/25",
                  "--ip", "127.0.0.1", "--icc=false")  # fmt: skip
    pool = client.inspect("network", "inspect", "bridge")["IPAM"]["Config"]
    assert pool == [{"Subnet": "10.74.0.0/24", "IPRange": "10.74.0.128/25", "Gateway": "10.74.0.1"}]
    serve(client, "web", "-p", "18080:80")
    assert client.out("port", "web") == "80/tcp -> 127.0.0.1:18080"
    assert fetch(machine, "http://127.0.0.1:18080/").startswith("page-of-")
    address = networks_of(client, "web")["bridge"]["IPAddress"]
    assert address == "10.74.0.128"
    words = ["run", "--rm", "box:1", "wget", "-qO-", f"http://{address}/"]
    assert "No route to host" in client.run(*words).err
    client.good("rm", "-f", "web")
    machine.stop()
    with pytest.raises(AssertionError, match=r"bip 10\.75\.0\.1/24: br9 has 10\.74\.0\.1/24"):
        machine.start("-b", "br9", "--bip", "10.75.0.1/24")
    machine.start("-b", "none")
    said = client.refused("run", "--rm", "box:1", "true", code=125)
    assert "network bridge not found" in said
    client.good("run", "--rm", "--network", "none", "box:1", "true")


def test_a_network_of_both_families(client: Client) -> None:
    words = ["--ipv6", "--subnet", "fd72::/64", "--subnet", "10.72.0.0/24", "--gateway", "fd72::7"]
    client.good("network", "create", *words, "n1")
    shown = client.inspect("network", "inspect", "n1")
    assert (shown["EnableIPv4"], shown["EnableIPv6"]) == (True, True)
    assert shown["IPAM"]["Config"] == [
        {"Subnet": "10.72.0.0/24", "Gateway": "10.72.0.1"},
        {"Subnet": "fd72::/64", "Gateway": "fd72::7"},
    ]
    places = ["--network", "n1", "--ip", "10.72.0.80", "--ip6", "fd72::80"]
    serve(client, "web", *places, "-p", "8080:80", "-p", "[::1]:8081:80")
    found = networks_of(client, "web")["n1"]
    assert found["IPAMConfig"] == {"IPv4Address": "10.72.0.80", "IPv6Address": "fd72::80"}
    assert (found["GlobalIPv6Address"], found["GlobalIPv6PrefixLen"], found["IPv6Gateway"]) == (
        "fd72::80",
        64,
        "fd72::7",
    )
    assert set(client.out("port", "web").splitlines()) == {
        "80/tcp -> 0.0.0.0:8080",
        "80/tcp -> [::]:8080",
        "80/tcp -> [::1]:8081",
    }
    for place in ("127.0.0.1:8080", "[::1]:8080", "[::1]:8081", "[fd72::7]:8080"):
        assert fetch(client.machine, f"http://{place}/").startswith("page-of-")
    run = ["run", "--rm", "--network", "n1", "box:1"]
    assert client.out(*run, "wget", "-qO-", "http://[fd72::80]/").startswith("page-of-")
    client.out(*run, "ping", "-6", "-c", "1", "web")
    answer = client.out(*run, "nslookup", "web")
    assert "fd72::80" in answer
    assert "10.72.0.80" in answer
    assert "name = web.n1" in client.out(*run, "nslookup", "fd72::80")
    assert "fd72::80\t" in client.out("exec", "web", "cat", "/etc/hosts")
    again = ("run", "--rm", "--network", "n1", "--ip6", "fd72::80", "box:1", "true")
    taken = client.refused(*again, code=125)
    assert "fd72::80 is in use" in taken
    client.good("network", "create", "n2")
    lacking = client.refused(
        "run", "--network", "n2", "--ip6", "fd00::5", "box:1", "true", code=125
    )
    assert "create it with --ipv6" in lacking
    client.good("network", "create", "--ipv6", "--ipv4=false", "n3")
    alone = client.out(
        "run", "--rm", "--network", "n3", "box:1", "ip", "-o", "addr", "show", "eth0"
    )
    assert "inet6 fd" in alone
    assert "inet " not in alone.partition("eth0")[2]

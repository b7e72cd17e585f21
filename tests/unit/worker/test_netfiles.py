"""/etc/hosts and resolv.conf of a container."""

from worker.engine.netfiles import DnsWishes, host_names, hosts_text, resolvers_text

HOST = "nameserver 127.0.0.1\nnameserver 10.0.0.2\nsearch old\nsearch a.org b.org\noptions rotate\n"


def resolvers(text: str, *, served: bool = False, loopback: bool = False, **given: str) -> str:
    wanted = DnsWishes(**{name: tuple(value.split()) for name, value in given.items()})
    return resolvers_text(text, wanted, served=served, loopback=loopback)


def test_the_hosts_resolvers_without_those_no_container_reaches() -> None:
    assert resolvers(HOST) == "nameserver 10.0.0.2\nsearch a.org b.org\noptions rotate\n"
    assert resolvers(HOST, loopback=True).startswith("nameserver 127.0.0.1\nnameserver 10.0.0.2\n")
    assert resolvers("nameserver 127.0.0.53\n") == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_wishes_replace_the_hosts_settings_each_for_itself() -> None:
    found = resolvers(HOST, servers="127.0.0.9", search=".")
    assert found == "nameserver 127.0.0.9\noptions rotate\n"


def test_names_served_at_127_0_0_11() -> None:
    found = resolvers(HOST, served=True, servers="10.0.0.9")
    assert found == "nameserver 127.0.0.11\nsearch a.org b.org\noptions rotate ndots:0\n"
    assert resolvers("", served=True, options="ndots:2").endswith("options ndots:2\n")


def test_hosts_begin_with_the_users_names_and_end_with_its_own() -> None:
    found = hosts_text("127.0.0.1\tlocalhost", [("db", "10.1.2.3")], ["10.0.0.5"], "box.org box")
    assert found == "127.0.0.1\tlocalhost\n10.1.2.3\tdb\n10.0.0.5\tbox.org box\n"


def test_a_full_name_answers_by_its_first_part_too() -> None:
    assert host_names("box", "") == "box"
    assert host_names("box", "example.org") == "box.example.org box"
    assert host_names("box.example.org", "") == "box.example.org box"

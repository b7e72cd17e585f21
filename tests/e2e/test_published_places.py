"""Ports of services at chosen addresses, seen from outside and from the nodes themselves."""

import json
from functools import partial

from tests.e2e.lab import LabHandle, wait_until

IMAGE = "swarm-demo/web:1"
SERVE = (IMAGE, "httpd", "-f", "-p", "[::]:80", "-h", "/www")
FIRST_LINE = (IMAGE, "nc", "-ll", "-p", "80", "-e", "head", "-n", "1")


def seen(lab: LabHandle, *words: str) -> str:
    """Return the client as a task has it."""
    answer = json.loads(lab.run(*words[:-1], "curl", "-sg", "-m", "5", words[-1]).stdout)
    return str(answer["client"]).strip("[]").removeprefix("::ffff:")


def answers(lab: LabHandle, *words: str) -> bool:
    return "client" in lab.run(*words, check=False).stdout


def test_services_share_a_number_and_tasks_see_whom_they_ask_for(lab: LabHandle) -> None:
    here, there = lab.address("m1"), lab.address("w1")

    def create(name: str, publish: str, serve: tuple[str, ...] = SERVE, code: int = 0) -> str:
        words = ("service", "create", "-d", "--name", name, "-p", publish)
        made = lab.run("exec", "m1", "swarmctl", *words, *serve, check=False)
        assert (made.returncode == 0) == (code == 0), made.stderr
        return made.stderr

    create("hidden", f"published=8080,target=80,address={here},source=snat")
    create("plain", f"{there}:8080:80")
    create("told", "published=8082,target=80,source=proxy-protocol-v1", FIRST_LINE)
    refusal = create("third", "8080:80", code=1)
    assert f"port '{here}:8080' is already in use by service 'hidden'" in refusal
    assert "TCP connection" in create("udp", "target=80,protocol=udp,source=proxy-protocol", code=1)

    def is_told() -> bool:
        words = ("curl", "-s", "-m", "5", "--http0.9", f"http://{there}:8082/")
        answer = lab.run("client", *words, check=False).stdout
        return answer.startswith(f"PROXY TCP4 {lab.address('client')} {there} ")

    for name in ("hidden", "plain", "told"):
        lab.await_running("m1", name, 1)
    wait_until(is_told, 20, "the header names the client")
    assert seen(lab, "client", f"http://{there}:8080/") == lab.address("client")
    assert seen(lab, "client", f"http://{here}:8080/") not in ("", lab.address("client"), here)
    listed = lab.swarmctl("m1", "service", "ls", "--format", "{{.Ports}}").split("\n")
    assert f"{here}:8080->80/tcp" in listed

    lab.swarmctl("m1", "service", "update", "plain", "--publish-add", "8081:80")
    for own in ("127.0.0.1", "[::1]"):
        words = ("exec", "m1", "curl", "-sg", "-m", "5", f"http://{own}:8081/")
        wait_until(partial(answers, lab, *words), 20, f"{own}:8081 answers on the node itself")

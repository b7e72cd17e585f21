"""exec in a task's container on another node, through a manager that does not lead."""

import os
import pty
import select
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.lab import LabHandle, wait_until

MARK = "4471"
"""Seconds of a sleep that nobody else sleeps."""
SEEN_WAIT_S = 30.0


@pytest.fixture
def follower(lab: LabHandle) -> str:
    """Run `web` on w1 and return a manager that does not lead."""
    words = ["--name", "web", "--constraint", "node.hostname==w1", "busybox:latest", "sleep"]
    lab.swarmctl("m1", "service", "create", "--detach", *words, "100000")
    lab.await_running("m1", "web", 1)
    leader = lab.leader("m1")
    return next(name for name in lab.managers() if name != leader)


def command(lab: LabHandle, node: str, *words: str) -> list[str]:
    socket = f"unix://{lab.socket(node)}"
    return [sys.executable, "-m", "swarmctl.main", "-H", socket, *words]


def run(lab: LabHandle, node: str, *words: str, stdin: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        command(lab, node, *words), input=stdin, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


@contextmanager
def on_terminal(words: list[str], rows: int, columns: int) -> Iterator[Callable[[str, str], None]]:
    """Run a program on a terminal of a size; the block types and awaits what is shown."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (rows, columns))
    shown = ""

    def say(text: str, awaited: str) -> None:
        nonlocal shown
        os.write(ours, text.encode())
        while awaited not in shown:
            assert select.select([ours], [], [], SEEN_WAIT_S)[0], f"no {awaited!r} in {shown!r}"
            shown += os.read(ours, 65536).decode()
        shown = shown.partition(awaited)[2]

    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        try:
            yield say
            assert process.wait(SEEN_WAIT_S) == 5
        finally:
            process.kill()
            os.close(ours)


def test_a_command_in_a_task_of_another_node(lab: LabHandle, follower: str) -> None:
    both = "echo $A; pwd; id -u; echo oops >&2; exit 4"
    flags = ("-e", "A=b", "-w", "/tmp", "-u", "1000")
    done = run(lab, follower, "service", "exec", *flags, "web", "sh", "-c", both)
    assert done == (4, "b\n/tmp\n1000\n", "oops\n")
    (task,) = lab.running("m1", "web")
    big = "line\n" * 200_000
    for words in (
        ("task", "exec", "-i", "web.1", "cat"),
        ("exec", "-i", f"web.1.{task['ID']}", "cat"),
    ):
        assert run(lab, follower, *words, stdin=big) == (0, big, "")
    code, _, error = run(lab, follower, "service", "exec", "web.1", "nosuch")
    assert (code, "executable file not found" in error) == (127, True)
    shell = command(lab, follower, "service", "exec", "-it", "web", "sh")
    with on_terminal(shell, 33, 101) as say:
        say("", "# ")
        say("stty size\r", "33 101")
        say("exit 5\r", "exit 5")


def test_a_detached_command_goes_on_without_its_client(lab: LabHandle, follower: str) -> None:
    writes = "i=0; while [ $i -lt 9999 ]; do echo $i; i=$((i+1)); done; echo over > /tmp/over"
    done = run(lab, follower, "service", "exec", "-d", "web", "sh", "-c", writes)
    assert done == (0, "", "")

    def is_over() -> bool:
        return run(lab, follower, "task", "exec", "web.1", "cat", "/tmp/over")[1] == "over\n"

    wait_until(is_over, SEEN_WAIT_S, "it ran to its end")
    code, shown, error = run(lab, follower, "task", "exec", "-d", "web.1", "nosuch")
    assert (code, shown, "executable file not found" in error) == (1, "", True)


def test_a_client_that_goes_takes_its_process_with_it(lab: LabHandle, follower: str) -> None:
    def sleeps() -> bool:
        code, shown, _ = run(lab, follower, "service", "exec", "web", "ps")
        assert code == 0
        return f"sleep {MARK}" in shown

    words = command(lab, follower, "service", "exec", "web", "sleep", MARK)
    with subprocess.Popen(words) as client:
        wait_until(sleeps, SEEN_WAIT_S, "it runs")
        client.kill()
    wait_until(lambda: not sleeps(), SEEN_WAIT_S, "it was hung up on")

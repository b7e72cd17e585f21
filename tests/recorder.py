"""What tests run of docker and swarmctl: `pytest -p tests.recorder --record-commands FILE`.

FILE gets a line of JSON for each command (`test`, `argv` from the client's name on, `code`: none
where a terminal ran it) and, behind those of each phase of a test, one with `phase` and `outcome`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

OURS = "swarmctl.main"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-commands", metavar="FILE", help="append the clients' command lines")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--record-commands")
    if path is None:
        return
    recorder = Recorder(path)
    config.pluginmanager.register(recorder)
    subprocess.Popen = recorder.popen()  # type: ignore[misc,assignment]
    sys.addaudithook(recorder.heard)


def of_a_client(argv: Sequence[Any]) -> list[str] | None:
    """Return the line from the client's name on; `nsenter` and its like may stand before it."""
    words = [str(word) for word in argv]
    for at, word in enumerate(words):
        if word == OURS:
            return ["swarmctl", *words[at + 1 :]]
        if (name := os.path.basename(word)) in ("docker", "swarmctl"):
            return [name, *words[at + 1 :]]
    return None


class Recorder:
    """Writes the file; the test is the one that runs, also while its fixtures are made."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._test = self._last = ""

    def write(self, **line: object) -> None:
        text = json.dumps({"test": self._test, **line}) + "\n"
        if text != self._last:  # a loop that waits, an exec that looks along PATH
            self._last = text
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(text)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._test = nodeid

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.write(phase=report.when, outcome=report.outcome)

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take note of a terminal's program: its process is forked and becomes it."""
        if event == "os.exec" and (line := of_a_client(arguments[1])):
            self.write(argv=line, code=None)

    def popen(self) -> type[subprocess.Popen[Any]]:
        """Return a Popen that takes note of how a client ended."""
        recorder = self

        class Recorded(subprocess.Popen):  # type: ignore[type-arg]
            @property  # type: ignore[explicit-override]
            def returncode(self) -> int | None:
                return self.__dict__.get("returncode")

            @returncode.setter
            def returncode(self, code: int | None) -> None:
                known = self.__dict__.get("returncode")
                self.__dict__["returncode"] = code
                if known is not None or code is None or not isinstance(self.args, (list, tuple)):
                    return
                if line := of_a_client(self.args):
                    recorder.write(argv=line, code=code)

        return Recorded

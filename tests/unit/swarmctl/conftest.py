"""Fixtures: a daemon, and the client in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from swarmctl.main import main
from tests.unit.swarmctl.daemon import Daemon


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as running:
        yield running


@pytest.fixture
def ctl(
    daemon: Daemon,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Run:
    """Run one command line against the daemon, with logins of its own."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))

    def run(*words: str) -> Result:
        code = main(["-H", daemon.host, *words])
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run

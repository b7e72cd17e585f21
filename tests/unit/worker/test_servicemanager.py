"""What systemd is asked to run and told."""

import socket
from pathlib import Path

import pytest

from swarmapi.errors import InvalidArgument
from worker import servicemanager
from worker.config import load


def test_the_supervisor_is_a_unit_of_its_own_with_a_cgroup_to_divide() -> None:
    command = servicemanager.starter("swarm-runtime")
    assert command[0] == "systemd-run"
    assert "--unit=swarm-runtime" in command
    assert {"--property=Delegate=yes", "--service-type=notify"} <= set(command)
    assert servicemanager.starter("") == []


def test_readiness_is_told_where_somebody_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    servicemanager.notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        servicemanager.notify("READY=1")
        assert manager.recv(64) == b"READY=1"


@pytest.mark.parametrize("unit", ["no such", "a/b", ".."])
def test_what_names_no_unit_is_refused(unit: str) -> None:
    with pytest.raises(InvalidArgument, match="supervisor-unit"):
        load([f"--supervisor-unit={unit}"], {})


def test_a_group_that_is_not_there_is_refused_only_where_it_is_named() -> None:
    assert load([], {}).group == "swarm"
    assert load(["-G", "root"], {}).group == "root"
    with pytest.raises(InvalidArgument, match="there is no group 'nobody-here'"):
        load(["--group=nobody-here"], {})

"""`swarmd check`: findings, what they cost, and how they are told."""

import json
import os
from pathlib import Path

import pytest

from worker import check
from worker.check import Finding, cgroup_findings
from worker.config import load


def test_v2_is_read_from_its_root(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu io memory\n")
    found = {one.name: one for one in cgroup_findings(tmp_path)}
    assert found["cgroups"] == Finding("cgroups", "ok", "v2: memory cpu io")
    assert found["cgroup pids"].cost == "--pids-limit is refused"
    assert found["cgroup cpuset"].level == "note"


def test_v1_is_read_from_its_hierarchies(tmp_path: Path) -> None:
    for name in ("cpu,cpuacct", "memory", "pids", "cpuset", "blkio", "unified"):
        (tmp_path / name).mkdir()
    assert cgroup_findings(tmp_path) == [Finding("cgroups", "ok", "v1: memory pids cpu cpuset io")]


def test_no_controllers_at_all_is_no_place_for_containers(tmp_path: Path) -> None:
    (found,) = cgroup_findings(tmp_path)
    assert found.level == "missing"


def test_what_is_missing_is_told_with_its_cost_and_summed_up() -> None:
    found = [
        Finding("kernel", "ok", "Linux 6.1", "never told"),
        Finding("vxlan", "note", "not supported", "no overlays"),
        Finding("veth", "missing", "not supported", "no network"),
    ]
    assert list(check.lines(found)) == [
        "ok      kernel  Linux 6.1",
        "note    vxlan   not supported: no overlays",
        "missing veth    not supported: no network",
        "1 missing, 1 to note, 1 as they should be",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_this_machine_is_looked_at_and_left_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    links = sorted(os.listdir("/sys/class/net"))
    root = tmp_path / "not" / "there"
    status = check.main(load([f"--data-root={root}"], {}), as_json=True)
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert {"kernel", "cgroups", "nftables", "vxlan", "storage overlay2", "clock"} <= set(found)
    assert found["nftables"]["level"] == "ok"
    assert status == any(one["level"] == "missing" for one in found.values())
    assert not root.exists()
    assert sorted(os.listdir("/sys/class/net")) == links

"""secret and config commands: their calls and what they print."""

import base64
import json
from pathlib import Path

import pytest

from tests.unit.swarmctl.conftest import Run
from tests.unit.swarmctl.daemon import Daemon, Reply

AT = "2026-11-24T02:19:15.781386839Z"
SHOWN = {
    "ID": "s" * 25,
    "Version": {"Index": 7},
    "CreatedAt": AT,
    "UpdatedAt": AT,
    "Revision": 2,
    "Spec": {"Name": "pw", "Labels": {"a": "b"}},
}


@pytest.mark.parametrize("kind", ["secret", "config"])
def test_create_ls_inspect_update_rm(daemon: Daemon, ctl: Run, tmp_path: Path, kind: str) -> None:
    daemon.on("POST", f"/{kind}s/create", {"ID": "new"})
    daemon.on("GET", f"/{kind}s", [SHOWN])
    daemon.on("GET", f"/{kind}s/pw", SHOWN)
    daemon.on("POST", f"/{kind}s/{SHOWN['ID']}/update", Reply(200))
    daemon.on("DELETE", f"/{kind}s/pw", Reply(204))
    file = tmp_path / "value"
    file.write_bytes(b"\x00hunter2\n")
    line = ["-l", "x=y", "--template-driver", "golang", "--replace", "pw", str(file)]
    assert ctl(kind, "create", *line).out == "new\n"
    assert daemon.body(f"/{kind}s/create") == {
        "Name": "pw",
        "Labels": {"x": "y"},
        "Data": base64.b64encode(b"\x00hunter2\n").decode(),
        "Templating": {"Name": "golang"},
    }
    rows = ctl(kind, "ls").out.splitlines()
    assert rows[0].split() == ["ID", "NAME", "REVISION", "CREATED", "UPDATED"]
    assert rows[1].split()[:3] == [SHOWN["ID"], "pw", "2"]
    assert ctl(kind, "ls", "-q").out == f"{SHOWN['ID']}\n"
    assert ctl(kind, "ls", "--format", "{{.Name}} {{.Labels}}").out == "pw a=b\n"
    assert json.loads(ctl(kind, "inspect", "pw").out) == [SHOWN]
    assert "- a=b" in ctl(kind, "inspect", "--pretty", "pw").out
    assert ctl(kind, "update", "--label-add", "c=d", "--label-rm", "a", "pw").out == "pw\n"
    assert daemon.body(f"/{kind}s/{SHOWN['ID']}/update")["Labels"] == {"c": "d"}
    result = ctl(kind, "rm", "pw", "nosuch")
    assert (result.code, result.out) == (1, "pw\n")


def test_a_pretty_config_shows_its_data(daemon: Daemon, ctl: Run) -> None:
    data = base64.b64encode(b"port = 80").decode()
    daemon.on("GET", "/configs/c", {**SHOWN, "Spec": {"Name": "c", "Data": data}})
    assert ctl("config", "inspect", "--pretty", "c").out.endswith("Data:\nport = 80\n")


def test_a_service_refers_to_them_by_name(daemon: Daemon, ctl: Run) -> None:
    daemon.on("POST", "/services/create", {"ID": "web1"})
    swap = "service create -d --no-resolve-image --secret source=pw,swap,signal=HUP img"
    assert ctl(*swap.split()).code == 0
    (swapped,) = daemon.body("/services/create")["TaskTemplate"]["ContainerSpec"]["Secrets"]
    assert (swapped["Follow"], swapped["Swap"], swapped["Signal"]) == (True, True, "HUP")
    assert "signal needs swap" in ctl("service", "create", "--secret", "source=p,signal=1", "i").err
    daemon.seen.clear()
    line = "service create -d --no-resolve-image --secret pw --config source=conf,target=/etc/c"
    full = "--secret source=pw,target=/k/pw,uid=5,gid=6,mode=0400,follow"
    assert ctl(*line.split(), *full.split(), "img").code == 0
    container = daemon.body("/services/create")["TaskTemplate"]["ContainerSpec"]
    plain = {"UID": "0", "GID": "0", "Mode": 0o444}
    assert container["Secrets"] == [
        {"File": {"Name": "pw", **plain}, "SecretName": "pw", "Follow": False},
        {
            "File": {"Name": "/k/pw", "UID": "5", "GID": "6", "Mode": 0o400},
            "SecretName": "pw",
            "Follow": True,
        },
    ]
    assert container["Configs"] == [
        {"File": {"Name": "/etc/c", **plain}, "ConfigName": "conf", "Follow": False}
    ]
    service = {
        "ID": "web1",
        "Version": {"Index": 3},
        "Spec": {"Name": "web", "TaskTemplate": {"ContainerSpec": container}},
    }
    daemon.on("GET", "/services/web", service)
    daemon.on("POST", "/services/web1/update", {"Warnings": None})
    assert (
        ctl(*["service", "update", "-d", "--secret-rm", "pw", "--config-add", "two", "web"]).code
        == 0
    )
    changed = daemon.body("/services/web1/update")["TaskTemplate"]["ContainerSpec"]
    assert changed["Secrets"] == []
    assert [c["ConfigName"] for c in changed["Configs"]] == ["conf", "two"]


def test_a_service_is_shown_for_people_as_docker_does(daemon: Daemon, ctl: Run) -> None:
    config = {
        "Parallelism": 1,
        "FailureAction": "pause",
        "Monitor": 5 * 10**9,
        "MaxFailureRatio": 0,
        "Order": "stop-first",
    }
    file = {"UID": "0", "GID": "0", "Mode": 0o444}
    container = {
        "Image": "busybox:latest",
        "Args": ["sleep", "9"],
        "Env": ["A=1"],
        "Init": False,
        "Configs": [{"File": {"Name": "/etc/cfg", **file}, "ConfigName": "cfg1"}],
        "Secrets": [{"File": {"Name": "s", **file}, "SecretName": "sec1", "Follow": True}],
    }
    template = {"ContainerSpec": container, "Networks": [{"Target": "net1"}]}
    spec = {
        "Name": "web",
        "TaskTemplate": template,
        "Mode": {"Replicated": {"Replicas": 2}},
        "UpdateConfig": {**config, "Delay": 90 * 10**9},
        "RollbackConfig": config,
        "EndpointSpec": {"Mode": "vip"},
    }
    daemon.on("GET", "/networks/net1", {"Id": "net1", "Name": "ov1"})
    daemon.on("GET", "/services/web", {"ID": "web1", "Spec": spec})
    assert ctl("service", "inspect", "--pretty", "web").out == PRETTY
    assert ctl("service", "inspect", "--pretty", "--format", "x", "web").code == 1


PRETTY = """
ID:\t\tweb1
Name:\t\tweb
Service Mode:\tReplicated
 Replicas:\t2
Placement:
UpdateConfig:
 Parallelism:\t1
 Delay:\t\t1m30s
 On failure:\tpause
 Monitoring Period: 5s
 Max failure ratio: 0
 Update order:      stop-first
RollbackConfig:
 Parallelism:\t1
 On failure:\tpause
 Monitoring Period: 5s
 Max failure ratio: 0
 Rollback order:    stop-first
ContainerSpec:
 Image:\t\tbusybox:latest
 Args:\t\tsleep 9\x20
 Env:\t\tA=1\x20
 Init:\t\tfalse
Configs:
 Target:\t/etc/cfg
  Source:\tcfg1
Secrets:
 Target:\ts
  Source:\tsec1 (followed)
Resources:
Networks: ov1\x20
Endpoint Mode:\tvip

"""

"""swarm, node, network and task commands: their calls and what they print."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.swarmctl.conftest import Run
from tests.unit.swarmctl.daemon import Daemon, Reply, refusal

NODE = {
    "ID": "n1aaaaaaaaaaaaaaaaaaaaaaa",
    "Version": {"Index": 9},
    "Spec": {"Role": "manager", "Availability": "active", "Labels": {"old": "1", "kept": "2"}},
    "Description": {"Hostname": "alpha", "Engine": {"EngineVersion": "28.2.2"}},
    "Status": {"State": "ready", "Addr": "10.0.0.1"},
    "ManagerStatus": {"Leader": True, "Reachability": "reachable", "Addr": "10.0.0.1:2377"},
}
WORKER = {
    **NODE,
    "ID": "n2bbbbbbbbbbbbbbbbbbbbbbb",
    "Spec": {"Role": "worker", "Availability": "drain"},
    "Description": {"Hostname": "beta"},
    "ManagerStatus": None,
}
SWARM = {
    "Version": {"Index": 4},
    "Spec": {"Name": "default"},
    "JoinTokens": {"Worker": "SWMTKN-1-w", "Manager": "SWMTKN-1-m"},
}
INFO = {"Swarm": {"NodeID": NODE["ID"], "ControlAvailable": True}}


def serve_cluster(daemon: Daemon) -> None:
    daemon.on("POST", "/swarm/init", NODE["ID"])
    daemon.on("GET", "/swarm", SWARM)
    daemon.on("GET", "/info", INFO)
    daemon.on("GET", "/nodes", [NODE, WORKER])
    daemon.on("GET", f"/nodes/{NODE['ID']}", NODE)


def test_init_prints_the_join_command(daemon: Daemon, ctl: Run) -> None:
    serve_cluster(daemon)
    result = ctl(
        "swarm", "init", "--advertise-addr", "10.0.0.1", "--default-addr-pool", "10.20.0.0/16"
    )
    assert result.code == 0
    assert "Swarm initialized: current node (n1aaa" in result.out
    assert "    swarmctl swarm join --token SWMTKN-1-w 10.0.0.1:2377\n" in result.out
    body = daemon.body("/swarm/init")
    assert body["AdvertiseAddr"] == "10.0.0.1"
    assert body["DefaultAddrPool"] == ["10.20.0.0/16"]
    assert (body["SubnetSize"], body["ListenAddr"]) == (24, "0.0.0.0:2377")


def test_join_fills_in_the_port_and_says_what_it_became(daemon: Daemon, ctl: Run) -> None:
    daemon.on("POST", "/swarm/join", None)
    daemon.on("GET", "/info", {"Swarm": {"ControlAvailable": False}})
    result = ctl("swarm", "join", "--token", "T", "10.0.0.1")
    assert result.out == "This node joined a swarm as a worker.\n"
    body = daemon.body("/swarm/join")
    assert (body["RemoteAddrs"], body["JoinToken"]) == (["10.0.0.1:2377"], "T")


def test_leave_passes_force_and_the_daemons_refusal(daemon: Daemon, ctl: Run) -> None:
    def leave(seen: object) -> object:
        return None if daemon.seen[-1].query.get("force") else refusal(503, "last manager")

    daemon.on("POST", "/swarm/leave", leave)
    refused = ctl("swarm", "leave")
    assert (refused.code, refused.err) == (1, "Error response from daemon: last manager\n")
    assert ctl("swarm", "leave", "-f").out == "Node left the swarm.\n"


def test_join_token_quiet_and_rotated(daemon: Daemon, ctl: Run) -> None:
    serve_cluster(daemon)
    daemon.on("POST", "/swarm/update", None)
    assert ctl("swarm", "join-token", "-q", "manager").out == "SWMTKN-1-m\n"
    assert "rotated worker join token" in ctl("swarm", "join-token", "--rotate", "worker").out
    (update,) = (seen for seen in daemon.seen if seen.path == "/swarm/update")
    assert update.query == {"version": "4", "rotateWorkerToken": "true"}
    assert update.body == {"Name": "default"}


def test_node_ls_is_dockers_table(daemon: Daemon, ctl: Run) -> None:
    serve_cluster(daemon)
    head, first, second = ctl("node", "ls").out.splitlines()
    assert head == (
        "ID                            HOSTNAME   STATUS    AVAILABILITY   "
        "MANAGER STATUS   ENGINE VERSION"
    )
    assert first == (
        "n1aaaaaaaaaaaaaaaaaaaaaaa *   alpha      Ready     Active         Leader           28.2.2"
    ).replace("n1aaaaaaaaaaaaaaaaaaaaaaa *", f"{NODE['ID']} *")
    assert second.split()[1:] == ["beta", "Ready", "Drain"]


def test_node_ls_quiet_filter_and_template(daemon: Daemon, ctl: Run) -> None:
    serve_cluster(daemon)
    assert ctl("node", "ls", "-q", "--filter", "role=worker").out.splitlines()[0] == NODE["ID"]
    assert json.loads(daemon.seen[-1].query["filters"]) == {"role": {"worker": True}}
    out = ctl("node", "ls", "--format", "{{.Hostname}}:{{.Self}}").out
    assert out == "alpha:true\nbeta:false\n"


def test_node_update_sends_the_whole_spec_with_its_version(daemon: Daemon, ctl: Run) -> None:
    daemon.on("GET", "/nodes/alpha", NODE)
    path = f"/nodes/{NODE['ID']}/update"
    daemon.on("POST", path, None)
    line = ("--availability", "drain", "--label-add", "zone=a", "--label-rm", "old", "alpha")
    assert ctl("node", "update", *line).out == "alpha\n"
    assert daemon.seen[-1].query == {"version": "9"}
    assert daemon.body(path) == {
        "Role": "manager",
        "Availability": "drain",
        "Labels": {"kept": "2", "zone": "a"},
    }


def test_promote_demote_and_rm(daemon: Daemon, ctl: Run) -> None:
    daemon.on("GET", "/nodes/alpha", NODE)
    daemon.on("POST", f"/nodes/{NODE['ID']}/update", None)
    daemon.on("DELETE", "/nodes/alpha", None)
    assert ctl("node", "promote", "alpha").out == "Node alpha is already a manager.\n"
    assert ctl("node", "demote", "alpha").out == "Manager alpha demoted in the swarm.\n"
    assert daemon.seen[-1].body["Role"] == "worker"
    assert ctl("node", "rm", "-f", "alpha").out == "alpha\n"
    assert daemon.seen[-1].query == {"force": "1"}


def test_node_inspect_self_and_missing(daemon: Daemon, ctl: Run) -> None:
    serve_cluster(daemon)
    result = ctl("node", "inspect", "--format", "{{.Spec.Role}}", "self", "ghost")
    assert (result.code, result.out) == (1, "manager\n")
    assert result.err == "Error response from daemon: page /nodes/ghost not found\n"


def test_network_create_ls_inspect_rm(daemon: Daemon, ctl: Run) -> None:
    network = {"Id": "net1" + "0" * 21, "Name": "ov1", "Driver": "overlay", "Scope": "swarm"}
    daemon.on("POST", "/networks/create", {"Id": network["Id"]})
    daemon.on("GET", "/networks", [network])
    daemon.on("GET", "/networks/ov1", network)
    daemon.on("DELETE", "/networks/ov1", Reply(204))
    line = ("-d", "overlay", "--attachable", "--subnet", "10.7.0.0/24", "--opt", "a=b", "ov1")
    assert ctl("network", "create", *line).out == network["Id"] + "\n"
    body = daemon.body("/networks/create")
    assert (body["Driver"], body["Attachable"], body["Options"]) == ("overlay", True, {"a": "b"})
    assert body["IPAM"]["Config"] == [{"Subnet": "10.7.0.0/24"}]
    assert ctl("network", "ls").out.splitlines()[1].split() == [
        "net100000000",
        "ov1",
        "overlay",
        "swarm",
    ]
    assert json.loads(ctl("network", "inspect", "ov1").out) == [network]
    result = ctl("network", "rm", "ov1", "nosuch")
    assert (result.code, result.out) == (1, "ov1\n")
    assert ctl("network", "create", "--gateway", "10.7.0.1", "x").code == 1


def test_network_connect_disconnect_prune(daemon: Daemon, ctl: Run) -> None:
    daemon.on("POST", "/networks/n1/connect", Reply(200))
    daemon.on("POST", "/networks/n1/disconnect", Reply(200))
    daemon.on("POST", "/networks/prune", {"NetworksDeleted": ["n1", "n2"]})
    line = ("--alias", "db", "--ip", "10.0.0.5", "--gw-priority", "2", "n1", "c1")
    assert ctl("network", "connect", *line).code == 0
    endpoint = {"Aliases": ["db"], "GwPriority": 2, "IPAMConfig": {"IPv4Address": "10.0.0.5"}}
    assert daemon.body("/networks/n1/connect") == {"Container": "c1", "EndpointConfig": endpoint}
    assert ctl("network", "disconnect", "-f", "n1", "c1").code == 0
    assert daemon.body("/networks/n1/disconnect") == {"Container": "c1", "Force": True}
    pruned = ctl("network", "prune", "-f", "--filter", "until=1h").out
    assert pruned == "Deleted Networks:\nn1\nn2\n\n"
    assert ctl("network", "rm", "-f", "nosuch").code == 0
    aux = ("--subnet", "10.1.0.0/24", "--ip-range", "10.1.0.128/25", "--aux-address", "r=10.1.0.9")
    daemon.on("POST", "/networks/create", {"Id": "n3"})
    ctl("network", "create", *aux, "n3")
    assert daemon.body("/networks/create")["IPAM"]["Config"] == [
        {
            "Subnet": "10.1.0.0/24",
            "IPRange": "10.1.0.128/25",
            "AuxiliaryAddresses": {"r": "10.1.0.9"},
        }
    ]
    both = ("--subnet", "fd00::/64", "--subnet", "10.1.0.0/24", "--gateway", "10.1.0.1")
    more = ("--aux-address", "r=fd00::9", "--ipv6", "--ipv4=false")
    ctl("network", "create", *both, *more, "n3")
    body = daemon.seen[-1].body
    assert (body["EnableIPv4"], body["EnableIPv6"]) == (False, True)
    assert body["IPAM"]["Config"] == [
        {"Subnet": "fd00::/64", "AuxiliaryAddresses": {"r": "fd00::9"}},
        {"Subnet": "10.1.0.0/24", "Gateway": "10.1.0.1"},
    ]
    for odd, words in (
        (("--gateway", "10.2.0.1"), "no --subnet"),
        (("--gateway", "10.1.0.1", "--gateway", "10.1.0.2"), "has one"),
        (("--gateway", "x"), "x"),
    ):
        refused = ctl("network", "create", "--subnet", "10.1.0.0/24", *odd, "n4")
        assert (refused.code, words in refused.err) == (1, True)
    ctl("network", "connect", "--ip6", "fd00::5", "n1", "c1")
    asked = daemon.seen[-1].body["EndpointConfig"]
    assert asked["IPAMConfig"] == {"IPv6Address": "fd00::5"}


def test_volume_commands(daemon: Daemon, ctl: Run) -> None:
    volume = {"Name": "v1", "Driver": "local", "Mountpoint": "/v", "Labels": {"q": "1"}}
    daemon.on("POST", "/volumes/create", volume)
    daemon.on("GET", "/volumes", {"Volumes": [volume], "Warnings": None})
    daemon.on("GET", "/volumes/v1", volume)
    daemon.on("DELETE", "/volumes/v1", Reply(204))
    daemon.on("POST", "/volumes/prune", {"VolumesDeleted": ["v1"], "SpaceReclaimed": 1500})
    assert ctl("volume", "create", "--label", "q=1", "-o", "type=tmpfs", "v1").out == "v1\n"
    body = daemon.body("/volumes/create")
    assert (body["Labels"], body["DriverOpts"]) == ({"q": "1"}, {"type": "tmpfs"})
    assert ctl("volume", "ls").out.splitlines() == ["DRIVER    VOLUME NAME", "local     v1"]
    assert ctl("volume", "ls", "-q").out == "v1\n"
    assert json.loads(ctl("volume", "inspect", "v1").out) == [volume]
    assert ctl("volume", "rm", "-f", "v1").out == "v1\n"
    pruned = ctl("volume", "prune", "-a", "-f").out
    assert pruned == "Deleted Volumes:\nv1\n\nTotal reclaimed space: 1.5kB\n"
    assert ctl("volume", "create", "--name", "a", "b").code == 125
    assert ctl("volume", "create", "a", "b").code == 1


def test_container_port(daemon: Daemon, ctl: Run) -> None:
    bound = [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}]
    ports = {"80/tcp": bound, "9/udp": [{"HostIp": "127.0.0.1", "HostPort": "99"}], "7/tcp": None}
    daemon.on("GET", "/containers/c1/json", {"NetworkSettings": {"Ports": ports}})
    lines = ["9/udp -> 127.0.0.1:99", "80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080"]
    assert ctl("port", "c1").out.splitlines() == lines
    assert ctl("container", "port", "c1", "80").out == "0.0.0.0:8080\n[::]:8080\n"
    result = ctl("port", "c1", "7")
    assert (result.code, result.err) == (
        1,
        "Error: No public port '7' published for c1\n",
    )


def test_task_explain_prints_refusals_nodes_and_remedies(daemon: Daemon, ctl: Run) -> None:
    daemon.on("GET", "/tasks", [{"ID": "t1", "Slot": 2, "CreatedAt": "2026-01-01T00:00:00Z"}])
    refusals = [
        {"Filter": "resources", "Count": 3, "Reason": "needs 512 MiB", "Examples": ["alpha", "b"]},
    ]
    ready = {"Filter": "ready", "Pass": True, "Detail": "ready and active", "Remedy": ""}
    short = {"Filter": "resources", "Pass": False, "Detail": "300 MiB free", "Remedy": "212 MiB"}
    counts = {"ServiceTasks": 1, "Tasks": 5, "Failures": 0, "Preference": 0}
    row = {"Node": "alpha", "Here": False, "Fits": False, "Filters": [ready, short], **counts}
    answer = {
        "State": "pending",
        "Message": "no suitable node",
        "Refusals": refusals,
        "Table": [row],
    }
    daemon.on("GET", "/swarm/v1/tasks/t1/explain", answer)
    lines = ctl("task", "explain", "web.2").out.splitlines()
    assert lines[:2] == ["task t1: pending, 1 nodes considered", "no suitable node"]
    assert lines[2].split() == ["NODES", "FILTER", "REASON", "EXAMPLES"]
    assert lines[3].split(maxsplit=2) == ["3", "resources", "needs 512 MiB   alpha, b"]
    assert lines[6].split(maxsplit=6)[:2] == ["alpha", "no"]
    assert "ok: ready and active" in lines[6]
    assert "NO: 300 MiB free" in lines[6]
    assert lines[-2:] == ["what would make it fit:", "  alpha: 212 MiB"]
    assert ctl("task", "explain", "web.7").err == "service web has no task in slot 7\n"


def test_stories_are_printed_by_line(daemon: Daemon, ctl: Run) -> None:
    line = {
        "Time": "2026-01-01T00:00:00.5Z",
        "What": "failed",
        "Reason": "exit code 3",
        "Task": "web.1",
        "TaskID": "t1",
    }
    daemon.on("GET", "/swarm/v1/tasks/t1/story", [line])
    daemon.on("GET", "/swarm/v1/services/web/story", [line])
    head, row = ctl("task", "story", "t1").out.splitlines()
    assert head.split() == ["TIME", "WHAT", "REASON"]
    assert row.split(maxsplit=3) == ["2026-01-01", "00:00:00", "failed", "exit code 3"]
    assert "web.1" in ctl("service", "story", "web").out
    assert ctl("task", "story", "--format", "{{.What}}", "t1").out == "failed\n"


def test_cluster_update_keeps_the_other_settings(daemon: Daemon, ctl: Run) -> None:
    spec = {
        "Name": "default",
        "Labels": {"a": "b"},
        "Orchestration": {"TaskHistoryRetentionLimit": 3},
    }
    daemon.on("GET", "/swarm", {"Version": {"Index": 7}, "Spec": spec})
    daemon.on("POST", "/swarm/update", {})
    assert ctl("cluster", "update", "--placement-strategy", "binpack").out == "Cluster updated.\n"
    assert daemon.body("/swarm/update") == {
        **spec,
        "Labels": {"a": "b", "placement.strategy": "binpack"},
    }


def test_autolock_is_told_with_its_key(ctl: Run, daemon: Daemon) -> None:
    spec = {"EncryptionConfig": {"AutoLockManagers": False}, "Labels": {"a": "b"}}
    daemon.on("GET", "/swarm", {"Version": {"Index": 7}, "Spec": spec})
    daemon.on("POST", "/swarm/update", {})
    daemon.on("GET", "/swarm/unlockkey", {"UnlockKey": "SWMKEY-1-k"})
    updated = ctl("swarm", "update", "--autolock")
    assert "    SWMKEY-1-k\n" in updated.out
    assert daemon.body("/swarm/update") == {
        "EncryptionConfig": {"AutoLockManagers": True},
        "Labels": {"a": "b"},
    }
    assert "autolock is not turned on" in ctl("swarm", "unlock-key", "--rotate").err
    assert ctl("swarm", "unlock-key", "-q").out == "SWMKEY-1-k\n"
    assert "nothing to change" in ctl("swarm", "update").err


def test_managers_that_want_the_unlock_key_of_before_are_named(ctl: Run, daemon: Daemon) -> None:
    spec = {"EncryptionConfig": {"AutoLockManagers": True}}
    daemon.on("GET", "/swarm", {"Version": {"Index": 7}, "Spec": spec})
    daemon.on("POST", "/swarm/update", {"Warnings": ["manager m2 still wants it"]})
    daemon.on("GET", "/swarm/unlockkey", {"UnlockKey": "SWMKEY-1-k"})
    rotated = ctl("swarm", "unlock-key", "--rotate", "--quiet")
    assert (rotated.code, rotated.out) == (0, "SWMKEY-1-k\n")
    assert rotated.err == "manager m2 still wants it\n"


@pytest.mark.parametrize("command", ["update", "init"])
def test_every_setting_of_docker_is_a_flag(ctl: Run, daemon: Daemon, command: str) -> None:
    serve_cluster(daemon)
    spec = {"EncryptionConfig": {"AutoLockManagers": False}, "Raft": {"ElectionTick": 10}}
    swarm = {"Version": {"Index": 7}, "Spec": spec, "JoinTokens": {"Worker": "t"}}
    daemon.on("GET", "/swarm", swarm)
    daemon.on("POST", "/swarm/update", {})
    daemon.on("POST", "/swarm/init", NODE["ID"])
    flags = ["--cert-expiry=2h", "--dispatcher-heartbeat=3s", "--task-history-limit=0"]
    flags += ["--snapshot-interval=77", "--max-snapshots=2"]
    assert ctl("swarm", command, *flags).code == 0
    body = daemon.body(f"/swarm/{command}")
    settings = body["Spec"] if command == "init" else body
    kept: dict[str, Any] = {} if command == "init" else spec
    assert settings == {
        **kept,
        "CAConfig": {"NodeCertExpiry": 2 * 3600 * 10**9},
        "Dispatcher": {"HeartbeatPeriod": 3 * 10**9},
        "Orchestration": {"TaskHistoryRetentionLimit": 0},
        "Raft": {**kept.get("Raft", {}), "SnapshotInterval": 77, "KeepOldSnapshots": 2},
    }


def test_unlock_reads_the_key_and_refuses_where_nothing_is_locked(
    ctl: Run, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.on("POST", "/swarm/unlock", None)
    for state, said in (("inactive", "not part of a swarm"), ("active", "swarm is not locked")):
        daemon.on("GET", "/info", {"Swarm": {"LocalNodeState": state}})
        assert said in ctl("swarm", "unlock").err
    daemon.on("GET", "/info", {"Swarm": {"LocalNodeState": "locked"}})
    monkeypatch.setattr("sys.stdin", io.StringIO("SWMKEY-1-k\n"))
    assert ctl("swarm", "unlock").code == 0
    assert daemon.body("/swarm/unlock") == {"UnlockKey": "SWMKEY-1-k"}


def test_drain_waits_until_the_node_is_empty(daemon: Daemon, ctl: Run) -> None:
    serve_cluster(daemon)
    running = {"ID": "t1", "Status": {"State": "running"}, "DesiredState": "running"}
    ended = {"ID": "t1", "Status": {"State": "shutdown"}, "DesiredState": "shutdown"}
    answers = iter([[running], [running], [ended]])
    daemon.on("POST", f"/nodes/{NODE['ID']}/update", None)
    daemon.on("GET", "/tasks", lambda seen: next(answers))
    result = ctl("node", "drain", "--wait", NODE["ID"])
    assert (result.code, result.out, result.err) == (0, f"{NODE['ID']}\n", "1 task left\n")
    assert daemon.body(f"/nodes/{NODE['ID']}/update")["Availability"] == "drain"
    assert list(answers) == []


def test_drain_gives_up_with_code_3(daemon: Daemon, ctl: Run) -> None:
    serve_cluster(daemon)
    running = {"ID": "t1", "Status": {"State": "running"}, "DesiredState": "running"}
    daemon.on("POST", f"/nodes/{NODE['ID']}/update", None)
    daemon.on("GET", "/tasks", [running])
    result = ctl("node", "drain", "--wait", "--timeout", "1ms", NODE["ID"])
    assert result.code == 3
    assert result.err.endswith("still runs t1\n")
    update = ctl("node", "update", "--wait", "--availability", "pause", NODE["ID"])
    assert (update.code, update.err) == (1, "--wait goes with --availability drain\n")


def test_ls_tells_of_a_pause_and_reschedule_ends_it(daemon: Daemon, ctl: Run) -> None:
    serve_cluster(daemon)
    daemon.on("GET", "/nodes", [NODE, {**WORKER, "Status": {"State": "down"}}])
    message = "rescheduling is paused: 4 of 6 nodes disappeared within a minute"
    daemon.on("GET", "/swarm/v1/rescheduling", {"Paused": True, "Message": message})
    daemon.on("POST", "/swarm/v1/rescheduling/resume", None)
    assert message in ctl("node", "ls").err
    assert ctl("node", "reschedule").out == "Rescheduling goes on.\n"
    assert daemon.seen[-1].method == "POST"


USAGE = {
    "NodeID": "n1", "LeaderID": "", "Term": 4, "Members": {"n1": "a", "n2": "b", "n3": "c"},
    "Entries": 90, "FirstIndex": 11, "LastIndex": 100, "CommitIndex": 97, "AppliedIndex": 97,
    "Segments": 1, "LogBytes": 2000, "SnapshotIndex": 10, "SnapshotBytes": 5000,
    "LastCompactionNs": 0, "LastChangeNs": 0,
}  # fmt: skip


def test_recover_tells_what_may_be_lost_and_asks(
    ctl: Run, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.on("GET", "/swarm/v1/raft", USAGE)
    daemon.on("POST", "/swarm/init", "n1")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    refused = ctl("swarm", "recover")
    assert refused.code == 1
    assert "3 entries are not known to be committed" in refused.out
    assert "after entry 100: those are lost" in refused.out
    assert all(seen.path != "/swarm/init" for seen in daemon.seen)
    assert "is its only manager" in ctl("swarm", "recover", "--force").out
    assert daemon.body("/swarm/init") == {"ForceNewCluster": True, "AdvertiseAddr": ""}
    shown = ctl("swarm", "df").out
    assert "90 (11 to 100)" in shown
    assert "never" in shown
    daemon.on("GET", "/swarm/v1/raft", {**USAGE, "DiskFull": "the disk is full (/s)"})
    assert "WARNING: the disk is full (/s)" in ctl("swarm", "df").err
    daemon.on("GET", "/swarm/v1/raft", {**USAGE, "Returning": True})
    assert "it comes back with the others'" in ctl("swarm", "df").err


def test_the_root_is_rotated_and_progress_tells_who_is_late(
    ctl: Run, daemon: Daemon, tmp_path: Path
) -> None:
    spec = {"CAConfig": {"NodeCertExpiry": 5, "ForceRotate": 2}}
    tls = {"TrustRoot": "-----BEGIN", "CertIssuerPublicKey": "new"}
    swarm = {"Version": {"Index": 7}, "Spec": spec, "TLSInfo": tls, "RootRotationInProgress": False}
    node = {"Hostname": "w1", "TLSInfo": {"CertIssuerPublicKey": "old"}}
    daemon.on("GET", "/swarm", swarm)
    daemon.on("GET", "/nodes", [{"Description": node, "Status": {"State": "down"}}])
    daemon.on("POST", "/swarm/update", "")
    done = ctl("swarm", "ca", "--rotate", "--skip-down")
    assert done.out == "-----BEGIN\n"
    assert "0 of 1 nodes; waiting for w1 (down)" in done.err
    assert daemon.body("/swarm/update")["CAConfig"] == {"NodeCertExpiry": 5, "ForceRotate": 3}
    (seen,) = [s for s in daemon.seen if s.path == "/swarm/update"]
    assert seen.query["skipDownNodes"] == "true"
    assert ctl("swarm", "ca", "--rotate", "--detach").out == ""
    for words in (["--ca-cert", "x"], ["--ca-key", "x"], ["--external-ca", "x"]):
        assert ctl("swarm", "ca", "--rotate", *words).code == 1
    assert "cannot read" in ctl("swarm", "ca", "--rotate", "--ca-cert=/x", "--ca-key=/x").err


def test_a_backup_is_for_its_owner_and_comes_back_whole(
    ctl: Run, daemon: Daemon, tmp_path: Path
) -> None:
    daemon.on("GET", "/swarm/v1/backup", {"a": "backup"})
    spec = {"EncryptionConfig": {"AutoLockManagers": False}}
    daemon.on("GET", "/swarm", {"Version": {"Index": 7}, "Spec": spec})
    daemon.on("POST", "/swarm/v1/restore", "n9")
    file, key = tmp_path / "b", tmp_path / "k"
    assert "not encrypted" in ctl("swarm", "backup", str(file)).out
    assert json.loads(file.read_bytes()) == {"a": "backup"}
    assert file.stat().st_mode & 0o777 == 0o600
    assert not [path for path in tmp_path.iterdir() if ".part" in path.name]
    key.write_text("SWMKEY-1-k\n")
    told = ctl("swarm", "restore", str(file), "--unlock-key-file", str(key))
    assert "(n9) is its only manager" in told.out


def test_ca_shows_the_root_and_sets_how_long_certificates_hold(ctl: Run, daemon: Daemon) -> None:
    swarm = {"Version": {"Index": 7}, "Spec": {}, "TLSInfo": {"TrustRoot": "-----BEGIN\n"}}
    daemon.on("GET", "/swarm", swarm)
    daemon.on("POST", "/swarm/update", {})
    assert ctl("swarm", "ca", "--cert-expiry", "48h").out == "-----BEGIN\n"
    assert daemon.body("/swarm/update") == {"CAConfig": {"NodeCertExpiry": 48 * 3600 * 10**9}}


def test_check_network_prints_pairs_and_problems(daemon: Daemon, ctl: Run) -> None:
    pair = {"From": "a", "To": "b", "Underlay": 1500, "UnderlayFull": 1500, "Overlay": 0}
    pair |= {"OverlayFull": 1450, "RoundTripMicros": 250}
    nodes = [{"Node": "a", "ID": "1", "Answered": True, "Services": 2, "ServicesWell": 1}]
    found = {"Nodes": nodes, "Pairs": [pair], "Problems": []}
    daemon.on("POST", "/swarm/v1/network/check", lambda seen: found)
    result = ctl("cluster", "check", "network")
    head, row, services, end = result.out.splitlines()
    assert head.split() == ["FROM", "TO", "UNDERLAY", "OVERLAY", "ROUND", "TRIP"]
    assert row.split() == ["a", "b", "ok", "0", "of", "1450", "0.25", "ms"]
    assert services == "node a: 1 of 2 services answer from its containers"
    assert (result.code, end) == (0, "The network is whole.")
    found["Problems"] = [{"Where": "nodes a and b", "What": "no VXLAN", "Remedy": "open it"}]
    result = ctl("cluster", "check", "network", "-q")
    assert (result.code, result.out) == (1, "nodes a and b: no VXLAN\n    open it\n")
    assert ctl("cluster", "check", "network", "--format", "{{.From}}>{{.To}}").out == "a>b\n"
    assert ctl("cluster", "check", "disks").code != 0

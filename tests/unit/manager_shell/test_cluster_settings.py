"""Settings of the cluster: each is honoured, or refused by name."""

import msgspec
import pytest
from msgspec.structs import replace

from manager.api.render import cluster_spec_json
from manager.control.validate import check_cluster
from manager.store.changes import PutCluster
from swarmapi.errors import InvalidArgument, Unsupported
from swarmapi.model import defaults
from swarmapi.model.decode import decode_spec
from swarmapi.model.objects import Cluster
from swarmapi.model.spec import ClusterSpec, LogDriver, TaskDefaults
from tests.builders import World, node, spec


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"Raft":{"SnapshotInterval":1000001}}', "Raft.SnapshotInterval"),
        (b'{"Raft":{"KeepOldSnapshots":101}}', "Raft.KeepOldSnapshots"),
        (b'{"Raft":{"LogEntriesForSlowFollowers":-1}}', "Raft.LogEntriesForSlowFollowers"),
        (b'{"Raft":{"HeartbeatTick":2}}', "Raft.HeartbeatTick"),
        (b'{"Raft":{"ElectionTick":3}}', "Raft.ElectionTick"),
        (b'{"TaskDefaults":{"LogDriver":{"Name":"syslog"}}}', "TaskDefaults.LogDriver.Name"),
        (b'{"TaskDefaults":{"Runtime":"vm"}}', "TaskDefaults.Runtime"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(body: bytes, name: str) -> None:
    with pytest.raises((InvalidArgument, Unsupported), match=name):
        check_cluster(decode_spec(body, ClusterSpec))


def test_what_was_read_may_be_sent_back() -> None:
    driver = {"Name": "json-file", "Options": {"max-size": "1m"}}
    body = {
        "Raft": {"SnapshotInterval": 7, "KeepOldSnapshots": 2},
        "TaskDefaults": {"LogDriver": driver},
    }
    given = decode_spec(msgspec.json.encode(body), ClusterSpec)
    shown = cluster_spec_json(Cluster(id="c", spec=given))
    assert shown["TaskDefaults"] == {"LogDriver": driver}
    assert shown["Raft"] == {
        "SnapshotInterval": 7,
        "KeepOldSnapshots": 2,
        "LogEntriesForSlowFollowers": 500,
        "HeartbeatTick": 1,
        "ElectionTick": 10,
    }
    again = decode_spec(msgspec.json.encode(shown), ClusterSpec)
    check_cluster(again)
    assert cluster_spec_json(Cluster(id="c", spec=again)) == shown


def test_a_new_task_has_the_clusters_log_driver_and_an_old_one_keeps_its_own() -> None:
    world = World()
    world.add_nodes(node("n1"))
    world.put_service("web", spec(replicas=1))
    world.settle()
    (old,) = world.view.tasks.values()
    assert old.log_driver is None
    cluster = world.view.cluster
    assert cluster is not None
    settings = ClusterSpec(task_defaults=TaskDefaults(log_driver=LogDriver(name="none")))
    world.commit(PutCluster(cluster=replace(cluster, spec=settings)))
    world.put_service("web", spec(replicas=2))
    world.settle()
    assert {t.log_driver.name if t.log_driver else "" for t in world.view.tasks.values()} == {
        "",
        "none",
    }


@pytest.mark.parametrize(
    ("label", "value", "fine"),
    [
        (defaults.SPECS_KEPT_LABEL, "1", True),
        (defaults.SPECS_KEPT_LABEL, "0", False),
        (defaults.SPECS_KEPT_LABEL, "101", False),
        (defaults.SPECS_KEPT_LABEL, "²", False),
        (defaults.SPECS_KEPT_LABEL, "", False),
        (defaults.DISAPPEARANCE_LABEL, "0.25", True),
        (defaults.DISAPPEARANCE_LABEL, "1", True),
        (defaults.DISAPPEARANCE_LABEL, "1.1", False),
        (defaults.DISAPPEARANCE_LABEL, "half", False),
    ],
)
def test_labels_that_are_settings(label: str, value: str, fine: bool) -> None:
    spec = ClusterSpec(labels={label: value})
    if fine:
        check_cluster(spec)
        return
    with pytest.raises(InvalidArgument, match=label):
        check_cluster(spec)


def test_a_heartbeat_is_at_least_a_tenth_of_a_second() -> None:
    with pytest.raises(InvalidArgument, match="HeartbeatPeriod"):
        check_cluster(decode_spec(b'{"Dispatcher":{"HeartbeatPeriod":5000000}}', ClusterSpec))

"""Settings of the cluster: each is honoured, or refused by name."""

import pytest

from manager.control.validate import check_cluster
from swarmapi.errors import InvalidArgument, Unsupported
from swarmapi.model import defaults
from swarmapi.model.decode import decode_spec
from swarmapi.model.spec import ClusterSpec


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"Raft":{"SnapshotInterval":500}}', "Raft"),
        (b'{"CAConfig":{"ExternalCAs":[{"URL":"https://ca"}]}}', "CAConfig"),
        (b'{"TaskDefaults":{"LogDriver":{"Name":"syslog"}}}', "TaskDefaults"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(body: bytes, name: str) -> None:
    with pytest.raises((InvalidArgument, Unsupported), match=name):
        decode_spec(body, ClusterSpec)


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

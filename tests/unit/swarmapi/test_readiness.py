"""The labels of the readiness check."""

import pytest

from swarmapi.errors import InvalidArgument
from swarmapi.model.readiness import Readiness, readiness

CMD = {"swarm.ready.cmd": "test -e /ready"}


@pytest.mark.parametrize(
    ("labels", "check"),
    [
        (None, None),
        ({"a": "b"}, None),
        ({"swarm.ready.cmd": ""}, None),
        (CMD, Readiness(("/bin/sh", "-c", "test -e /ready"), 5.0, 5.0, 3)),
        ({"swarm.ready.cmd": '["ask", "me"]'}, Readiness(("ask", "me"))),
        ({"swarm.ready.cmd": "[ -e /ready ]"}, Readiness(("/bin/sh", "-c", "[ -e /ready ]"))),
        (
            CMD
            | {
                "swarm.ready.interval": "1m30s",
                "swarm.ready.timeout": "500ms",
                "swarm.ready.retries": "1",
            },
            Readiness(("/bin/sh", "-c", "test -e /ready"), 90.0, 0.5, 1),
        ),
    ],
)
def test_what_labels_ask_for(labels: dict[str, str] | None, check: Readiness | None) -> None:
    assert readiness(labels) == check


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (CMD | {"swarm.ready.port": "80"}, "swarm.ready.port: there is no such label"),
        ({"swarm.ready.interval": "5s"}, "swarm.ready.interval: needs swarm.ready.cmd"),
        (CMD | {"swarm.ready.interval": "5"}, "swarm.ready.interval: '5' is no duration"),
        (CMD | {"swarm.ready.interval": "1ms"}, "swarm.ready.interval: '1ms' is no duration"),
        (CMD | {"swarm.ready.timeout": ""}, "swarm.ready.timeout: '' is no duration"),
        (CMD | {"swarm.ready.retries": "0"}, "swarm.ready.retries: '0' is not a number above 0"),
        ({"swarm.ready.cmd": "[]"}, "is not a list of words"),
        ({"swarm.ready.cmd": "[1]"}, "is not a list of words"),
    ],
)
def test_what_cannot_be_is_refused_by_name(labels: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        readiness(labels)
    assert words in refused.value.message

"""Options of the json-file driver: what is known, what they put on every line."""

import pytest

from swarmapi.errors import InvalidArgument, Unsupported
from worker.engine.logoptions import attributes, check_log
from worker.engine.record import Record
from worker.engine.spec import ContainerConfig, HostConfig, LogSpec


def record() -> Record:
    return Record(
        id="0123456789abcdef",
        name="web",
        created_ns=1,
        image_id="sha256:fedcba9876543210",
        image_config={},
        config=ContainerConfig(image="img:1", labels={"team": "a", "tier": "b"}),
        host=HostConfig(),
        endpoints={},
        path="x",
        args=[],
        env=["STAGE=prod", "OTHER=1"],
    )


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, {}),
        ({"labels": "team,none"}, {"team": "a"}),
        ({"labels-regex": "^t"}, {"team": "a", "tier": "b"}),
        ({"env": "STAGE"}, {"STAGE": "prod"}),
        ({"env-regex": "^O"}, {"OTHER": "1"}),
        ({"tag": "{{.Name}}/{{ .ID }}-{{.ImageID}}"}, {"tag": "web/0123456789ab-fedcba987654"}),
        ({"tag": "plain"}, {"tag": "plain"}),
    ],
)
def test_attributes(options: dict[str, str], found: dict[str, str]) -> None:
    check_log(LogSpec("json-file", options))
    assert attributes(record(), options) == found


@pytest.mark.parametrize(
    ("kind", "options", "error"),
    [
        ("syslog", {}, Unsupported),
        ("json-file", {"compress": "true"}, Unsupported),
        ("json-file", {"max-file": "0", "max-size": "1k"}, InvalidArgument),
        ("json-file", {"max-file": "3"}, InvalidArgument),
        ("json-file", {"max-size": "1x"}, InvalidArgument),
        ("json-file", {"labels-regex": "("}, InvalidArgument),
        ("json-file", {"tag": "{{.Bogus}}"}, Unsupported),
        ("json-file", {"tag": "{{if .Name}}x{{end}}"}, Unsupported),
    ],
)
def test_what_is_not_served_is_refused(
    kind: str, options: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        check_log(LogSpec(kind, options))

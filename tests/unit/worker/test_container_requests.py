"""What clients ask of containers, read as a dockerd reads it."""

import pytest

from swarmapi.errors import InvalidArgument
from worker.engine.bundle import merge_env
from worker.engine.filters import check_container_filters
from worker.engine.launcher import published_ports
from worker.engine.limits import check_limits
from worker.engine.record import Record
from worker.engine.rootfs import home_of, resolve_user
from worker.engine.spec import Healthcheck, PortBinding, decode_create


def test_what_is_null_within_an_object_is_not_there() -> None:
    # Compose v1 sends every key of a health check.
    made = decode_create(
        {
            "Image": "box",
            "Healthcheck": {
                "Test": ["CMD", "true"],
                "Interval": 5,
                "Timeout": None,
                "Retries": None,
            },
            "ExposedPorts": {"80/tcp": None},
            "HostConfig": {
                "LogConfig": {"Type": "", "Config": None},
                "RestartPolicy": {"Name": "always", "MaximumRetryCount": None},
                "PortBindings": {"80/tcp": [{"HostIp": None, "HostPort": "8080"}], "81/tcp": None},
            },
        }
    )
    assert made.config.healthcheck == Healthcheck(test=["CMD", "true"], interval=5)
    assert made.config.exposed_ports == {"80/tcp": None}
    assert made.host.port_bindings == {"80/tcp": [PortBinding("", "8080")], "81/tcp": None}
    assert made.host.restart_policy.name == "always"
    assert made.host.log_config.config == {}


@pytest.mark.parametrize(
    ("host", "complaint"),
    [
        ({"RestartPolicy": {"Name": "sometimes"}}, "unknown policy 'sometimes'"),
        ({"RestartPolicy": {"Name": "no", "MaximumRetryCount": 3}}, "only be used with 'on-fail"),
        ({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}, "only be used with 'on-"),
        ({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}}, "cannot be negative"),
        ({"NetworkMode": "container:"}, "invalid container format container:<name|id>"),
    ],
)
def test_a_host_config_that_cannot_be_is_refused(host: dict[str, object], complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint.replace("|", r"\|")):
        decode_create({"Image": "box", "HostConfig": host})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("exited", "x"), ("expose", "x"), ("expose", "70000"), ("health", "well"),
        ("is-task", "x"), ("name", "["), ("publish", "80-x"), ("status", "gone"),
    ],
)  # fmt: skip
def test_a_filter_that_means_nothing_is_refused(key: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=f"invalid filter '{key}"):
        check_container_filters({key: [value]})


def test_variables_are_the_containers_then_the_images_others() -> None:
    assert merge_env(["A=image", "B=image", "C=image"], ["Z=own", "A=own", "C", "Z=last"]) == [
        "Z=last", "A=own", "B=image",
    ]  # fmt: skip
    assert merge_env(["PATH=/image"], []) == ["PATH=/image"]


@pytest.mark.parametrize(
    ("user", "groups", "expected"),
    [("", (), [0]), ("12", (), [0]), ("5:6", ("7",), [6, 7]), ("bob", (), [8, 9])],
)
def test_the_primary_group_is_among_the_groups(
    user: str, groups: tuple[str, ...], expected: list[int]
) -> None:
    found = resolve_user(user, groups, "bob:x:7:8::/home/bob:/bin/sh\n", "staff:x:9:bob\n")
    assert found["additionalGids"] == expected


@pytest.mark.parametrize(
    ("user", "groups", "words"),
    [
        ("4294967295", (), "uids and gids must be in range"),  # -1 to setresuid: stay root
        ("0:4294967296", (), "uids and gids must be in range"),
        ("0", ("2147483648",), "uids and gids must be in range"),
        ("mad", (), "uids and gids must be in range"),
        ("²", (), "unable to find user ²"),
        ("0:²", (), "unable to find group ²"),
    ],
)
def test_ids_the_kernel_would_take_for_others_are_refused(
    user: str, groups: tuple[str, ...], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        resolve_user(user, groups, "mad:x:4294967295:8::/:/bin/sh\n", "")


@pytest.mark.parametrize("bindings", [{"²/tcp": [{}]}, {"80/tcp": [{"HostPort": "²"}]}])
def test_ports_that_are_no_numbers_are_refused(bindings: dict[str, object]) -> None:
    made = decode_create({"Image": "box", "HostConfig": {"PortBindings": bindings}})
    record = Record(
        id="x", name="", created_ns=0, image_id="", image_config={}, config=made.config,
        host=made.host, endpoints={}, path="", args=[], env=[],
    )  # fmt: skip
    with pytest.raises(InvalidArgument, match="²"):
        published_ports(record)


def test_processors_that_are_no_numbers_are_refused() -> None:
    host = decode_create({"Image": "box", "HostConfig": {"CpusetCpus": "²"}}).host
    with pytest.raises(InvalidArgument, match="²"):
        check_limits(host)


def test_a_user_nobody_describes_is_at_home_in_the_root() -> None:
    assert home_of(0, "") == "/"
    assert home_of(0, "root:x:0:0::/root:/bin/sh\n") == "/root"

"""What an image made of a container is configured with."""

from typing import Any

import pytest

from runtime.image.errors import BuildError
from worker.engine.committed import committed_config
from worker.engine.record import Record
from worker.engine.spec import ContainerConfig, Healthcheck, HostConfig, decode_config


def record(**config: Any) -> Record:
    return Record(
        id="c1",
        name="web",
        created_ns=0,
        image_id="sha256:1",
        image_config={},
        endpoints={},
        path="serve",
        args=["fast"],
        env=["PATH=/bin", "A=1"],
        config=ContainerConfig(image="box:1", **config),
        host=HostConfig(),
    )


def test_without_a_config_of_its_own_it_is_the_containers() -> None:
    made = committed_config(
        record(cmd=["serve"], volumes={"/v": {}}, healthcheck=Healthcheck(test=["CMD", "ok"])),
        None,
        ["ENV B=2", "USER bob"],
    )
    assert made == {
        "Cmd": ["serve"],
        "Env": ["PATH=/bin", "A=1", "B=2"],
        "Volumes": {"/v": {}},
        "Healthcheck": {"Test": ["CMD", "ok"]},
        "User": "bob",
    }


def test_the_requests_config_goes_before_and_is_completed() -> None:
    given = decode_config({"Env": ["A=9"], "Labels": {"x": "new"}, "Cmd": ["other"], "Image": None})
    made = committed_config(
        record(cmd=["serve"], entrypoint=["run"], labels={"x": "old", "y": "kept"}, user="bob"),
        given,
        ["LABEL z=1"],
    )
    assert made == {
        "Env": ["A=9", "PATH=/bin"],
        "Labels": {"x": "new", "y": "kept", "z": "1"},
        "Cmd": ["other"],
        "Entrypoint": ["run"],
        "User": "bob",
    }


def test_a_new_entrypoint_takes_the_containers_command_away() -> None:
    given = decode_config({"Entrypoint": "other"})
    made = committed_config(record(cmd=["serve"], entrypoint=["run"]), given, [])
    assert (made["Entrypoint"], made["Cmd"]) == (["other"], None)


def test_an_instruction_that_does_more_than_configure_is_refused() -> None:
    with pytest.raises(BuildError, match="RUN is not a valid change command"):
        committed_config(record(), None, ["RUN x"])

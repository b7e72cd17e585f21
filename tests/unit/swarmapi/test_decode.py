"""What a client may send, and how it is refused."""

import msgspec
import pytest

from swarmapi.errors import InvalidArgument
from swarmapi.model.decode import decode_spec, spec_from
from swarmapi.model.spec import ServiceSpec, to_json

DOCKER_CREATE = b"""{"Name": "det", "Labels": {}, "TaskTemplate": {"ContainerSpec":
{"Image": "busybox:latest", "Args": ["sleep", "1000"], "Init": false,
"StopGracePeriod": 1000000000, "DNSConfig": {}}, "Resources": {"Limits": {}, "Reservations": {}},
"Placement": {}, "ForceUpdate": 0}, "Mode": {"Global": {}}, "EndpointSpec": {"Mode": "dnsrr"}}"""


def test_what_the_docker_cli_sends_is_understood() -> None:
    spec = decode_spec(DOCKER_CREATE, ServiceSpec)
    container = spec.task_template.container_spec
    assert container is not None
    assert container.image == "busybox:latest"
    assert container.args == ("sleep", "1000")
    assert container.stop_grace_period == 1_000_000_000
    assert spec.mode.global_ is not None
    assert spec.endpoint_spec is not None
    assert spec.endpoint_spec.mode == "dnsrr"


def test_a_spec_survives_json_and_msgpack() -> None:
    spec = decode_spec(DOCKER_CREATE, ServiceSpec)
    assert spec_from(to_json(spec), ServiceSpec) == spec
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=ServiceSpec) == spec


def test_keys_match_without_regard_to_case() -> None:
    assert decode_spec(b'{"name": "a", "LABELS": {"x": "y"}}', ServiceSpec).name == "a"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "invalid JSON"),
        (b"[]", "an object is expected"),
        (b'{"TaskTemplate": {"ContainerSpec": {"Image": 7}}}', "TaskTemplate.ContainerSpec.Image"),
        (b'{"Mode": {"Replicated": {"Replicas": "x"}}}', "Mode.Replicated.Replicas"),
        (b'{"TaskTemplate": {"Nonsense": {"A": 1}}}', "unsupported field TaskTemplate.Nonsense"),
        (b'{"EndpointSpec": {"Ports": [{"Colour": "red"}]}}', "EndpointSpec.Ports[0].Colour"),
        (b'{"TaskTemplate": {"RestartPolicy": {"Condition": "never"}}}', "RestartPolicy.Condition"),
        (b'{"Mode": {"ReplicatedJob": {"Total": 1}}}', "unsupported field Mode.ReplicatedJob"),
        (b'{"Mode": {"Cron": {"Overlap": "allow"}}}', "Mode.Cron.Overlap"),
        (
            b'{"TaskTemplate": {"RestartPolicy": {"Delay": 9223372036854775808}}}',
            "TaskTemplate.RestartPolicy.Delay",
        ),
        (
            b'{"EndpointSpec": {"Ports": [{"TargetPort": -9223372036854775809}]}}',
            "EndpointSpec.Ports[0].TargetPort",
        ),
    ],
)
def test_bad_input_names_the_path(body: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode_spec(body, ServiceSpec)
    assert words in caught.value.message


@pytest.mark.parametrize("blank", [b"null", b"false", b"0", b'""', b"[]", b"{}", b'{"A": [0]}'])
def test_blank_values_of_unknown_keys_are_dropped(blank: bytes) -> None:
    body = b'{"Name": "a", "TaskTemplate": {"Nonsense": ' + blank + b"}}"
    assert decode_spec(body, ServiceSpec).name == "a"


def test_documented_defaults_are_harmless_and_other_values_are_not() -> None:
    assert decode_spec(b'{"TaskTemplate": {"Runtime": "container"}}', ServiceSpec)
    with pytest.raises(InvalidArgument, match="Runtime"):
        decode_spec(b'{"TaskTemplate": {"Runtime": "plugin"}}', ServiceSpec)

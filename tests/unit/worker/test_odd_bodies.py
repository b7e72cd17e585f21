"""Bodies of the wrong shape are the client's mistake, in words."""

import pytest

from swarmapi.errors import InvalidArgument
from worker.engine.endpoints import decode_endpoint, decode_endpoints
from worker.engine.spec import decode_create, decode_host


@pytest.mark.parametrize(
    "body",
    [
        {"HostConfig": [1]},
        {"HostConfig": "x"},
        {"HostConfig": {"LogConfig": 3}},
        {"HostConfig": {"PortBindings": {"80": [3]}}},
        {"HostConfig": {"Binds": {"a": 1}}},
        {"NetworkingConfig": [1]},
        {"NetworkingConfig": {"EndpointsConfig": [1]}},
        {"NetworkingConfig": {"EndpointsConfig": {"a": [1]}}},
        {"NetworkingConfig": {"EndpointsConfig": {"a": {"Aliases": 3}}}},
        {"NetworkingConfig": {"EndpointsConfig": {"a": {"IPAMConfig": [1]}}}},
        {"Cmd": [3]},
        {"Env": {"A": "b"}},
    ],
)
def test_a_container_of_a_wrong_shape_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        decode_create({"Image": "x", **body})


def test_update_and_connect_take_objects_only() -> None:
    with pytest.raises(InvalidArgument, match="an object is expected"):
        decode_host([1])
    with pytest.raises(InvalidArgument):
        decode_endpoint([[{}], 3])
    with pytest.raises(InvalidArgument, match="invalid IPv6 address"):
        decode_endpoint({"IPAMConfig": {"IPv6Address": "10.0.0.2"}})
    assert decode_endpoint(None) == decode_endpoint({})
    assert decode_endpoints({"EndpointsConfig": {"a": None}}).keys() == {"a"}

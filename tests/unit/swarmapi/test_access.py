"""Every route of engine, membership and managers for every role, and what bodies may not hold."""

import json
import re
from typing import Any, Final

import pytest

from manager.api import routes as manager_routes
from runtime.oci import DEFAULT_CAPABILITIES
from swarmapi import access, privileges, rest
from swarmapi.access import ApiRole, role_of_units
from swarmapi.errors import Forbidden, InvalidArgument
from worker.api import app, document
from worker.cluster import routes as cluster_routes

TABLES: Final = (
    document.ROUTES,
    cluster_routes.ROUTES,
    *(module.ROUTES for module in app.MODULES),
    manager_routes.ROUTES,
)
ROUTES: Final = sorted(
    {
        (route.method, route.path)
        for route in (rest.route_of(one) for table in TABLES for one in table)
        if route.method != "*"  # passed on to the manager, whose table says what there is
    }
)
NOT_SEEN: Final = {
    "/swarm/v1/audit",
    "/swarm",  # join tokens
    "/swarm/unlockkey",
    "/swarm/v1/backup",
    "/swarm/v1/api-tokens",
    "/swarm/v1/api-tokens/{id}",
    "/swarm/v1/exec/{id}",
    "/exec/{id}/json",
    "/containers/{id:.+}/attach/ws",
    "/containers/{id:.+}/archive",  # files, secrets among them
    "/containers/{id:.+}/export",
    "/images/get",
    "/images/{name:.+}/get",
}
"""What is read and yet no viewer's, nor a deployer's."""
REACHES_OUT: Final = {"/images/search", "/distribution/{name:.+}/json"}
DEPLOYED: Final = {
    *(("POST", f"/{kind}s/create") for kind in ("service", "secret", "config", "network")),
    *(("POST", f"/{kind}s/{{id}}/update") for kind in ("service", "secret", "config")),
    *(("DELETE", f"/{kind}s/{{id}}") for kind in ("service", "secret", "config", "network")),
    *(("POST", f"/{kind}s/prune") for kind in ("network", "volume")),
    ("POST", "/volumes/create"),
    ("DELETE", "/volumes/{name}"),
    ("POST", "/auth"),
    ("POST", "/swarm/v1/plan"),
    ("POST", "/swarm/v1/services/{id}/rollback"),
    ("POST", "/swarm/v1/services/{id}/resume"),
}


def expected(role: ApiRole, method: str, path: str) -> bool:
    if role is ApiRole.OPERATOR:
        return True
    if method in ("GET", "HEAD") and path not in NOT_SEEN:
        return role is ApiRole.DEPLOYER or path not in REACHES_OUT
    return role is ApiRole.DEPLOYER and (method, path) in DEPLOYED


def allowed(role: ApiRole, method: str, path: str) -> bool:
    try:
        access.check(role, method, path)
    except Forbidden:
        return False
    return True


def filled(path: str) -> str:
    """Return a path of a route, with names that look like parts of other routes."""
    return re.sub(r"\{\w+(:\.\+)?\}", lambda found: "a/json" if found[1] else "create", path)


@pytest.mark.parametrize("role", ApiRole)
def test_every_route_for_every_role(role: ApiRole) -> None:
    assert len(ROUTES) > 120
    wrong = [
        (method, path, prefix)
        for method, path in ROUTES
        for prefix in ("", "/v1.41", "/v1.50")
        if allowed(role, method, prefix + filled(path)) != expected(role, method, path)
    ]
    assert wrong == []


def test_the_table_names_no_route_that_is_gone() -> None:
    listed = {f"{method} {path}" for method, path in ROUTES}
    assert {name for _, _, _, name in access._table()} <= listed
    assert set(access._INSPECTED) <= listed


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/anything/new"),
        ("POST", "/services"),
        ("PATCH", "/services/a"),
        ("GET", "/services/../swarm/unlockkey"),
        ("GET", "/services/a/../../swarm"),
        ("GET", "/v1.50/v1.50/services"),
        ("GET", "//services"),
        ("GET", "/services\n"),
        ("CONNECT", "/_ping"),
        ("GET", "/containers/a/json/archive"),
    ],
)
def test_what_is_not_in_the_table_is_an_operators(method: str, path: str) -> None:
    assert [allowed(role, method, path) for role in ApiRole] == [False, False, True]


def service(**container: Any) -> bytes:
    spec = {"Name": "s", "TaskTemplate": {"ContainerSpec": {"Image": "i", **container}}}
    return json.dumps(spec).encode()


def mount(**given: Any) -> bytes:
    return service(Mounts=[{"Target": "/t", **given}])


BIND = {"type": "none", "o": "bind", "device": "/"}
RENDERED = {"type": "tmpfs", "o": "mode={{.Service.Labels.x}}", "device": "/"}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (service(), ""),
        (service(CapabilityAdd=["CAP_CHOWN", "kill"], CapabilityDrop=["ALL"]), ""),
        (service(Privileges={"Seccomp": {"Mode": "default"}, "NoNewPrivileges": True}), ""),
        (mount(Type="volume", Source="data"), ""),
        (mount(Type="tmpfs"), ""),
        (mount(Type="bind", Source="/"), "a mount of type bind (/)"),
        (mount(Type="bind", Source="/srv/app/data"), "a mount of type bind (/srv/app/data)"),
        (mount(Source="/"), "a mount of type bind (/)"),
        (mount(Type="volume", Source="/etc"), "a mount of the host's /etc"),
        (b'{"tasktemplate":{"CONTAINERSPEC":{"mounts":[{"type":"bind","source":"/"}]}}}', "bind"),
        (
            mount(Type="volume", Source="v", VolumeOptions={"DriverConfig": {"Options": BIND}}),
            "the volume option o=bind",
        ),
        (
            mount(Type="volume", Source="v", VolumeOptions={"DriverConfig": {"Options": RENDERED}}),
            "a template in a volume's driver options",
        ),
        (mount(Type="volume", VolumeOptions={"DriverConfig": {"Name": "nfs"}}), "driver nfs"),
        (service(CapabilityAdd=["SYS_ADMIN"]), "the capability SYS_ADMIN"),
        (service(CapabilityAdd=["all"]), "the capability all"),
        (service(Privileges={"Seccomp": {"Mode": "unconfined"}}), "seccomp mode unconfined"),
        (service(Privileges={"Seccomp": {"Mode": "custom", "Profile": "e30="}}), "mode custom"),
        (service(Privileges={"AppArmor": {"Mode": "disabled"}}), "AppArmor mode disabled"),
        (service(OomScoreAdj=-500), "a negative OomScoreAdj"),
        (b'{"Networks":[{"Target":"host"}]}', "the host's network"),
        (b'{"TaskTemplate":{"Networks":[{"Target":"host"}]}}', "the host's network"),
    ],
)
def test_what_in_a_service_needs_an_operator(raw: bytes, words: str) -> None:
    found = privileges.of_service(raw)
    assert words in found
    assert bool(found) == bool(words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"Name": "v"}, ""),
        ({"DriverOpts": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7"}}, ""),
        ({"DriverOpts": BIND}, "o=bind"),
        ({"DriverOpts": {"type": "tmpfs", "device": "/", "o": "rbind"}}, "o=rbind"),
        ({"driveropts": BIND}, "o=bind"),
        ({"DriverOpts": {"type": "ext4", "device": "/dev/vda"}}, "a volume of type ext4"),
        ({"DriverOpts": {"type": "overlay", "o": "lowerdir=/,upperdir=/u"}}, "lowerdir"),
        ({"DriverOpts": {"device": "/x"}}, "a volume of type none"),
        ({"Driver": "nfs"}, "the volume driver nfs"),
    ],
)
def test_what_in_a_volume_needs_an_operator(body: dict[str, Any], words: str) -> None:
    found = privileges.of_volume(json.dumps(body).encode())
    assert words in found
    assert bool(found) == bool(words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"Name": "n", "Driver": "overlay"}, ""),
        ({"Name": "n", "Options": {"com.docker.network.bridge.enable_icc": "false"}}, ""),
        ({"Driver": "macvlan", "Options": {"parent": "eth0"}}, "the network driver macvlan"),
        ({"Driver": "host"}, "the network driver host"),
        ({"Options": {"com.docker.network.bridge.name": "br0"}}, "a link of the host"),
        ({"Driver": "overlay", "ingress": True}, "the ingress network"),
    ],
)
def test_what_in_a_network_needs_an_operator(body: dict[str, Any], words: str) -> None:
    found = privileges.of_network(json.dumps(body).encode())
    assert words in found
    assert bool(found) == bool(words)


@pytest.mark.parametrize("raw", [b"[]", b"{", b'{"Options":1}', b'{"Driver":"","driver":"host"}'])
def test_a_body_that_cannot_be_read_is_refused(raw: bytes) -> None:
    for inspect in (privileges.of_volume, privileges.of_network):
        if b"Options" in raw and inspect is privileges.of_volume:
            continue
        with pytest.raises(InvalidArgument):
            inspect(raw)


def test_the_default_capabilities_are_the_containers() -> None:
    assert {f"CAP_{name}" for name in privileges.DEFAULT_CAPABILITIES} == set(DEFAULT_CAPABILITIES)


def test_a_body_of_an_operator_is_not_looked_into() -> None:
    assert access.check(ApiRole.OPERATOR, "POST", "/services/create") is None
    inspect = access.check(ApiRole.DEPLOYER, "POST", "/v1.50/services/a/update")
    assert inspect is not None
    with pytest.raises(Forbidden, match="the capability ALL needs the role operator"):
        access.check_body(inspect, service(CapabilityAdd=["ALL"]))


@pytest.mark.parametrize(
    ("units", "role"),
    [
        (["swarm-viewer"], ApiRole.VIEWER),
        (["ops", "swarm-deployer"], ApiRole.DEPLOYER),
        (["swarm-operator", "swarm-operator"], ApiRole.OPERATOR),
        (["ops"], ApiRole.VIEWER),
        ([], ApiRole.VIEWER),
    ],
)
def test_the_role_of_a_certificate(units: list[str], role: ApiRole) -> None:
    assert role_of_units(units, ApiRole.VIEWER) is role


@pytest.mark.parametrize(
    "units",
    [["swarm-worker"], ["swarm-manager"], ["swarm-viewer", "swarm-operator"], ["swarm-"],
     ["swarm-viewer", "swarm-worker"]],
)  # fmt: skip
def test_a_certificate_with_no_role_of_ours_is_refused(units: list[str]) -> None:
    with pytest.raises(Forbidden, match="names no role"):
        role_of_units(units, ApiRole.OPERATOR)


def test_a_certificate_without_a_role_may_be_refused() -> None:
    with pytest.raises(Forbidden):
        role_of_units(["ops"], None)

"""Specs that are refused, and the path each message begins with."""

from typing import Any, get_args

import msgspec
import pytest

from manager.control.validate import check_cluster, check_network, check_service
from swarmapi.errors import SwarmError
from swarmapi.model.decode import spec_from
from swarmapi.model.defaults import VXLAN_OPTION
from swarmapi.model.mounts import OPTIONS
from swarmapi.model.objects import SpecVersion, Task
from swarmapi.model.spec import ClusterSpec, Mount, NetworkSpec, ServiceSpec
from worker.executor import to_container

C = "TaskTemplate.ContainerSpec"
BIND = {"Type": "bind", "Source": "/s", "Target": "/a"}
HEALTH = {"Test": ["CMD", "x"]}


def service(path: str, value: Any) -> ServiceSpec:
    body: dict[str, Any] = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "a"}}}
    *parents, last = path.split(".")
    place = body
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    return spec_from(body, ServiceSpec)


@pytest.mark.parametrize(
    ("path", "value", "begins"),
    [
        ("Name", "-web", "Name: "),
        ("Name", "a" * 64, "Name: "),
        (f"{C}.Image", "", f"{C}.Image: image reference must be provided"),
        (f"{C}.Image", "a b", f"{C}.Image: "),
        (f"{C}.StopGracePeriod", -1, f"{C}.StopGracePeriod: "),
        (f"{C}.OomScoreAdj", 1001, f"{C}.OomScoreAdj: "),
        (f"{C}.Isolation", "hyperv", f"{C}.Isolation: "),
        (f"{C}.Privileges.Seccomp.Mode", "custom", f"{C}.Privileges.Seccomp.Profile: "),
        (f"{C}.Privileges.Seccomp.Mode", "off", f"{C}.Privileges.Seccomp.Mode: "),
        (f"{C}.Privileges.Seccomp", {"Mode": "custom", "Profile": "eA=="}, f"{C}.Privileges."),
        (f"{C}.Privileges.AppArmor.Mode", "mine", f"{C}.Privileges.AppArmor.Mode: "),
        (f"{C}.Healthcheck", {**HEALTH, "Interval": 999_999}, f"{C}.Healthcheck.Interval: "),
        (f"{C}.Healthcheck", {**HEALTH, "Retries": -1}, f"{C}.Healthcheck.Retries: "),
        (f"{C}.Mounts", [{"Type": "npipe", "Target": "/a"}], f"{C}.Mounts[0].Type: "),
        (f"{C}.Mounts", [{"Type": "cluster", "Target": "/a"}], f"{C}.Mounts[0].Type: "),
        (f"{C}.Mounts", [{"Type": "tmpfs", "Target": "a"}], f"{C}.Mounts[0].Target: "),
        (f"{C}.Mounts", [{"Type": "tmpfs", "Target": "/a"}] * 2, f"{C}.Mounts[1].Target: "),
        (f"{C}.Mounts", [{"Type": "bind", "Target": "/a"}], f"{C}.Mounts[0].Source: "),
        (f"{C}.Mounts", [{**BIND, "BindOptions": {"Propagation": "up"}}], f"{C}.Mounts[0]: inv"),
        (f"{C}.Mounts", [{**BIND, "VolumeOptions": {"NoCopy": True}}], f"{C}.Mounts[0]: inv"),
        (f"{C}.Mounts", [{**BIND, "Target": "/"}], f"{C}.Mounts[0]: inv"),
        (f"{C}.Mounts", [BIND, {**BIND, "Target": "/a/"}], f"{C}.Mounts[1].Target: /a is used"),
        (
            f"{C}.Mounts",
            [{**BIND, "BindOptions": {"ReadOnlyForceRecursive": True}}],
            f'{C}.Mounts[0]: invalid mount config for type "bind": its recursive options',
        ),
        (
            f"{C}.Mounts",
            [{"Type": "tmpfs", "Target": "/a", "TmpfsOptions": {"Options": [["zise", "1m"]]}}],
            f"{C}.Mounts[0]: invalid tmpfs option",
        ),
        (
            f"{C}.Mounts",
            [{"Type": "volume", "Target": "/a", "VolumeOptions": {"Subpath": "b"}}],
            f'{C}.Mounts[0]: invalid mount config for type "volume": must not set Subpath',
        ),
        (
            f"{C}.Mounts",
            [
                {
                    "Type": "volume",
                    "Target": "/a",
                    "VolumeOptions": {"DriverConfig": {"Name": "nfs"}},
                }
            ],
            f"{C}.Mounts[0]: volume driver 'nfs' is not supported",
        ),
        (f"{C}.Hosts", ["192.0.2.1 a", "garbage"], f"{C}.Hosts[1]: "),
        (f"{C}.DNSConfig", {"Nameservers": ["dns.example"]}, f"{C}.DNSConfig.Nameservers[0]: "),
        (
            "TaskTemplate.Placement.Constraints",
            ["node.labels.a==b", "node.labels.a==b#c"],
            "TaskTemplate.Placement.Constraints[1]: ",
        ),
        (
            "TaskTemplate.Placement.Preferences",
            [{"Spread": {"SpreadDescriptor": "rack"}}],
            "TaskTemplate.Placement.Preferences[0].Spread.SpreadDescriptor: ",
        ),
        (
            "TaskTemplate.Placement.Preferences",
            [{}],
            "TaskTemplate.Placement.Preferences[0].Spread.SpreadDescriptor: ",
        ),
        (
            "TaskTemplate.Resources.Limits.NanoCPUs",
            999_999,
            "TaskTemplate.Resources.Limits.NanoCPUs: ",
        ),
        (
            "TaskTemplate.Resources.Reservations.MemoryBytes",
            (4 << 20) - 1,
            "TaskTemplate.Resources.Reservations.MemoryBytes: ",
        ),
        ("TaskTemplate.RestartPolicy.Delay", -1, "TaskTemplate.RestartPolicy.Delay: "),
        ("TaskTemplate.RestartPolicy.Window", -1, "TaskTemplate.RestartPolicy.Window: "),
        ("TaskTemplate.Placement.Constraints", ["x"], "TaskTemplate.Placement.Constraints[0]: "),
        (
            "TaskTemplate.Placement.Constraints",
            ["node.id==a", "node.nope==a"],
            "TaskTemplate.Placement.Constraints[1]: constraint 'node.nope==a' names no known key",
        ),
        ("UpdateConfig.Delay", -1, "UpdateConfig.Delay: "),
        ("UpdateConfig.MaxFailureRatio", 1.1, "UpdateConfig.MaxFailureRatio: "),
        ("UpdateConfig.Order", "sideways", "UpdateConfig.Order: "),
        ("RollbackConfig.FailureAction", "rollback", "RollbackConfig.FailureAction: "),
        ("RollbackConfig.Monitor", -1, "RollbackConfig.Monitor: "),
        ("Mode.Replicated.Replicas", -1, "Mode.Replicated.Replicas: "),
        ("TaskTemplate.LogDriver", {"Name": "syslog"}, "TaskTemplate.LogDriver.Name: 'syslog'"),
        ("EndpointSpec.Mode", "magic", "EndpointSpec.Mode: "),
        ("EndpointSpec.Ports", [{"TargetPort": 0}], "EndpointSpec.Ports[0].TargetPort: "),
        (
            "EndpointSpec.Ports",
            [{"TargetPort": 1, "PublishedPort": 80}, {"TargetPort": 2, "PublishedPort": 80}],
            "EndpointSpec.Ports[1]: duplicate",
        ),
        (
            "EndpointSpec.Ports",
            [{"TargetPort": 1, "Source": "proxy-protocol", "Protocol": "udp"}],
            "EndpointSpec.Ports[0].Source: proxy-protocol goes before the bytes of a TCP",
        ),
        (
            "EndpointSpec.Ports",
            [{"TargetPort": 1, "Source": "server"}],
            "EndpointSpec.Ports[0].Source: ",
        ),
        (
            "EndpointSpec.Ports",
            [{"TargetPort": 1, "Source": "snat", "PublishMode": "host"}],
            "EndpointSpec.Ports[0].Source: snat is the routing mesh's",
        ),
        (
            "EndpointSpec.Ports",
            [{"TargetPort": 1, "Address": "10.0.0.5/24"}],
            "EndpointSpec.Ports[0].Address: 10.0.0.5/24 has host bits set",
        ),
        (
            "EndpointSpec.Ports",
            [{"TargetPort": 1, "Address": "10.0.0.5/32", "PublishMode": "host"}],
            "EndpointSpec.Ports[0].Address: in host mode a port is at one address",
        ),
        (
            "EndpointSpec.Ports",
            [
                {"TargetPort": 1, "PublishedPort": 80, "Address": "0.0.0.0"},
                {"TargetPort": 1, "PublishedPort": 80, "Address": "10.0.0.5"},
            ],
            "EndpointSpec.Ports[1]: duplicate",
        ),
        (
            "EndpointSpec.Ports",
            [{"TargetPort": 1, "Interface": "a/b"}],
            "EndpointSpec.Ports[0].Interface: ",
        ),
        (
            "EndpointSpec.Ports",
            [{"TargetPort": 1, "Address": "10.0.0.5", "Interface": "eth1"}],
            "EndpointSpec.Ports[0]: Address and Interface exclude each other",
        ),
        ("EndpointSpec", {"Mode": "dnsrr", "Ports": [{"TargetPort": 1}]}, "EndpointSpec.Ports[0]"),
        ("EndpointSpec", {"LoadBalancing": "fair"}, "EndpointSpec.LoadBalancing"),
        (
            "EndpointSpec",
            {"Mode": "dnsrr", "LoadBalancing": "sticky"},
            "EndpointSpec.LoadBalancing",
        ),
    ],
)
def test_refused_service(path: str, value: Any, begins: str) -> None:
    with pytest.raises(SwarmError) as caught:
        check_service(service(path, value))
    assert caught.value.message.startswith(begins)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{C}.Image", "reg.example:5000/a/b:1@sha256:" + "0" * 64),
        (f"{C}.Healthcheck", {**HEALTH, "Interval": 1_000_000}),
        (f"{C}.Hosts", ["192.0.2.1 a b", "2001:db8::1 c"]),
        (f"{C}.DNSConfig", {"Nameservers": ["192.0.2.53", "2001:db8::53"], "Search": ["a.b"]}),
        (f"{C}.Env", ["SET={a}", "EMPTY={}"]),
        (
            "TaskTemplate.Placement.Preferences",
            [{"Spread": {"SpreadDescriptor": "node.labels.rack"}}],
        ),
        ("TaskTemplate.Resources.Limits", {"NanoCPUs": 1_000_000, "MemoryBytes": 4 << 20}),
        ("TaskTemplate.LogDriver", {"Name": "json-file", "Options": {"max-size": "1m"}}),
        ("TaskTemplate.LogDriver", {"Name": "none"}),
        ("TaskTemplate.Placement.Constraints", ["node.labels.zone != a", "engine.labels.x==y"]),
        ("UpdateConfig", {"Parallelism": 0, "MaxFailureRatio": 1, "FailureAction": "rollback"}),
        (
            "EndpointSpec",
            {"Mode": "dnsrr", "Ports": [{"TargetPort": 1, "PublishMode": "host"}]},
        ),
        (
            "EndpointSpec.Ports",
            [
                {"TargetPort": 53, "PublishedPort": 53},
                {"TargetPort": 53, "PublishedPort": 53, "Protocol": "udp", "Address": "10.0.0.5"},
                {"TargetPort": 53, "PublishedPort": 53, "Protocol": "udp", "Address": "fd00::/8"},
            ],
        ),
    ],
)
def test_accepted_service(path: str, value: Any) -> None:
    check_service(service(path, value))


@pytest.mark.parametrize(
    ("body", "begins"),
    [
        ({"Name": "a b"}, "Name: "),
        ({"Name": "n", "Driver": "macvlan"}, "Driver: "),
        ({"Name": "n", "Options": {"encrypted": ""}}, "Options.encrypted: not supported"),
        ({"Name": "n", "IPAM": {"Config": [{"Subnet": "10.0.0.1/24"}]}}, "IPAM.Config[0].Subnet"),
        ({"Name": "n", "IPAM": {"Config": [{"Gateway": "10.0.0.1"}]}}, "IPAM.Config[0].Gateway"),
        ({"Name": "n", "IPAM": {"Config": [{"Subnet": "fd00::/64"}]}}, "IPAM.Config[0].Subnet: fd"),
        (
            {"Name": "n", "IPAM": {"Config": [{"Subnet": "10.9.0.0/24"}, {"Gateway": "10.9.0.1"}]}},
            "IPAM.Config[1].Gateway: needs",
        ),
        (
            {"Name": "n", "EnableIPv6": True, "IPAM": {"Config": [{"Subnet": "fd00::/127"}]}},
            "IPAM.Config[0].Subnet: prefix length must be 16 to 125",
        ),
        ({"Name": "n", "EnableIPv4": False, "EnableIPv6": True}, "EnableIPv4"),
        (
            {
                "Name": "n",
                "IPAM": {"Config": [{"Subnet": "10.9.0.0/24", "IPRange": "10.8.0.0/28"}]},
            },
            "IPAM.Config[0].IPRange: ",
        ),
        (
            {
                "Name": "n",
                "IPAM": {
                    "Config": [{"Subnet": "10.9.0.0/24", "AuxiliaryAddresses": {"r": "10.8.0.1"}}]
                },
            },
            "IPAM.Config[0].AuxiliaryAddresses.r: 10.8.0.1 is not in",
        ),
        ({"Name": "n", "Options": {VXLAN_OPTION: "0"}}, f"Options.{VXLAN_OPTION}: "),
        (
            {"Name": "n", "Options": {VXLAN_OPTION: "4100,4101"}},
            f"Options.{VXLAN_OPTION}: a",
        ),
        (
            {"Name": "n", "IPAM": {"Config": [{"Subnet": "10.0.0.0/24", "Gateway": "10.0.1.1"}]}},
            "IPAM.Config[0].Gateway: ",
        ),
    ],
)
def test_refused_network(body: dict[str, Any], begins: str) -> None:
    with pytest.raises(SwarmError) as caught:
        check_network(spec_from(body, NetworkSpec))
    assert caught.value.message.startswith(begins)


@pytest.mark.parametrize(
    ("body", "begins"),
    [
        ({"Name": "other"}, "Name: "),
        ({"Dispatcher": {"HeartbeatPeriod": -1}}, "Dispatcher.HeartbeatPeriod: "),
    ],
)
def test_refused_cluster(body: dict[str, Any], begins: str) -> None:
    with pytest.raises(SwarmError) as caught:
        check_cluster(spec_from(body, ClusterSpec))
    assert caught.value.message.startswith(begins)


def test_a_service_has_the_mount_options_that_the_engine_honours() -> None:
    fields = {f.encode_name: f.type for f in msgspec.structs.fields(Mount)}
    for own, known in OPTIONS.values():
        struct = next(t for t in get_args(fields[own]) if t is not type(None))
        assert {f.encode_name for f in msgspec.structs.fields(struct)} == known


def test_every_mount_option_reaches_the_engine() -> None:
    mounts = [
        {**BIND, "ReadOnly": True, "BindOptions": {"ReadOnlyForceRecursive": True}},
        {
            "Type": "volume",
            "Source": "v",
            "Target": "/b",
            "VolumeOptions": {
                "Subpath": "in/side",
                "NoCopy": True,
                "Labels": {"a": "b"},
                "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs"}},
            },
        },
        {"Type": "tmpfs", "Target": "/c", "TmpfsOptions": {"Options": [["exec"], ["uid", "7"]]}},
    ]
    spec = service(f"{C}.Mounts", mounts)
    check_service(spec)
    task = Task(id="t", service_id="s", spec_version=1, slot=1, service_name="web")
    given = to_container(task, SpecVersion(service_id="s", version=1, spec=spec)).host.mounts
    told = msgspec.json.decode(msgspec.json.encode(given))
    assert [{k: v for k, v in mount.items() if v} for mount in told] == mounts

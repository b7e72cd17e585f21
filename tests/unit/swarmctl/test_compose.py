"""Compose files: what is read, merged, refused, and which specs come of it."""

from pathlib import Path
from typing import Any

import pytest

from swarmapi.model.decode import spec_from
from swarmapi.model.spec import NetworkSpec, ServiceSpec
from swarmctl.compose.interpolate import interpolate
from swarmctl.compose.load import load
from swarmctl.compose.merge import merge
from swarmctl.compose.stackfile import Dependency, Stack, stack_of
from swarmctl.errors import ClientError

WEB = {"image": "nginx"}


def stack(services: dict[str, Any], **more: Any) -> Stack:
    document = {"services": services, **more}
    return stack_of(document, "st", "/srv", {"HOME": "/root", "TOKEN": "t0"})


def spec(service: dict[str, Any], **more: Any) -> dict[str, Any]:
    (found,) = stack({"web": {**WEB, **service}}, **more).services
    return found.spec


def container(service: dict[str, Any], **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = spec(service, **more)["TaskTemplate"]["ContainerSpec"]
    return found


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("$A-${A}-$$A", "1-1-$A"),
        ("${NO:-x}${NO-y}${EMPTY:-z}${EMPTY-w}", "xyz"),
        ("${A:+yes}${NO:+no}${EMPTY+there}", "yesthere"),
        ("${NO:-${A}${NO:-}}}", "1}"),
        ("$NO", ""),
        ("${A:?gone}", "1"),
    ],
)
def test_variables(text: str, wanted: str) -> None:
    assert interpolate({"k": [text]}, {"A": "1", "EMPTY": ""}) == {"k": [wanted]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${NO?say why}", "NO is required: say why"),
        ("${EMPTY:?}", "EMPTY is required: it is not set"),
        ("${A", "not closed"),
        ("100$", "a dollar sign itself is written"),
        ("${1}", "invalid variable"),
        ("${A!x}", "invalid variable"),
    ],
)
def test_variables_that_cannot_be(text: str, reason: str) -> None:
    with pytest.raises(ClientError, match=rf"services\.web\.image: .*{reason}"):
        interpolate({"services": {"web": {"image": text}}}, {"A": "1", "EMPTY": ""})


def test_files_merge_as_the_specification_says() -> None:
    base = {
        "command": ["a", "b"],
        "environment": ["A=1", "B=2"],
        "ports": ["80:80"],
        "networks": ["one"],
        "volumes": ["data:/data", "x:/x"],
        "deploy": {"replicas": 1, "labels": {"a": "1"}},
    }
    over = {
        "command": ["c"],
        "environment": {"B": "3"},
        "ports": ["81:81", "80:80"],
        "networks": {"two": {"aliases": ["t"]}},
        "volumes": ["other:/data"],
        "deploy": {"replicas": 2},
    }
    assert merge(base, over) == {
        "command": ["c"],
        "environment": {"A": "1", "B": "3"},
        "ports": ["80:80", "81:81"],
        "networks": {"one": None, "two": {"aliases": ["t"]}},
        "volumes": ["other:/data", "x:/x"],
        "deploy": {"replicas": 2, "labels": {"a": "1"}},
    }


def test_yaml_is_read_as_compose_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "c.yml"
    file.write_text(
        "x-a: &a {tty: true}\nservices:\n  web:\n    <<: *a\n    ports: [22:22, 0o17]\n"
        "    labels: {on: yes, day: 2026-01-01}\n    mode: 0440\n    hex: 0x1f\n    half: 0.5\n"
    )
    web = load([str(file)], variables={})["services"]["web"]
    assert web == {
        "tty": True,
        "ports": ["22:22", 15],
        "labels": {"on": "yes", "day": "2026-01-01"},
        "mode": 0o440,
        "hex": 31,
        "half": 0.5,
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\na: 2\n", r":2:1: key 'a' is there twice"),
        ("a: [\n", r":2:1: "),
        ("- a\n", "not a Compose file"),
        ("a: !!python/object:os.system x\n", "could not determine a constructor"),
        ("a: \x07", "not YAML"),
    ],
)
def test_what_is_no_compose_file(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "c.yml"
    file.write_text(text)
    with pytest.raises(ClientError, match=reason):
        load([str(file)], variables={})


def test_a_service_in_full_is_a_spec_the_manager_takes() -> None:
    services = {
        "web": {
            **WEB,
            "command": "run 'a b'",
            "environment": {"B": 2, "A": True, "TOKEN": None, "NONE": None},
            "labels": ["x=1"],
            "ports": ["8080:80", {"target": 53, "published": "5353", "protocol": "udp"}],
            "volumes": [
                "data:/data:ro",
                "./conf:/conf",
                "/anonymous",
                {"type": "tmpfs", "target": "/t", "tmpfs": {"size": "1m", "mode": 0o700}},
            ],
            "tmpfs": "/run:size=64k",
            "healthcheck": {"test": "ok", "interval": "2s", "retries": 3},
            "extra_hosts": {"db": "10.0.0.9"},
            "ulimits": {"nofile": {"soft": 1, "hard": 2}, "nproc": 5},
            "stop_grace_period": "1m30s",
            "logging": {"driver": "json-file", "options": {"max-size": "1m"}},
            "networks": {"back": {"aliases": ["www"]}},
            "deploy": {
                "replicas": 3,
                "labels": {"team": "a"},
                "endpoint_mode": "dnsrr",
                "resources": {
                    "limits": {"cpus": "0.5", "memory": "64M"},
                    "reservations": {"memory": "32M"},
                },
                "restart_policy": {"condition": "on-failure", "max_attempts": 3},
                "update_config": {"order": "start-first", "max_failure_ratio": 0.1},
                "placement": {
                    "constraints": ["node.role == worker"],
                    "preferences": [{"spread": "node.labels.dc"}],
                    "max_replicas_per_node": 2,
                },
            },
        }
    }
    found = stack(services, volumes={"data": None}, networks={"back": {"attachable": True}})
    (web,) = found.services
    task = web.spec["TaskTemplate"]
    inside = task["ContainerSpec"]
    assert inside["Args"] == ["run", "a b"]
    assert inside["Env"] == ["A=true", "B=2", "TOKEN=t0"]
    assert [(m["Type"], m.get("Source"), m["Target"]) for m in inside["Mounts"]] == [
        ("volume", "st_data", "/data"),
        ("bind", "/srv/conf", "/conf"),
        ("volume", None, "/anonymous"),
        ("tmpfs", None, "/t"),
        ("tmpfs", None, "/run"),
    ]
    assert inside["Mounts"][4]["TmpfsOptions"] == {"SizeBytes": 65536}
    assert task["Networks"] == [{"Target": "st_back", "Aliases": ["web", "www"]}]
    assert task["Resources"]["Limits"] == {"NanoCPUs": 500_000_000, "MemoryBytes": 64 << 20}
    assert web.spec["EndpointSpec"]["Mode"] == "dnsrr"
    assert web.spec["Labels"] == {
        "team": "a",
        "com.docker.stack.namespace": "st",
        "com.docker.stack.image": "nginx",
    }
    spec_from(web.spec, ServiceSpec)
    (network,) = found.networks
    body = {key: value for key, value in (network.body or {}).items() if key != "Scope"}
    assert spec_from(body, NetworkSpec).attachable


def test_services_meet_on_a_default_network() -> None:
    found = stack({"a": WEB, "b": {**WEB, "networks": ["other"]}}, networks={"other": None})
    assert [network.name for network in found.networks] == ["st_other", "st_default"]
    assert spec({})["TaskTemplate"]["Networks"] == [{"Target": "st_default", "Aliases": ["web"]}]


def test_modes() -> None:
    assert spec({"scale": 4})["Mode"] == {"Replicated": {"Replicas": 4}}
    assert spec({"deploy": {"replicas": 0}})["Mode"] == {"Replicated": {"Replicas": 0}}
    assert spec({"deploy": {"mode": "global"}})["Mode"] == {"Global": {}}
    job = spec({"deploy": {"mode": "replicated-job", "replicas": 2}})["Mode"]
    assert job == {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 2}}


def test_secrets_and_configs(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"\0x")
    service = {**WEB, "secrets": ["s", {"source": "s", "target": "k", "mode": "0400"}]}
    found = stack(
        {"web": {**service, "configs": ["c"]}},
        secrets={"s": {"file": str(tmp_path / "s")}, "e": {"external": True}},
        configs={"c": {"content": "hello"}, "o": {"external": {"name": "old"}}},
    )
    assert [(one.name, one.data) for one in found.secrets] == [("st_s", b"\0x"), ("e", None)]
    assert [(one.name, one.data) for one in found.configs] == [("st_c", b"hello"), ("old", None)]
    inside = found.services[0].spec["TaskTemplate"]["ContainerSpec"]
    assert [(one["SecretName"], one["File"]["Name"]) for one in inside["Secrets"]] == [
        ("st_s", "s"),
        ("st_s", "k"),
    ]
    assert inside["Secrets"][1]["File"]["Mode"] == 0o400
    assert inside["Configs"][0]["File"]["Name"] == "/c"


def test_services_are_in_the_order_of_their_dependencies() -> None:
    services = {
        "web": {**WEB, "depends_on": {"db": {"condition": "service_healthy", "restart": True}}},
        "db": {**WEB, "depends_on": ["seed"]},
        "seed": WEB,
    }
    found = stack(services).services
    assert [service.key for service in found] == ["seed", "db", "web"]
    assert found[2].dependencies == (Dependency("db", "service_healthy", restart=True),)


def test_services_of_a_profile_are_for_who_asks() -> None:
    document = {"services": {"a": WEB, "debug": {**WEB, "profiles": ["dev"]}}}
    keys = [
        [service.key for service in stack_of(document, "st", "/", {}, frozenset(profiles)).services]
        for profiles in ((), ("dev",))
    ]
    assert keys == [["a"], ["a", "debug"]]


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        ({"prots": [1]}, r"services\.web\.prots: unknown key: did you mean ports"),
        ({"build": "."}, r"services\.web\.build: not supported: .*build and push"),
        ({"privileged": True}, r"services\.web\.privileged: not supported"),
        ({"image": None}, r"services\.web\.image: missing"),
        ({"image": ["x"]}, r"services\.web\.image: want a text, not a list"),
        ({"ports": ["80/icmp"]}, r"services\.web\.ports\[0\]: invalid protocol"),
        ({"ports": "80"}, r"services\.web\.ports: want a list"),
        ({"volumes": ["gone:/x"]}, r"services\.web\.volumes\[0\]: volume 'gone' is not under"),
        ({"volumes": ["/a:/b:what"]}, r"unknown mode 'what'"),
        ({"networks": ["gone"]}, r"services\.web\.networks\.gone: network 'gone' is not under"),
        ({"secrets": ["gone"]}, r"services\.web\.secrets\[0\]: secret 'gone' is not under"),
        ({"depends_on": ["gone"]}, r"services\.web\.depends_on: service 'gone' is not under"),
        ({"depends_on": ["web"]}, r"depend on each other: web -> web"),
        ({"restart": "sometimes"}, r"services\.web\.restart: "),
        ({"deploy": {"replicas": "many"}}, r"services\.web\.deploy\.replicas: invalid number"),
        ({"deploy": {"mode": "global", "replicas": 2}}, r"deploy\.replicas: mode global"),
        ({"deploy": {"resources": {"limits": {"cpu": 1}}}}, r"limits\.cpu: .*did you mean cpus"),
        ({"stop_grace_period": "soon"}, r"services\.web\.stop_grace_period: invalid duration"),
        ({"healthcheck": {"test": ["curl"]}}, r"a list begins with NONE, CMD or CMD-SHELL"),
        ({"env_file": "gone.env"}, r"cannot read /srv/gone.env"),
    ],
)
def test_what_is_refused_by_name(service: dict[str, Any], reason: str) -> None:
    with pytest.raises(ClientError, match=reason):
        spec(service)


def test_blank_keys_ask_for_nothing() -> None:
    assert spec({"build": None, "privileged": False, "devices": [], "x-own": 1}) == spec({})


def test_the_keys_of_single_containers_give_way_to_deploy() -> None:
    task = spec({"mem_limit": "1g", "cpus": 2, "restart": "always"})["TaskTemplate"]
    assert task["Resources"]["Limits"] == {"NanoCPUs": 2 * 10**9, "MemoryBytes": 1 << 30}
    assert task["RestartPolicy"] == {"Condition": "any"}
    service = {"mem_limit": "1g", "deploy": {"resources": {"limits": {"memory": "2g"}}}}
    limits = spec(service)["TaskTemplate"]["Resources"]["Limits"]
    assert limits == {"MemoryBytes": 2 << 30}

"""What the fork server is asked: unknown fields and wrong types."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.errors import Unsupported
from runtime.oci import default_config
from runtime.supervisor.demands import check_bundle, check_process, check_resources, check_start


def _set(config: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    *way, last = path.split(".")
    place: Any = config
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    place[last] = value
    return config


def test_the_default_bundle_has_nothing_unknown() -> None:
    limits = {"memory": {"limit": 1 << 20}, "pids": {"limit": 3}}
    check_bundle(default_config(["true"], ["A=b"], rootfs="/r", resources=limits))


@pytest.mark.parametrize(
    "path",
    [
        "hooks", "vm", "root.type", "linux.mountLabel", "linux.timeOffsets", "linux.intelRdt",
        "linux.resources.rdma", "linux.resources.cpu.idle", "linux.resources.memory.kernel",
        "linux.namespaces.0.offset", "process.apparmorProfile", "process.ioPriority",
        "process.user.home", "process.capabilities.more", "mounts.0.uidMappings",
    ],
)  # fmt: skip
def test_a_field_that_would_not_be_obeyed_is_refused_by_name(path: str) -> None:
    limits = {"memory": {"limit": 1 << 20}, "cpu": {"shares": 2}}
    config = default_config(["true"], [], rootfs="/r", resources=limits)
    name = ".".join(part for part in path.split(".") if not part.isdigit())
    with pytest.raises(Unsupported, match=rf"^{name} is not supported"):
        check_bundle(_set(config, path, {"x": 1}))
    empty: object
    for empty in (None, {}, [], "", 0, False):
        check_bundle(_set(config, path, empty))


def test_an_exec_and_an_update_are_checked_like_a_start() -> None:
    with pytest.raises(Unsupported, match=r"process\.selinuxLabel"):
        check_process({"args": ["true"], "selinuxLabel": "x"})
    with pytest.raises(Unsupported, match=r"linux\.resources\.hugepageLimits"):
        check_resources({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]})


def _start() -> dict[str, Any]:
    return {
        "container": "c", "config": {}, "seccomp": "", "overlay": None, "stdin_open": False,
        "log": {"driver": "none", "path": "", "max_bytes": 0, "max_files": 1}, "netns": "new",
        "init": False, "restart": {"name": "no", "max_retries": 0}, "health": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("container", 5), ("config", []), ("log", None), ("log.max_bytes", "1"), ("netns", None),
        ("restart.name", 1), ("restart", "always"), ("health", {"process": {}}), ("init", "yes"),
    ],
)  # fmt: skip
def test_a_start_of_the_wrong_shape_is_refused(path: str, value: object) -> None:
    check_start(_start())
    with pytest.raises(TypeError, match="of the right type"):
        check_start(_set(_start(), path, value))

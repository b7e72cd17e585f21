"""What in a request would give its maker the machine: each returns the first such thing, or "".

Every bind mount is among them, not only one of `/`: a link inside a harmless directory, which a
container may make, leads to any other. Bodies are read as the handlers read them: what cannot be
read is refused here as there.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from swarmapi.errors import InvalidArgument
from swarmapi.model.decode import decode_spec
from swarmapi.model.mounts import tmpfs_options
from swarmapi.model.spec import ContainerSpec, Mount, Privileges, ServiceSpec

DEFAULT_CAPABILITIES: Final = frozenset(
    (
        "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID",
        "SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
    )
)  # fmt: skip
"""What every container has: asking for one of them again is nothing."""
_NETWORK_DRIVERS: Final = ("", "bridge", "overlay")
_BRIDGE_NAME: Final = "com.docker.network.bridge.name"


def of_service(raw: bytes) -> str:
    """Look into a service's spec; raises InvalidArgument when it is none."""
    spec = decode_spec(raw, ServiceSpec)
    template = spec.task_template
    for network in (*(template.networks or ()), *(spec.networks or ())):
        if network.target.lower() == "host":
            return "the host's network"
    if template.container_spec is None:
        return ""
    return next(_of_container(template.container_spec), "")


def _of_container(container: ContainerSpec) -> Iterator[str]:
    for mount in container.mounts or ():
        yield from _of_mount(mount)
    for name in container.capability_add or ():
        if name.upper().removeprefix("CAP_") not in DEFAULT_CAPABILITIES:
            yield f"the capability {name}"
    if container.oom_score_adj < 0:
        yield "a negative OomScoreAdj"
    if container.privileges is not None:
        yield from _of_privileges(container.privileges)


def _of_mount(mount: Mount) -> Iterator[str]:
    if mount.type not in ("volume", "tmpfs"):
        yield f"a mount of type {mount.type or 'bind'} ({mount.source})"
    if "/" in mount.source:
        yield f"a mount of the host's {mount.source}"
    driver = mount.volume_options.driver_config if mount.volume_options is not None else None
    if driver is not None:
        yield from _of_driver(driver.name, driver.options or {})


def _of_privileges(given: Privileges) -> Iterator[str]:
    if given.seccomp is not None and given.seccomp.mode not in ("", "default"):
        yield f"the seccomp mode {given.seccomp.mode}"
    if given.app_armor is not None and given.app_armor.mode not in ("", "default"):
        yield f"the AppArmor mode {given.app_armor.mode}"


def _of_driver(name: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Let a tmpfs pass: any other volume with options shows something that is there already."""
    if name not in ("", "local"):
        yield f"the volume driver {name}"
    if not options:
        return
    if any("{{" in str(word) for pair in options.items() for word in pair):
        yield "a template in a volume's driver options"  # its words are known on the node alone
    try:
        tmpfs_options(word for word in str(options.get("o") or "").split(",") if word)
    except InvalidArgument:
        yield f"the volume option o={options['o']}"
    if options.get("type") != "tmpfs":
        yield f"a volume of type {options.get('type') or 'none'}"


def of_volume(raw: bytes) -> str:
    """Look into the body of `POST /volumes/create`."""
    body = _object(raw)
    options = body.get("driveropts") or {}
    if not isinstance(options, Mapping):
        raise InvalidArgument("DriverOpts: an object is expected")
    return next(_of_driver(str(body.get("driver") or ""), options), "")


def of_network(raw: bytes) -> str:
    """Look into the body of `POST /networks/create`."""
    body = _object(raw)
    driver, options = str(body.get("driver") or ""), body.get("options") or {}
    if driver not in _NETWORK_DRIVERS:
        return f"the network driver {driver}"
    if body.get("ingress"):
        return "the ingress network"
    if not isinstance(options, Mapping):
        raise InvalidArgument("Options: an object is expected")
    return "a link of the host by name" if options.get(_BRIDGE_NAME) else ""


def _object(raw: bytes) -> dict[str, Any]:
    """Return a JSON object with its keys in lower case: no other spelling gets past."""
    try:
        found = msgspec.json.decode(raw) if raw.strip() else {}
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise InvalidArgument("invalid JSON: an object is expected")
    lowered = {key.lower(): value for key, value in found.items()}
    if len(lowered) < len(found):
        raise InvalidArgument("invalid JSON: a key is given twice")
    return lowered

"""What an image made of a container is configured with, as `POST /commit` decides it."""

from collections.abc import Iterable
from typing import Any

import msgspec

from runtime.image.build.configuring import apply_changes
from worker.engine.record import Record
from worker.engine.spec import ContainerConfig

_MERGED = ("Labels", "ExposedPorts", "Volumes")
_PLAIN = ("User", "WorkingDir", "StopSignal", "Healthcheck")


def committed_config(
    record: Record, given: ContainerConfig | None, changes: Iterable[str]
) -> dict[str, Any]:
    """Return the image's config where it differs from the base image's; None takes a key away.

    `given` is the request's own, which goes before the container's; Dockerfile instructions go
    before both.

    Raises:
        BuildError: for an instruction that is malformed or does more than configure.
    """
    own = _image_part(record.config) | {"Env": list(record.env)}
    if given is None:
        return apply_changes(own, changes)
    config = apply_changes(_image_part(given), changes)
    names = {entry.partition("=")[0] for entry in config.get("Env", ())}
    config["Env"] = [
        *config.get("Env", ()),
        *(entry for entry in own["Env"] if entry.partition("=")[0] not in names),
    ]
    for key in _MERGED:
        config[key] = {**own.get(key, {}), **config.get(key, {})}
    for key in _PLAIN:
        config.setdefault(key, own.get(key))
    if "Entrypoint" in config:
        config.setdefault("Cmd", None)  # the container's was for another program
    else:
        config |= {"Entrypoint": own.get("Entrypoint")} if "Entrypoint" in own else {}
        config.setdefault("Cmd", own.get("Cmd"))
    return {key: value for key, value in config.items() if value or key in ("Env", "Cmd")}


def _image_part(config: ContainerConfig) -> dict[str, Any]:
    health = msgspec.to_builtins(config.healthcheck) if config.healthcheck else {}
    given = {
        "Cmd": config.cmd,
        "Entrypoint": config.entrypoint,
        "Env": config.env,
        "User": config.user,
        "WorkingDir": config.working_dir,
        "Labels": config.labels,
        "ExposedPorts": config.exposed_ports,
        "Volumes": config.volumes,
        "StopSignal": config.stop_signal,
        "Healthcheck": {key: value for key, value in health.items() if value},
    }
    return {key: value for key, value in given.items() if value}

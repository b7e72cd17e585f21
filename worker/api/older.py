"""What clients of older API versions are shown, from the document of the newest.

Source: the Engine API's version history, 1.41 to 1.50. `minor` is 47 of version 1.47.
"""

from collections.abc import Mapping
from typing import Any

from swarmapi.errors import InvalidArgument

Json = dict[str, Any]
_CREATION_UNCHANGED_SINCE = 46
_NO_TAG, _NO_DIGEST = "<none>:<none>", "<none>@<none>"
_OF_CONTAINERS: Mapping[str, Any] = {
    "Hostname": "", "Domainname": "", "AttachStdin": False, "AttachStdout": False,
    "AttachStderr": False, "Tty": False, "OpenStdin": False, "StdinOnce": False, "Image": "",
}  # fmt: skip
"""Keys of a Config that say nothing about an image: left out from 1.50 on."""


def creation(body: Json, minor: int) -> Json:
    """Return the body of a create as its version means it.

    Raises InvalidArgument for what a newer version must ask for.
    """
    if minor >= _CREATION_UNCHANGED_SINCE or not isinstance(body.get("HostConfig"), Mapping):
        return body
    host = dict(body["HostConfig"])
    if minor < 40 and not host.get("IpcMode"):
        host["IpcMode"] = "shareable"
    if minor < 41 and not host.get("CgroupnsMode"):
        host["CgroupnsMode"] = "host"
    unknown = {"ConsoleSize": 42, "Annotations": 43}
    host = {key: value for key, value in host.items() if minor >= unknown.get(key, 0)}
    if isinstance(host.get("Mounts"), list):
        host["Mounts"] = [_mount(one, minor) for one in host["Mounts"]]
    check = body.get("Healthcheck")
    if minor < 44 and isinstance(check, Mapping):
        check = {key: value for key, value in check.items() if key != "StartInterval"}
    return {**body, "HostConfig": host, "Healthcheck": check}


def _mount(mount: Any, minor: int) -> Any:
    if not isinstance(mount, Mapping):
        return mount
    kind, read_only = mount.get("Type"), mount.get("ReadOnly")
    binding, volume, memory = (
        dict(found) if isinstance(found := mount.get(key), Mapping) else {}
        for key in ("BindOptions", "VolumeOptions", "TmpfsOptions")
    )
    if minor < 44 and kind == "bind" and read_only:
        # what is mounted below stayed writable then
        return {**mount, "BindOptions": {**binding, "ReadOnlyNonRecursive": True}}
    if minor < 45 and volume.get("Subpath"):
        raise InvalidArgument("VolumeOptions.Subpath needs API v1.45 or newer")
    if memory.pop("Options", None):
        return {**mount, "TmpfsOptions": memory}
    return mount


def image_summary(image: Json, minor: int) -> Json:
    """Return an entry of a list of images."""
    shown = dict(image)
    if minor < 43 and not shown["RepoTags"] and not shown["RepoDigests"]:
        shown |= {"RepoTags": [_NO_TAG], "RepoDigests": [_NO_DIGEST]}
    if minor < 44:
        shown["VirtualSize"] = shown["Size"]
    return shown


def image_details(image: Json, minor: int) -> Json:
    """Return one image."""
    shown = dict(image)
    own = {key: value for key, value in shown["Config"].items() if key not in _OF_CONTAINERS}
    shown["Config"] = own if minor >= 50 else {**_OF_CONTAINERS, **own}
    if minor < 45:
        shown |= {"Container": "", "ContainerConfig": dict(_OF_CONTAINERS)}
    if minor < 44:
        shown["VirtualSize"] = shown["Size"]
    return shown


def container(details: Json, minor: int) -> Json:
    """Return a container, or an entry of a list of them: its endpoints differ."""
    networks = details["NetworkSettings"]["Networks"]
    older = {name: _endpoint(one, details["Id"][:12], minor) for name, one in networks.items()}
    return {**details, "NetworkSettings": {**details["NetworkSettings"], "Networks": older}}


def _endpoint(endpoint: Json, short_id: str, minor: int) -> Json:
    shown = dict(endpoint)
    names = shown.get("DNSNames") or []
    if minor < 45 and short_id in names:
        shown["Aliases"] = [*(shown["Aliases"] or []), short_id]
    if minor < 44:
        shown.pop("DNSNames", None)
    if minor < 48:
        shown.pop("GwPriority", None)
    return shown


def network(details: Json, minor: int) -> Json:
    """Return a network."""
    if minor >= 48:
        return details
    return {key: value for key, value in details.items() if key != "EnableIPv4"}

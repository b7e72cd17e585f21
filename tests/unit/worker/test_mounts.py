"""From Docker's words for mounts to mount points, and what of them is refused."""

from typing import Any

import msgspec
import pytest

from swarmapi.errors import InvalidArgument, SwarmError, Unsupported
from swarmapi.model.mounts import tmpfs_options
from worker.engine.mounts import VolumeWish, resolve_mounts, to_oci
from worker.engine.record import MountPoint
from worker.engine.spec import ContainerConfig, HostConfig


def resolve(image: tuple[str, ...] = (), volumes: Any = None, **host: Any) -> list[MountPoint]:
    def open_volume(wish: VolumeWish) -> str:
        return wish.name or "anonymous"

    return resolve_mounts(
        ContainerConfig(volumes=volumes or {}),
        msgspec.convert(host, HostConfig),
        image,
        open_volume,
        lambda name: f"/volumes/{name}",
    )


def mount(**fields: Any) -> list[MountPoint]:
    return resolve(Mounts=[{"Target": "/t", **fields}])


def test_binds_and_volumes() -> None:
    points = resolve(Binds=["/:/b:ro,rslave,z", "vol:/v:nocopy", "v2:/v/in"])
    assert [(p.kind, p.source, p.target) for p in points] == [
        ("bind", "/", "/b"),
        ("volume", "/volumes/vol", "/v"),
        ("volume", "/volumes/v2", "/v/in"),
    ]
    assert (points[0].read_only, points[0].propagation) == (True, "rslave")
    assert points[1].no_copy
    assert [m["options"] for m in to_oci(points)] == [
        ["rbind", "rro", "rslave"],
        ["rbind", "rw", "rprivate"],
        ["rbind", "rw", "rprivate"],
    ]


def test_an_images_volume_gives_way_to_the_users_mount() -> None:
    points = resolve(("/data/", "/other"), Binds=["vol:/data"])
    assert [(p.name, p.anonymous) for p in points] == [("vol", False), ("anonymous", True)]


def test_read_only_binds_go_as_deep_as_they_are_asked_to() -> None:
    def options(**bind: bool) -> list[str]:
        words = {"Type": "bind", "Source": "/", "ReadOnly": True, "BindOptions": bind}
        return list(to_oci(mount(**words))[0]["options"][:2])

    assert options() == ["rbind", "rro"]
    assert options(ReadOnlyNonRecursive=True) == ["rbind", "ro"]
    assert options(ReadOnlyForceRecursive=True) == ["rbind", "rro"]
    assert options(NonRecursive=True) == ["bind", "ro"]


def test_a_subpath_is_left_to_the_runtime() -> None:
    words = {"Type": "volume", "Source": "v", "VolumeOptions": {"Subpath": "a/b"}}
    (rendered,) = to_oci(mount(**words))
    assert (rendered["source"], rendered["subpath"]) == ("/volumes/v", "a/b")


def test_the_last_word_on_a_tmpfs_counts() -> None:
    assert tmpfs_options(["exec", "size=1m", "size=2m"]) == ["exec", "nosuid", "nodev", "size=2m"]
    (point,) = mount(Type="tmpfs", TmpfsOptions={"SizeBytes": 9, "Mode": 0o700})
    assert point.options == ["noexec", "nosuid", "nodev", "size=9", "mode=700"]
    (point,) = mount(Type="tmpfs", TmpfsOptions={"Options": [["exec"], ["uid", "7"]]})
    assert point.options == ["exec", "nosuid", "nodev", "uid=7"]


@pytest.mark.parametrize(
    ("host", "kind", "words"),
    [
        ({"Binds": ["vol"]}, InvalidArgument, "invalid volume specification"),
        ({"Binds": ["/:/b:ro,rw"]}, InvalidArgument, "invalid mode"),
        ({"Binds": ["/:/b:odd"]}, InvalidArgument, "invalid mode"),
        ({"Binds": ["/:/b:nocopy"]}, InvalidArgument, "invalid mode"),
        ({"Binds": ["vol:/v:shared"]}, InvalidArgument, "invalid mode"),
        ({"Binds": ["vol:/"]}, InvalidArgument, "destination can't be '/'"),
        ({"Binds": ["vol:rel"]}, InvalidArgument, "must be absolute"),
        ({"Binds": ["/:/b", "vol:/b/"]}, InvalidArgument, "Duplicate mount point"),
        ({"Tmpfs": {"/t": "colour=red"}}, InvalidArgument, "invalid tmpfs option"),
        ({"Mounts": [{"Type": "npipe", "Target": "/t"}]}, Unsupported, "npipe"),
        (
            {"Mounts": [{"Type": "bind", "Source": "/no/such", "Target": "/t"}]},
            InvalidArgument,
            "does not exist",
        ),
        (
            {"Mounts": [{"Target": "/t", "BindOptions": {"Propagation": "slave"}}]},
            InvalidArgument,
            "BindOptions must not be specified",
        ),
        (
            {"Mounts": [{"Target": "/t", "VolumeOptions": {"Subpath": "a"}}]},
            InvalidArgument,
            "anonymous",
        ),
        (
            {"Mounts": [{"Source": "v", "Target": "/t", "VolumeOptions": {"Subpath": "../a"}}]},
            InvalidArgument,
            "relative path within the volume",
        ),
        (
            {"Mounts": [{"Target": "/t", "VolumeOptions": {"DriverConfig": {"Name": "nfs"}}}]},
            Unsupported,
            "nfs",
        ),
        ({"Mounts": [{"Type": "tmpfs", "Source": "s", "Target": "/t"}]}, InvalidArgument, "Source"),
        ({"Mounts": [{"Type": "bind", "Target": "/t"}]}, InvalidArgument, "must not be empty"),
        (
            {"Mounts": [{"Type": "volume", "Target": "/t", "ReadOnly": True}]},
            InvalidArgument,
            "must not set ReadOnly mode",
        ),
    ],
)
def test_refusals(host: dict[str, Any], kind: type[SwarmError], words: str) -> None:
    with pytest.raises(kind, match=words):
        resolve(**host)

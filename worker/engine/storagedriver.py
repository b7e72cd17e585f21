"""Whether the storage driver asked for can work where the data is."""

import asyncio
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from runtime import rootview
from runtime.errors import RuntimeFailure
from runtime.image.snapshot import make_subvolume
from runtime.oci import Overlay
from runtime.supervisor import userns
from runtime.supervisor.ids import IdMap
from swarmapi.errors import InvalidArgument, Unsupported
from worker.engine.logoptions import parse_size
from worker.engine.ports import Supervisor


def container_size(driver: str, options: Mapping[str, str]) -> int:
    """Return the most bytes that a container's root may have, 0 without a limit.

    Raises:
        InvalidArgument: for a malformed size.
        Unsupported: for another option, or where the driver knows no sizes.
    """
    for key, value in options.items():
        if key != "size":
            raise Unsupported(f"storage option {key!r} is not supported: leave it out")
        if driver != "btrfs":
            raise Unsupported(f"storage option size needs storage driver btrfs, not {driver}")
        return parse_size(value)
    return 0


def check(driver: str, data_root: Path) -> None:
    """Try the driver on the data root's file system; raises InvalidArgument with the way out."""
    if driver == "btrfs":
        _check_snapshots(data_root)
    elif driver == "overlay2":
        _check_overlays(data_root)


async def check_mapping(supervisor: Supervisor, ids: IdMap, data_root: Path) -> None:
    """Try to run with these ids on the data root; raises InvalidArgument with the way out."""
    try:
        netns_fd = await supervisor.new_netns(ids)
        try:
            await asyncio.to_thread(_check_mapped_overlay, netns_fd, ids, data_root)
        finally:
            os.close(netns_fd)
    except (OSError, RuntimeFailure) as error:
        raise InvalidArgument(
            f"userns-remap does not work on {data_root}: {error}: it takes Linux 6.5, allowed user"
            " namespaces, and a file system that translates ids, such as ext4 or xfs"
        ) from error


def _check_mapped_overlay(netns_fd: int, ids: IdMap, data_root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".userns-", dir=data_root) as directory:
        places = {name: Path(directory, name) for name in ("lower", "upper", "work")}
        for place in places.values():
            place.mkdir()
        owner = userns.owner(netns_fd)
        try:
            layers = {name: str(place) for name, place in places.items()}
            space = userns.UserNamespace(owner, ids)
            tree = space.overlay({**layers, "lower": [layers["lower"]]})
        finally:
            os.close(owner)
        try:
            if os.fstatvfs(tree).f_flag & os.ST_RDONLY:
                raise RuntimeFailure("its layers cannot be written to with other ids")
        finally:
            os.close(tree)


def _check_snapshots(data_root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".btrfs-", dir=data_root) as directory:
        try:
            make_subvolume(Path(directory, "subvolume"))
        except OSError as error:
            raise InvalidArgument(
                f"storage driver btrfs needs a data root on btrfs, {data_root} is on none: use"
                " --storage-driver overlay2 or vfs, or another --data-root"
            ) from error


def _check_overlays(data_root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".overlay-", dir=data_root) as directory:
        places = {name: Path(directory, name) for name in ("lower", "upper", "work", "merged")}
        for place in places.values():
            place.mkdir()
        overlay = Overlay(
            lower=(str(places["lower"]),),
            upper=str(places["upper"]),
            work=str(places["work"]),
            merged=str(places["merged"]),
        )
        try:
            rootview.assemble(overlay).close()
        except (OSError, RuntimeFailure) as error:
            raise InvalidArgument(
                f"storage driver overlay2 does not work on {data_root}: {error}: use"
                " --storage-driver vfs, or another file system"
            ) from error

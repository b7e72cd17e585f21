"""Volumes and tmpfs of a service as Mounts of the Engine API."""

from typing import Any

from swarmctl.compose.deploy import compact
from swarmctl.compose.names import Names
from swarmctl.compose.section import Section, as_text
from swarmctl.errors import ClientError

Spec = dict[str, Any]
_PROPAGATIONS = ("shared", "slave", "private", "rshared", "rslave", "rprivate")
_HOST_PATHS = ("/", ".", "~")


def mounts(section: Section, names: Names) -> list[Spec] | None:
    """Return the mounts of `volumes` and `tmpfs`."""
    rows: list[Spec] = []
    for item, path in section.items("volumes"):
        row = (
            _long(Section(item, path), names)
            if isinstance(item, dict)
            else _short(item, path, names)
        )
        rows.append(compact(row))
    paths = section.texts("tmpfs") or []
    rows += [compact(_tmpfs(text, section.at("tmpfs"))) for text in paths]
    return rows or None


def _short(item: Any, path: str, names: Names) -> Spec:
    """Return the Mount of `[SOURCE:]TARGET[:MODE]`."""
    parts = as_text(item, path).split(":")
    if len(parts) > 3 or not all(parts):
        raise ClientError(f"{path}: invalid volume {item!r}: want [SOURCE:]TARGET[:MODE]")
    if len(parts) == 1:
        return {"Type": "volume", "Target": parts[0]}
    row: Spec = {"Target": parts[1]}
    _source(row, "bind" if parts[0].startswith(_HOST_PATHS) else "volume", parts[0], path, names)
    for option in parts[2].split(",") if len(parts) == 3 else []:
        if option in ("ro", "rw"):
            row["ReadOnly"] = option == "ro" or None
        elif option == "nocopy" and row["Type"] == "volume":
            row.setdefault("VolumeOptions", {})["NoCopy"] = True
        elif option in _PROPAGATIONS and row["Type"] == "bind":
            row["BindOptions"] = {"Propagation": option}
        elif option not in (
            "z",
            "Z",
            "consistent",
            "cached",
            "delegated",
        ):  # nothing to do on Linux
            raise ClientError(f"{path}: invalid volume {item!r}: unknown mode {option!r}")
    return row


def _long(section: Section, names: Names) -> Spec:
    kind = section.choice("type", "volume", "bind", "tmpfs") or "volume"
    row: Spec = {"Target": section.text("target"), "ReadOnly": section.truth("read_only")}
    if not row["Target"]:
        raise ClientError(f"{section.at('target')}: missing")
    section.take("consistency")
    if source := section.text("source"):
        _source(row, kind, source, section.path, names)
    elif kind == "bind":
        raise ClientError(f"{section.at('source')}: missing: a bind needs one")
    row["Type"] = kind
    if kind == "bind":
        bind = section.section("bind")
        row["BindOptions"] = {
            "Propagation": bind.text("propagation"),
            "CreateMountpoint": bind.truth("create_host_path"),
        }
        bind.take("selinux")
        bind.end()
    if kind == "volume":
        volume = section.section("volume")
        options = row.setdefault("VolumeOptions", {})
        options["NoCopy"] = volume.truth("nocopy")
        options["Subpath"] = volume.text("subpath")
        volume.end()
    if kind == "tmpfs":
        tmpfs = section.section("tmpfs")
        row["TmpfsOptions"] = {"SizeBytes": tmpfs.size("size"), "Mode": tmpfs.mode("mode")}
        tmpfs.end()
    section.end()
    return row


def _source(row: Spec, kind: str, source: str, path: str, names: Names) -> None:
    row["Type"] = kind
    if kind == "tmpfs":
        raise ClientError(f"{path}: a tmpfs has no source")
    if kind == "bind":
        row["Source"] = names.resolve(source)
        return
    volume = names.volume(source, path)
    row["Source"] = volume.name
    if volume.options:
        row["VolumeOptions"] = dict(volume.options)


def _tmpfs(text: str, path: str) -> Spec:
    target, _, rest = text.partition(":")
    row: Spec = {"Type": "tmpfs", "Target": target}
    options = Section(dict(item.partition("=")[::2] for item in rest.split(",") if item), path)
    row["TmpfsOptions"] = {"SizeBytes": options.size("size"), "Mode": options.mode("mode")}
    options.end()
    return row

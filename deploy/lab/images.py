"""Assemble the build contexts of the demo's images under .cache/images."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from layout import REPOSITORY, LabError, locked

SOURCES = REPOSITORY / "deploy" / "images"
CACHE = REPOSITORY / ".cache" / "images"
NAMES = ("busybox:latest", "swarm-demo/web:1")
BUSYBOX = (Path("/usr/bin/busybox"), Path("/bin/busybox"))


def contexts() -> list[tuple[str, Path]]:
    """Return name and build context of every image, the base first."""
    with locked():  # labs that come up together share the cache
        return [(NAMES[0], _busybox_context()), (NAMES[1], SOURCES / "web")]


def _busybox_context() -> Path:
    """Make the context of busybox: its Dockerfile, and rootfs/ with a link for every applet."""
    binary = next((path for path in BUSYBOX if path.exists()), None)
    if binary is None:
        raise LabError("busybox is missing: run deploy/setup, which installs busybox-static")
    context = CACHE / "busybox"
    dockerfile = SOURCES / "busybox" / "Dockerfile"
    made = context / "Dockerfile"  # written last: it dates the context
    newest_s = max(path.stat().st_mtime for path in (binary, dockerfile, Path(__file__)))
    if made.exists() and made.stat().st_mtime >= newest_s:
        return context  # another lab may be reading it
    shutil.rmtree(context, ignore_errors=True)
    rootfs = context / "rootfs"
    for directory in ("bin", "etc", "root", "tmp", "var"):
        (rootfs / directory).mkdir(parents=True)
    (rootfs / "tmp").chmod(0o1777)
    (rootfs / "root").chmod(0o700)
    shutil.copyfile(binary, rootfs / "bin" / "busybox")
    (rootfs / "bin" / "busybox").chmod(0o755)
    listed = subprocess.run([str(binary), "--list"], capture_output=True, text=True, check=True)
    for applet in listed.stdout.split():
        if applet != "busybox":
            (rootfs / "bin" / applet).symlink_to("busybox")
    (rootfs / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    )
    (rootfs / "etc" / "group").write_text("root:x:0:\nnobody:x:65534:\n")
    shutil.copyfile(dockerfile, made)
    return context

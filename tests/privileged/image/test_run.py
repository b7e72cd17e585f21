from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from runtime.image.build.builder import Builder
from runtime.image.build.options import BuildOptions, RunStep
from runtime.image.errors import BuildError
from runtime.image.store import ImageStore
from runtime.image.view import LayeredView

BUSYBOX = Path("/bin/busybox")
SCRIPT = (
    'mount -t tmpfs swarm-test "$1" && mkdir "$1/u" "$1/w" "$1/m" && '
    'mount -t overlay swarm-test -o "lowerdir=$2,upperdir=$1/u,workdir=$1/w" "$1/m" || exit 125; '
    'target=$1; upper=$3; shift 3; chroot "$target/m" "$@"; code=$?; '
    'cp -a "$target/u/." "$upper/"; exit $code'
)


class ChrootRunner:
    """Runs a step on a real overlay, in a mount namespace that ends with it."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def run(self, step: RunStep) -> int:
        self.work.mkdir(exist_ok=True)
        stack = ":".join(str(path) for path in step.lower)
        upper = step.directory / "upper"
        words = ["unshare", "-m", "sh", "-c", SCRIPT, "step", str(self.work), stack, str(upper)]
        done = subprocess.run(
            [*words, *step.argv], env=dict(step.env), capture_output=True, timeout=30, check=False
        )
        step.output("stdout", done.stdout)
        step.output("stderr", done.stderr)
        return done.returncode


def test_steps_change_files_on_a_real_overlay(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "busybox").write_bytes(BUSYBOX.read_bytes())
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY --chmod=755 busybox /bin/sh\nCOPY busybox /old/file\n"
        'RUN echo "hello"; echo made > /made\n'
    )
    store = ImageStore(tmp_path / "store")
    builder = Builder(store, ChrootRunner(tmp_path / "work"))
    lines: list[dict[str, Any]] = []
    image = builder.build(LayeredView((context,)), BuildOptions(), lines.append)
    view = LayeredView(store.lower_dirs(store.resolve(image)))
    entry = view.locate("made")[1]
    assert entry is not None
    assert entry.physical.read_text() == "made\n"
    assert {"stream": "hello\n"} in lines
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY --chmod=755 busybox /bin/sh\nRUN exit 3\n"
    )
    with pytest.raises(BuildError) as caught:
        builder.build(LayeredView((context,)), BuildOptions(), lines.append)
    assert caught.value.code == 3

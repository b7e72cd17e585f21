"""The layer between image and container: mount points that are nobody's change.

As with Docker, what every start mounts over is there already: a container's own layer, and with
it `diff` and `commit`, then hold only what the container did.
"""

from functools import lru_cache
from pathlib import Path

from runtime.image.view import LayeredView

_DIRECTORIES = {"etc": 0o755, "dev": 0o755, "dev/pts": 0o755, "dev/shm": 0o755}
_DIRECTORIES |= {"proc": 0o555, "sys": 0o555}
_FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf", "dev/console", ".dockerenv")
_NAME = "initlayer"


@lru_cache(maxsize=256)
def above(data_root: Path, lower: tuple[str, ...]) -> tuple[str, ...]:
    """Return an image's layers with the layer of mount points on top.

    An image that has a link in the place of one of its directories goes without: the layer would
    hide what the link leads to.
    """
    view = LayeredView(tuple(Path(path) for path in lower))
    root = view.root()
    entries = [view.child(root, name) for name in _DIRECTORIES if "/" not in name] if root else []
    if any(entry is not None and not entry.is_directory for entry in entries):
        return lower
    return (_prepare(data_root), *lower)


@lru_cache(maxsize=16)
def _prepare(data_root: Path) -> str:
    """Make the layer, once; containers share it, it never changes."""
    root = data_root / _NAME
    for name, mode in _DIRECTORIES.items():
        directory = root / name
        if not directory.is_dir():
            directory.mkdir(parents=True)
            directory.chmod(mode)
    for name in _FILES:
        (root / name).touch(mode=0o755 if name == ".dockerenv" else 0o644)
    return str(root)

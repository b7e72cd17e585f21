"""The layer between image and container: mount points that are nobody's change.

As with Docker, what every start mounts over is there already: a container's own layer, and with
it `diff` and `commit`, then hold only what the container did.
"""

from functools import lru_cache
from pathlib import Path

_DIRECTORIES = {"etc": 0o755, "dev": 0o755, "dev/pts": 0o755, "dev/shm": 0o755}
_DIRECTORIES |= {"proc": 0o555, "sys": 0o555}
_FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf", "dev/console", ".dockerenv")
_NAME = "initlayer"


@lru_cache(maxsize=16)
def prepare(data_root: Path) -> str:
    """Return the directory of the layer, made once; containers share it, it never changes."""
    root = data_root / _NAME
    for name, mode in _DIRECTORIES.items():
        directory = root / name
        if not directory.is_dir():
            directory.mkdir(parents=True)
            directory.chmod(mode)
    for name in _FILES:
        (root / name).touch(mode=0o755 if name == ".dockerenv" else 0o644)
    return str(root)

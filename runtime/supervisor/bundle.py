"""Build the supervisor's program: one zip of compiled modules, named for its content."""

from __future__ import annotations

import hashlib
import os
import py_compile
import sys
import tempfile
import zipfile
from pathlib import Path

_MODULES = ("__init__", "errors")
_MAIN = "from runtime.supervisor.main import main\n\nmain()\n"


def build(state_dir: Path) -> Path:
    """Write the program into the state directory unless it is there; returns its path."""
    runtime = Path(__file__).resolve().parent.parent
    files = [runtime / f"{name}.py" for name in _MODULES]
    files += sorted((runtime / "supervisor").glob("*.py"))
    digest = hashlib.sha256(sys.version.encode())
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    target = state_dir / f"supervisor-{digest.hexdigest()[:16]}.pyz"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=state_dir) as scratch:
        archive = Path(scratch) / "program"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as bundle:
            bundle.writestr("__main__.py", _MAIN)
            for file in files:
                name = str(file.relative_to(runtime.parent))
                compiled = f"{scratch}/module.pyc"
                py_compile.compile(
                    str(file),
                    cfile=compiled,
                    dfile=name,
                    doraise=True,
                    optimize=0,
                    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
                )
                bundle.write(compiled, name + "c")
        os.replace(archive, target)
    return target


def interpreter() -> str:
    """Return the real interpreter behind a virtual environment's link."""
    return os.path.realpath(sys.executable)

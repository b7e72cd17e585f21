"""Plants each bug in a copy and runs the tests of the core: `python -m tests.sim.mutations`."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.sim.mutations.planted import ALL, Planted

ROOT = Path(__file__).parents[3]
PARTS = ("manager", "proto", "tests", "worker", "runtime", "pyproject.toml")
SUITES = ("tests/unit/manager", "tests/property/manager", "tests/sim/cluster")
LIMIT_S = 900.0


def catcher(bug: Planted | None, workspace: Path) -> str:
    """Return the test that fails, or that none ends, once the bug, if any, is planted; else "".

    Raises:
        ValueError: its text does not stand in the file exactly once any more.
    """
    text = (ROOT / bug.path).read_text() if bug is not None else ""
    if bug is not None and text.count(bug.old) != 1:
        raise ValueError(f"{bug.path} has this {text.count(bug.old)} times: {bug.old!r}")
    copy = Path(tempfile.mkdtemp(dir=workspace))
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part)
        else:
            shutil.copy(ROOT / part, copy / part)
    if bug is not None:
        (copy / bug.path).write_text(text.replace(bug.old, bug.new))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *SUITES]
    environment = {**os.environ, "PYTHONPATH": f"{copy}:{copy / 'proto'}"}
    try:
        result = subprocess.run(
            command,
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end within {LIMIT_S:g} s"
    finally:
        shutil.rmtree(copy)
    if result.returncode == 0:
        return ""
    found = re.findall(r"^(?:FAILED|ERROR) (\S+)", result.stdout, re.MULTILINE)
    return found[0] if found else f"pytest's exit code {result.returncode}"


def main() -> int:
    """Plant what is asked for; the exit code tells whether any bug survived or was stale."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.mutations")
    parser.add_argument("--only", default="", help="bugs whose name has this in it")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    args = parser.parse_args()
    chosen = [bug for bug in ALL if args.only in bug.name]
    caught = 0
    with tempfile.TemporaryDirectory() as workspace, ThreadPoolExecutor(args.jobs) as pool:
        broken = catcher(None, Path(workspace))
        if broken:
            sys.stdout.write(f"without any bug, too, fails {broken}: nothing can be told\n")
            return 1
        runs = [(bug, pool.submit(catcher, bug, Path(workspace))) for bug in chosen]
        for bug, future in runs:
            error = future.exception()
            found = future.result() if error is None else ""
            caught += bool(found)
            state = f"caught by {found}" if found else str(error or "SURVIVED")
            sys.stdout.write(f"{bug.name}: {state}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{caught} of {len(chosen)} caught\n")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Plants each bug in a copy and runs the tests of the core: `python -m tests.sim.mutations`.

What the everyday tests of the replicated log miss, its simulation is to find in 500 seeds.
"""

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
from tests.sim.mutations.raft import RAFT

ROOT = Path(__file__).parents[3]
PARTS = ("manager", "proto", "tests", "worker", "runtime", "pyproject.toml")
SUITES = ("tests/unit/manager", "tests/property/manager", "tests/sim/cluster")
RAFT_SUITES = ("tests/unit/raft", "tests/sim/raft")
HUNT = ("tests.sim.raft", "--seed", "10000", "--seeds", "500", "--first")
LIMIT_S = 1800.0


def suites_of(bug: Planted) -> tuple[str, ...]:
    """Return the tests that are to catch a bug."""
    return RAFT_SUITES if bug in RAFT else SUITES


def catcher(bug: Planted | None, suites: tuple[str, ...], workspace: Path) -> str:
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
    try:
        found = _failing(copy, "pytest", "-q", "-x", "-p", "no:cacheprovider", *suites)
        if not found and bug in RAFT:
            found = _failing(copy, *HUNT)
    except subprocess.TimeoutExpired:
        return f"no end within {LIMIT_S:g} s"
    finally:
        shutil.rmtree(copy)
    return found


def _failing(copy: Path, *module: str) -> str:
    """Run a module in the copy; return what fails, "" where nothing does."""
    environment = {**os.environ, "PYTHONPATH": f"{copy}:{copy / 'proto'}"}
    result = subprocess.run(
        [sys.executable, "-m", *module],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if result.returncode == 0:
        return ""
    pattern = r"^(?:FAILED|ERROR) (\S+)|replay: (python .*)$"
    found = re.search(pattern, result.stdout, re.MULTILINE)
    if found is None:
        return f"exit code {result.returncode} of {module[0]}"
    return found[1] or found[2]


def main() -> int:
    """Plant what is asked for; the exit code tells whether any bug survived or was stale."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.mutations")
    parser.add_argument(
        "--only", default="", help="bugs whose name has this in it, or of this folder"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    args = parser.parse_args()
    every = (*ALL, *RAFT)
    chosen = [bug for bug in every if args.only in bug.name or bug.path.startswith(args.only)]
    caught = 0
    with tempfile.TemporaryDirectory() as workspace, ThreadPoolExecutor(args.jobs) as pool:
        for suites in {suites_of(bug) for bug in chosen}:
            if broken := catcher(None, suites, Path(workspace)):
                sys.stdout.write(f"without any bug, too, fails {broken}: nothing can be told\n")
                return 1
        runs = [(bug, pool.submit(catcher, bug, suites_of(bug), Path(workspace))) for bug in chosen]
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

"""Kills with `python -m tests.soak.engine`: exit 1 when anything was lost, doubled or left."""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from tests.e2e.engine.machine import Machine, install_box
from tests.soak.kills import Soak


def main() -> int:
    """Run one soak and say what came of it."""
    parser = argparse.ArgumentParser(prog="tests.soak.engine")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--holder-share", type=float, default=0.1)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    machine = Machine(root)
    try:
        machine.start()
        install_box(machine)
        soak = Soak(machine, options.seed, options.kills, options.holder_share)
        soak.run()
        print(f"seed {options.seed}: {soak.killed} killed, {soak.done} works done")
        for fault in soak.faults:
            print(f"fault: {fault}")
        if soak.faults:
            shutil.copy(root / "log", f"{root}.log")
            print(f"the daemon's log is {root}.log")
        return int(bool(soak.faults))
    finally:
        machine.close()
        shutil.rmtree(root)


if __name__ == "__main__":
    raise SystemExit(main())

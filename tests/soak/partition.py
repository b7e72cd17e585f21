"""A node cut off from the others, for minutes: `python -m tests.soak.partition --seconds 180`."""

import argparse
import os
import sys

from tests.e2e import isolation
from tests.e2e.lab import LabHandle

RIGHT_WITHIN_S = 5.0


def main() -> int:
    """Print how soon names and VIP were right after each healing; 1 where it took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--lab", help="one that is up already")
    options = parser.parse_args()
    lab = LabHandle(options.lab or f"t{os.getpid()}c")
    try:
        if not options.lab:
            lab.run("up", "--managers", "1", "--workers", "2")
        lab = LabHandle(lab.name, tuple(lab.run("nodes").stdout.split()))
        with isolation.arranged(lab):
            spent_s = [isolation.cut_off(lab, options.seconds) for _ in range(options.rounds)]
    finally:
        if not options.lab:
            lab.run("down")
    shown = " ".join(f"{one:.2f}" for one in spent_s)
    print(f"cut off for {options.seconds:g} s: names and VIP right within {shown} s of healing")
    return int(max(spent_s) > RIGHT_WITHIN_S)


if __name__ == "__main__":
    sys.exit(main())

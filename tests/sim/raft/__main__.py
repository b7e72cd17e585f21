"""Replays or hunts: `python -m tests.sim.raft --seed 7 --profile members`, or `--seeds 2000`."""

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

from tests.sim.raft.simulation import PROFILES, run


def main() -> int:
    """Run the seeds asked for; print each that breaks a promise, and what all did together."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.raft")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--duration", type=float, default=60.0, help="virtual seconds of faults")
    parser.add_argument("--profile", choices=PROFILES, help="default: one after the other by seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--first", action="store_true", help="end at the first broken promise")
    args = parser.parse_args()
    names, began_s = tuple(PROFILES), time.monotonic()
    broken, done, total = 0, 0, Counter[str]()
    with ProcessPoolExecutor(args.jobs) as pool:
        runs = [
            pool.submit(run, seed, args.profile or names[seed % len(names)], args.duration)
            for seed in range(args.seed, args.seed + args.seeds)
        ]
        for future in runs:
            done += 1
            error = future.exception()
            if error is None:
                total.update(asdict(future.result()))
                continue
            broken += 1
            sys.stdout.write(f"{error}\n")
            if args.first:
                pool.shutdown(cancel_futures=True)
                break
    took_s = time.monotonic() - began_s
    del total["converged_after_s"]
    sys.stdout.write(f"{dict(total)}\n{done} seeds, {broken} broken, {took_s:.0f} s\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""Replays or hunts: `python -m tests.sim.cluster --seed 7`, or `--seeds 1000 --minutes 10`."""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.sim.cluster.simulation import run


def main() -> int:
    """Run the seeds asked for; print each that breaks a promise, and how many did."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.cluster")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--steps", type=int, default=600, help="random steps per seed")
    parser.add_argument("--minutes", type=float, default=0, help="simulated minutes per seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    args = parser.parse_args()
    began_s, broken = time.monotonic(), 0
    with ProcessPoolExecutor(args.jobs) as pool:
        runs = [
            pool.submit(run, seed, args.steps, args.minutes)
            for seed in range(args.seed, args.seed + args.seeds)
        ]
        for future in runs:
            error = future.exception()
            if error is not None:
                broken += 1
                sys.stdout.write(f"{error}\n")
    took_s = time.monotonic() - began_s
    sys.stdout.write(f"{args.seeds} seeds, {broken} broken, {took_s:.0f} s\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""Replays or hunts: `python -m tests.sim.cluster --seed 7`, or `--seeds 1000`."""

import argparse

from tests.sim.cluster.simulation import run


def main() -> None:
    """Run the seeds asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.cluster")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--steps", type=int, default=600, help="random steps per seed")
    args = parser.parse_args()
    for seed in range(args.seed, args.seed + args.seeds):
        run(seed, args.steps)


if __name__ == "__main__":
    main()

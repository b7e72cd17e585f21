"""Replays or hunts: `python -m tests.sim.raft --seed 7`, or `--seeds 100 --members`."""

import argparse
import logging
from dataclasses import asdict

from tests.sim.raft.simulation import run


def main() -> None:
    """Run the seeds asked for and print what each did."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.raft")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds")
    parser.add_argument("--duration", type=float, default=30.0, help="virtual seconds of faults")
    parser.add_argument("--size", type=int, default=3, help="members at the start")
    parser.add_argument("--members", action="store_true", help="change the members as well")
    parser.add_argument("--crash-chance", type=float, default=0.0005, help="at each disk step")
    args = parser.parse_args()
    log = logging.getLogger("sim")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for seed in range(args.seed, args.seed + args.seeds):
        outcome = run(seed, args.duration, args.size, args.members, args.crash_chance)
        log.info("seed %d: %s", seed, asdict(outcome))


if __name__ == "__main__":
    main()

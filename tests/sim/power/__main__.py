"""Cuts a recorded run at every point: `python -m tests.sim.power`."""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from tests.sim.power.recording import Recording
from tests.sim.power.story import check, tell


def main() -> int:
    """Record, cut everywhere, print each image that does not start or lost something."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.power")
    parser.add_argument("--images", type=int, default=5, help="images of each cut")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "disk")
        root.mkdir()
        recording = Recording(root)
        with recording.running():
            asyncio.run(tell(recording))
        steps, image = recording.steps, Path(folder, "image")
        looked_at = broken = 0
        for cut in range(len(steps) + 1):
            for seed in range(args.images):
                try:
                    looked_at += check(steps, cut, seed, image)
                except Exception as error:  # noqa: BLE001 - whatever keeps it from starting
                    broken += 1
                    sys.stdout.write(f"cut {cut} of {len(steps)}, image {seed}: {error!r}\n")
                shutil.rmtree(image, ignore_errors=True)
    sys.stdout.write(f"{len(steps)} steps, {looked_at} images, {broken} broken\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

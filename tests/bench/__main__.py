"""Run the benchmarks interleaved and print measured, budget, met or not: `python -m tests.bench`.

A benchmark module is `tests/bench/NAME.py` with a function `benchmark()` that returns a
`Benchmark` (see `tests.bench.contest`). Its contenders take turns, one sample each per round: a
drift of the machine meets all of them alike.
"""

import argparse
import importlib
import json
import pkgutil
import signal
import sys
from pathlib import Path

import tests.bench
from tests.bench.contest import Benchmark, Result, run

FRAME = {"__main__", "arena", "contest", "dockerd", "nodes", "peers", "ping", "swarms"}


def modules() -> list[str]:
    """List the benchmark modules by name."""
    found = (module.name for module in pkgutil.iter_modules(tests.bench.__path__))
    return sorted(name for name in found if name not in FRAME and not name.startswith("test_"))


def load(name: str) -> Benchmark:
    """Import one benchmark; raises TypeError where its module does not follow the contract."""
    made = importlib.import_module(f"tests.bench.{name}").benchmark()
    if not isinstance(made, Benchmark):
        raise TypeError(f"tests.bench.{name}.benchmark() returned {type(made).__name__}")
    return made


def _end(*_: object) -> None:
    """Close what was started; timeout(1) says it twice, to the process and to its group."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def main() -> int:
    """Measure; with --gate the exit code is 1 where a budget is missed or a peer is missing."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which (default: all of {' '.join(modules())})")
    parser.add_argument("--gate", action="store_true", help="exit 1 where a budget is missed")
    parser.add_argument("--rounds", type=int, help="samples of each contender (default: its own)")
    parser.add_argument("--json", type=Path, default=Path(".cache/bench.json"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    results: list[Result] = []
    for name in options.names or modules():
        result = run(load(name), options.rounds)
        print(result.table(), flush=True)
        results.append(result)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([result.record() for result in results], indent=2))
    print(f"written to {options.json}")
    return 1 if options.gate and not all(result.met for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Interleaved measurement: contenders take turns, the budget is a ratio or an absolute figure."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Contender:
    """One side of a benchmark: `sample` does the thing once and returns what it took.

    `missing` says why it cannot run here (a peer that is not downloaded); it is then left out.
    """

    name: str
    sample: Callable[[], float]
    missing: str = ""


@dataclass(frozen=True)
class Benchmark:
    """What is measured, by whom, and the budget of the first contender, ours.

    With `peer` the budget is a ratio of medians, ours to that contender's; without, it is an
    absolute median in `unit`. Less is better. `close` is called at the end, whatever happened.
    """

    title: str
    unit: str
    contenders: tuple[Contender, ...]
    budget: float
    rounds: int
    peer: str = ""
    warm_up_rounds: int = 3
    close: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True)
class Result:
    """The samples of one benchmark by contender; `missing` holds who could not run, and why."""

    benchmark: Benchmark
    samples: dict[str, list[float]]
    missing: dict[str, str]

    @property
    def measured(self) -> float | None:
        """Return the figure the budget is about, None where our side or the peer is missing."""
        ours = self.samples.get(self.benchmark.contenders[0].name)
        theirs = self.samples.get(self.benchmark.peer)
        if not ours:
            return None
        if not self.benchmark.peer:
            return statistics.median(ours)
        return statistics.median(ours) / statistics.median(theirs) if theirs else None

    @property
    def met(self) -> bool:
        """Tell whether the budget is met; what could not be measured is not."""
        return self.measured is not None and self.measured <= self.benchmark.budget

    def record(self) -> dict[str, object]:
        """Return the result as plain data."""
        return {
            "title": self.benchmark.title,
            "unit": self.benchmark.unit,
            "budget": self.benchmark.budget,
            "peer": self.benchmark.peer,
            "measured": self.measured,
            "met": self.met,
            "samples": self.samples,
            "missing": self.missing,
        }

    def table(self) -> str:
        """Return the result as lines for people."""
        lines = [self.benchmark.title]
        for name, values in self.samples.items():
            ordered = sorted(values)
            p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
            lines.append(
                f"  {name:<14} n={len(values):<4} min {ordered[0]:9.2f}  "
                f"median {statistics.median(values):9.2f}  p95 {p95:9.2f} {self.benchmark.unit}"
            )
        lines += [f"  {name:<14} not run: {why}" for name, why in self.missing.items()]
        what = f"× {self.benchmark.peer}" if self.benchmark.peer else self.benchmark.unit
        shown = "not measured" if self.measured is None else f"{self.measured:.3f} {what}"
        verdict = "met" if self.met else "MISSED"
        lines.append(f"  measured {shown}, budget {self.benchmark.budget:g} {what}: {verdict}")
        return "\n".join(lines)


def run(benchmark: Benchmark, rounds: int | None = None) -> Result:
    """Measure: every round takes one sample of each contender, after warm-up rounds not kept."""
    present = [contender for contender in benchmark.contenders if not contender.missing]
    samples: dict[str, list[float]] = {contender.name: [] for contender in present}
    try:
        for number in range(-benchmark.warm_up_rounds, rounds or benchmark.rounds):
            for contender in present:
                value = contender.sample()
                if number >= 0:
                    samples[contender.name].append(value)
    finally:
        benchmark.close()
    missing = {entry.name: entry.missing for entry in benchmark.contenders if entry.missing}
    return Result(benchmark, samples, missing)

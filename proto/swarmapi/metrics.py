"""Figures for Prometheus, in its text exposition format 0.0.4."""

import os
import resource
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metric(NamedTuple):
    """A named figure with one sample for each set of labels; a counter's name ends in _total."""

    name: str
    help: str
    samples: Sequence[tuple[Mapping[str, str], float]]
    kind: Literal["gauge", "counter"] = "gauge"


def single(
    name: str, help: str, value: float, kind: Literal["gauge", "counter"] = "gauge"
) -> Metric:
    """Return a figure without labels."""
    return Metric(name, help, (({}, value),), kind)


def by(label: str, counts: Mapping[str, float]) -> Sequence[tuple[Mapping[str, str], float]]:
    """Return a sample for each value of one label."""
    return [({label: value}, count) for value, count in sorted(counts.items())]


def render(metrics: Sequence[Metric]) -> str:
    """Return the text of figures; each name must be there once."""
    lines: list[str] = []
    for metric in metrics:
        lines.append(f"# HELP {metric.name} {_escaped(metric.help)}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        for labels, value in metric.samples:
            inside = ",".join(f'{name}="{_quoted(text)}"' for name, text in labels.items())
            shown = f"{{{inside}}}" if inside else ""
            lines.append(f"{metric.name}{shown} {value:.16g}")
    return "".join(f"{line}\n" for line in lines)


def of_process(prefix: str) -> list[Metric]:
    """Return what this process takes: processor time, memory, open files."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return [
        single(
            f"{prefix}_cpu_seconds_total",
            "Processor time used.",
            used.ru_utime + used.ru_stime,
            "counter",
        ),
        single(
            f"{prefix}_resident_memory_bytes", "Resident memory.", pages * resource.getpagesize()
        ),
        single(f"{prefix}_open_fds", "Open files.", len(os.listdir("/proc/self/fd"))),
    ]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')

"""Cron schedules in local time: parsing, and the next start. Pure; times are unix seconds.

Fields, names, steps and the rule that either day field suffices when both are restricted are
crontab(5)'s. So is daylight saving: a schedule whose hour is `*` follows real time; one at fixed
hours runs once where the clock skips its time (at the first moment after) or repeats it (the first
time).
"""

import datetime as dt
import functools
from collections.abc import Iterator
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from swarmapi.errors import InvalidArgument

_MONTHS: Final = [
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
]
_DAYS: Final = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_MACROS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_HORIZON_DAYS: Final = 366 * 8 + 2
"""29 February is at most eight years away."""
_LAST_YEAR: Final = 9990
_OVERLAP: Final = dt.timedelta(hours=3)
"""The clock is never set back by more: local hours this far apart are in the order of real time."""


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    first: int = 0
    """The number of the first name."""


_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, tuple(_MONTHS), 1),
    _Field("day of week", 0, 7, tuple(_DAYS), 0),
)


class Schedule(NamedTuple):
    """A parsed schedule; days of the week are 0 (Sunday) to 6."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    """Day of month or day of week begins with `*`: both must match, else either suffices."""
    every_hour: bool
    zone: ZoneInfo

    def after(self, now_s: int) -> int | None:
        """Return the first start later than `now_s`; None when there is none for eight years."""
        try:
            local = dt.datetime.fromtimestamp(now_s, self.zone).replace(tzinfo=None)
        except (OverflowError, ValueError, OSError):
            return None
        if local.year > _LAST_YEAR:
            return None
        best: int | None = None
        left = 0
        for date, hour in self._hours_from(local - _OVERLAP):
            found = next((s for s in _starts(self, date, hour) if s > now_s), None)
            if best is None and found is not None:
                left = 1 + _OVERLAP // dt.timedelta(hours=1)
            if found is not None and (best is None or found < best):
                best = found
            if best is not None:
                left -= 1
                if left <= 0:
                    return best
        return best

    def _hours_from(self, begin: dt.datetime) -> Iterator[tuple[dt.date, int]]:
        """Yield the matching hours of matching days, in order of local time."""
        for number in range(_HORIZON_DAYS):
            date = begin.date() + dt.timedelta(days=number)
            if self._has_day(date):
                for hour in self.hours:
                    if number or hour >= begin.hour:
                        yield date, hour

    def _has_day(self, date: dt.date) -> bool:
        if date.month not in self.months:
            return False
        by_day = date.day in self.days
        by_weekday = date.isoweekday() % 7 in self.weekdays
        return (by_day and by_weekday) if self.any_day else (by_day or by_weekday)


@functools.lru_cache(maxsize=1024)
def parse(text: str, time_zone: str = "") -> Schedule:
    """Read a schedule of five fields, or a macro such as `@daily`.

    Raises:
        InvalidArgument: names the field, or the time zone.
    """
    fields = _MACROS.get(text.strip().lower(), text).split()
    if len(fields) != len(_FIELDS):
        macros = ", ".join(_MACROS)
        raise InvalidArgument(
            f"schedule {text!r}: five fields are expected (minute, hour, day of month, month, "
            f"day of week), or one of {macros}"
        )
    sets = [_read(field, part) for field, part in zip(_FIELDS, fields, strict=True)]
    return Schedule(
        minutes=tuple(sorted(sets[0])),
        hours=tuple(sorted(sets[1])),
        days=frozenset(sets[2]),
        months=frozenset(sets[3]),
        weekdays=frozenset(day % 7 for day in sets[4]),
        any_day=fields[2].startswith("*") or fields[4].startswith("*"),
        every_hour=fields[1].startswith("*"),
        zone=_zone(time_zone),
    )


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (KeyError, ValueError, OSError) as error:
        raise InvalidArgument(
            f"time zone {name!r} is not known: use a name of the IANA database, as Europe/Berlin"
        ) from error


def _read(field: _Field, text: str) -> set[int]:
    numbers: set[int] = set()
    for item in text.split(","):
        span, slash, step_text = item.partition("/")
        if slash and (not step_text.isdecimal() or int(step_text) == 0):
            raise InvalidArgument(f"schedule: {field.name} {text!r}: {step_text!r} is no step")
        step = int(step_text) if slash else 1
        if span == "*":
            low, high = field.low, field.high
        else:
            begin, dash, end = span.partition("-")
            low = _number(field, begin, text)
            high = _number(field, end, text) if dash else (field.high if slash else low)
        if low > high:
            raise InvalidArgument(f"schedule: {field.name} {text!r}: {span!r} runs backwards")
        numbers.update(range(low, high + 1, step))
    return numbers


def _number(field: _Field, text: str, whole: str) -> int:
    name = text.lower()
    if name in field.names:
        return field.names.index(name) + field.first
    if not text.isdecimal() or not field.low <= int(text) <= field.high:
        limits = f"{field.low} to {field.high}"
        raise InvalidArgument(f"schedule: {field.name} {whole!r}: {text!r} is not {limits}")
    return int(text)


@functools.lru_cache(maxsize=4096)
def _starts(schedule: Schedule, date: dt.date, hour: int) -> tuple[int, ...]:
    """Return the starts whose local time is in an hour of a day, in order."""
    found: set[int] = set()
    for minute in schedule.minutes:
        local = dt.datetime(date.year, date.month, date.day, hour, minute, tzinfo=schedule.zone)
        first, second = int(local.timestamp()), int(local.replace(fold=1).timestamp())
        if first > second:  # the clock skips this time: fold 0 reads it with the offset before
            if not schedule.every_hour:
                found.add(_end_of_gap(schedule.zone, second, first))
        else:
            found.add(first)
            if schedule.every_hour:
                found.add(second)
    return tuple(sorted(found))


def _end_of_gap(zone: ZoneInfo, low_s: int, high_s: int) -> int:
    """Return the moment between two at which the zone's offset changes."""
    before = dt.datetime.fromtimestamp(low_s, zone).utcoffset()
    while high_s - low_s > 1:
        middle_s = (low_s + high_s) // 2
        if dt.datetime.fromtimestamp(middle_s, zone).utcoffset() == before:
            low_s = middle_s
        else:
            high_s = middle_s
    return high_s

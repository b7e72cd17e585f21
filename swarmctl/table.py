"""How lists and objects are printed: tables, templates, JSON, ages and sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from swarmctl.command import Parser, warn
from swarmctl.errors import DaemonError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

Row: TypeAlias = "dict[str, Any]"
_MIN_WIDTH = 10
_GAP = 3
_FIELD = re.compile(r"\.([A-Za-z]\w*)")
_SHORT_ID = 12
ENGINE_KINDS = ("container", "image", "network", "volume")
"""Objects whose every field is known; of the cluster's, empty ones may be left out."""


def add_list_flags(parser: Parser, *, filters: bool = True, truncates: bool = True) -> None:
    """Add --format, --quiet and, where Docker has them, --filter and --no-trunc."""
    parser.add_argument("--format", help="table, json, or a Go template")
    parser.add_argument("-q", "--quiet", action="store_true", help="only print ids")
    if filters:
        parser.add_argument("-f", "--filter", action="append", help="name=value")
    if truncates:
        parser.add_argument("--no-trunc", action="store_true", help="do not shorten")


def show(rows: Sequence[Row], columns: dict[str, str], style: str | None) -> None:
    """Print rows as the table of `columns` (field to heading), or as `--format` says.

    The rows may hold more fields than the table shows; one that takes an argument, as
    `{{.Label "x"}}` does, is a function.
    """
    if style in ("json", "{{json .}}"):
        for row in rows:
            print(_json_row(row))
    elif style and style.startswith("table "):
        _template_table(rows, columns, style.removeprefix("table "))
    elif style and style != "table":
        from swarmctl.template import Template

        template = Template(style, strict=True, code=1)
        for row in rows:
            print(template.render(row))
    else:
        align([list(columns.values()), *([str(row[field]) for field in columns] for row in rows)])


def shows(style: str | None, field: str) -> bool:
    """Say whether a format needs a field that is costly to have."""
    return bool(style) and (f".{field}" in str(style) or "{{json" in str(style))


def label_of(labels: dict[str, str]) -> Callable[[str], str]:
    """Return what `{{.Label "name"}}` calls."""
    return lambda name: labels.get(name, "")


def joined(labels: dict[str, str] | None) -> str:
    """Return labels as a table's cell."""
    return ",".join(f"{name}={value}" for name, value in sorted((labels or {}).items()))


def _json_row(row: Row) -> str:
    """Return a row as Docker does: names in order, every value a text, safe inside HTML."""
    from swarmctl.template_functions import text_of

    plain = {
        name: value if value is None else text_of(value)
        for name, value in row.items()
        if not callable(value)
    }
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def align(lines: Sequence[Sequence[str]]) -> None:
    """Print cells in columns as Docker does: at least 10 wide, 3 apart, the last as it is."""
    widths: list[int] = []
    for line in lines:
        for position, cell in enumerate(line[:-1]):
            if position == len(widths):
                widths.append(_MIN_WIDTH)
            widths[position] = max(widths[position], len(cell) + _GAP)
    for line in lines:
        cells = [cell.ljust(widths[position]) for position, cell in enumerate(line[:-1])]
        print("".join(cells) + (line[-1] if line else ""))


def inspect(
    path: str, client: Any, names: list[str], style: str | None, kind: str, **query: str
) -> int:
    """Print objects as a JSON array or through a template; exit code 1 when one is missing.

    `path` holds `{}` for the name; `kind` names what was looked for.
    """
    from swarmctl.http import segment

    found: list[Any] = []
    code = 0
    for name in names:
        try:
            found.append(client.get(path.format(segment(name)), **query))
        except DaemonError as error:
            code = 1
            warn(str(error))
    print_objects(found, style, strict=kind in ENGINE_KINDS)
    return code


def print_objects(found: list[Any], style: str | None, *, strict: bool) -> None:
    """Print objects as a JSON array, or each through a template."""
    if not style:
        print(json.dumps(found, indent=4, ensure_ascii=False))
        return
    if style == "json":
        print(json.dumps(found, separators=(",", ":"), ensure_ascii=False))
        return
    from swarmctl.template import Template

    template = Template(style, strict=strict)
    for item in found:
        print(template.render(item))


def _template_table(rows: Sequence[Row], columns: dict[str, str], text: str) -> None:
    from swarmctl.template import Template

    template = Template(text, strict=True, code=1)
    names = [*_FIELD.findall(text), *columns]
    headings: Row = {name: columns.get(name, _heading(name)) for name in names}
    headings["Label"] = str
    lines = [template.render(headings), *(template.render(row) for row in rows)]
    align([line.split("\t") for line in lines])


def _heading(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).upper()


def short(identity: str, *, whole: bool = False) -> str:
    """Return an id as tables show it."""
    identity = identity if whole else identity.removeprefix("sha256:")
    return identity if whole else identity[:_SHORT_ID]


def ellipsis(text: str, width: int) -> str:
    """Return a text cut to a width."""
    return text if len(text) <= width else text[: width - 1] + "…"


def age(seconds: float) -> str:
    """Return a span in Docker's words (`3 minutes`, `About an hour`)."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    minutes = whole // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = round(seconds / 3600)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for limit, unit, name in ((336, 24, "days"), (1440, 168, "weeks"), (17520, 720, "months")):
        if hours < limit:
            return f"{hours // unit} {name}"
    return f"{int(seconds / 3600 / 24 / 365)} years"


def since(moment: str | float) -> float:
    """Return the seconds passed since a moment: RFC 3339 or unix seconds."""
    import time

    return max(0.0, time.time() - unix(moment))


def unix(moment: str | float) -> float:
    """Return unix seconds of RFC 3339 (any number of decimals) or of a number."""
    if not isinstance(moment, str):
        return float(moment)
    from datetime import datetime

    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", moment)
    if not match:
        return 0.0
    zone = "+00:00" if match[3] == "Z" else match[3]
    return datetime.fromisoformat(match[1] + zone).timestamp() + float(match[2] or 0)


def stamp(moment: str | float) -> str:
    """Return RFC 3339 or unix seconds as Go prints them (`2026-01-02 03:04:05 +0000 UTC`)."""
    import time

    fraction = ""
    if isinstance(moment, str):
        fraction = (re.findall(r"\.\d+", moment) or [""])[0].rstrip("0").rstrip(".")
    when = time.localtime(int(unix(moment)))
    return time.strftime(f"{when.tm_year:04}-%m-%d %H:%M:%S{fraction} %z %Z", when)


def bytes_decimal(number: float, digits: int = 4) -> str:
    """Return a size in Docker's words (`4.263MB`; lists of images and containers show 3 digits)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{float(f'{number:.{digits}g}'):g}{unit}"
        number /= 1000
    raise AssertionError("the loop ends at TB")


def bytes_binary(number: float) -> str:
    """Return a size in powers of 1024 (`23.54GiB`)."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            return f"{float(f'{number:.4g}'):g}{unit}"
        number /= 1024
    raise AssertionError("the loop ends at TiB")

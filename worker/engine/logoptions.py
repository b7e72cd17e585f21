"""Options of the json-file log driver: rotation, and what every line says of its container."""

import re
from collections.abc import Mapping

from runtime.oci import LogConfig
from swarmapi.errors import InvalidArgument, Unsupported
from worker.engine.record import Record
from worker.engine.spec import LogSpec

_KNOWN = frozenset((
    "max-size", "max-file", "labels", "labels-regex", "env", "env-regex", "tag",
))  # fmt: skip
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TAG_FIELD = re.compile(r"\{\{\s*\.(\w+)\s*\}\}")
_TAG_FIELDS = frozenset((
    "ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "DaemonName",
))  # fmt: skip


def check_log(log: LogSpec) -> None:
    """Refuse a log driver, or an option of one, that we do not have.

    Raises:
        InvalidArgument: for a malformed value.
        Unsupported: for what is not served.
    """
    if log.type not in ("", "json-file", "none"):
        raise Unsupported(f"logging driver {log.type!r} is not json-file or none")
    if log.type == "none":
        return
    options = log.config
    for option in options:
        if option not in _KNOWN:
            raise Unsupported(f"log option {option!r} is not supported by json-file")
    parse_size(options.get("max-size", ""))
    files = options.get("max-file", "1")
    if not files.isdecimal() or int(files) < 1:
        raise InvalidArgument(f"max-file cannot be less than 1: {files!r}")
    if int(files) > 1 and "max-size" not in options:
        raise InvalidArgument("max-file needs max-size")
    for option in ("labels-regex", "env-regex"):
        try:
            re.compile(options.get(option, ""))
        except re.error as error:
            raise InvalidArgument(f"log option {option}: {error}") from error
    rest = _TAG_FIELD.sub("", options.get("tag", ""))
    fields = _TAG_FIELD.findall(options.get("tag", ""))
    if "{{" in rest or not _TAG_FIELDS.issuperset(fields):
        known = ", ".join(f"{{{{.{name}}}}}" for name in sorted(_TAG_FIELDS))
        raise Unsupported(f"log option tag {options['tag']!r}: only {known} are supported")


def log_config(record: Record, path: str) -> LogConfig:
    """Return what the supervisor needs to write a container's log."""
    options = record.host.log_config.config
    return LogConfig(
        driver=record.host.log_config.type,
        path=path,
        max_bytes=parse_size(options.get("max-size", "")),
        max_files=int(options.get("max-file", "1")),
        attributes=attributes(record, options),
    )


def attributes(record: Record, options: Mapping[str, str]) -> dict[str, str]:
    """Return the labels, variables and tag that the options put on every line."""
    labels = record.config.labels
    variables = dict(entry.partition("=")[::2] for entry in record.env)
    found = _chosen(labels, options.get("labels", ""), options.get("labels-regex", ""))
    found |= _chosen(variables, options.get("env", ""), options.get("env-regex", ""))
    if tag := options.get("tag", ""):
        fields = {
            "ID": record.id[:12],
            "FullID": record.id,
            "Name": record.name,
            "ImageID": record.image_id.removeprefix("sha256:")[:12],
            "ImageFullID": record.image_id,
            "ImageName": record.config.image,
            "DaemonName": "swarm",
        }
        found["tag"] = _TAG_FIELD.sub(lambda match: fields[match[1]], tag)
    return found


def parse_size(text: str) -> int:
    """Return the bytes of Docker's `10m`; `-1` and `0` are without limit."""
    if text in ("", "-1"):
        return 0
    number = text.lower().removesuffix("ib").removesuffix("b") if text[-1:].isalpha() else text
    unit = number[-1:] if number[-1:].isalpha() else ""
    digits = number[: len(number) - len(unit)]
    if unit not in _SIZES or not digits.isdecimal():
        raise InvalidArgument(f"invalid size: {text!r}")
    return int(digits) * _SIZES[unit]


def _chosen(values: Mapping[str, str], names: str, pattern: str) -> dict[str, str]:
    wanted = set(names.split(","))
    return {
        name: value
        for name, value in values.items()
        if name in wanted or (pattern and re.search(pattern, name))
    }

"""Docker's `filters` of image lists and of image prune."""

import re
from collections.abc import Callable, Mapping, Sequence

from runtime.image.build.ignore import compiled
from runtime.image.errors import BuildError
from runtime.image.model import Image, parse_time_ns
from swarmapi.errors import InvalidArgument
from worker.engine.filters import label_matches

Resolve = Callable[[str], Image]
_TRUE, _FALSE = {"true", "1", "t"}, {"false", "0", "f"}
_UNIX = re.compile(r"\d+(\.\d+)?")
_SPAN = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}
_UNITS_NS["h"] = 3600 * 10**9


class ImageFilter:
    """A parsed set of filters; `resolve` finds the images of before and since.

    Raises InvalidArgument for a malformed value.
    """

    def __init__(self, wanted: Mapping[str, Sequence[str]], resolve: Resolve, now_ns: int) -> None:
        self._labels = wanted.get("label", ())
        self._no_labels = wanted.get("label!", ())
        self._dangling = switch("dangling", wanted)
        self._patterns = [_pattern(value) for value in wanted.get("reference", ())]
        self._before_ns = [resolve(value).created_ns for value in wanted.get("before", ())]
        self._before_ns += [moment_ns(value, now_ns) for value in wanted.get("until", ())]
        self._since_ns = [resolve(value).created_ns for value in wanted.get("since", ())]

    def matches(self, image: Image) -> bool:
        """Tell whether an image passes every filter but `dangling`."""
        labels = (image.config.get("config") or {}).get("Labels") or {}
        return (
            all(label_matches(labels, value) for value in self._labels)
            and not any(label_matches(labels, value) for value in self._no_labels)
            and all(image.created_ns < moment for moment in self._before_ns)
            and all(image.created_ns > moment for moment in self._since_ns)
            and (not self._patterns or bool(self.references(image)))
        )

    def lists(self, image: Image) -> bool:
        """Tell whether an image passes every filter."""
        return self._dangling in (None, not image.repo_tags) and self.matches(image)

    def references(self, image: Image) -> list[str]:
        """The names of an image that the `reference` filter lets through: all without one."""
        names = [*image.repo_tags, *image.repo_digests]
        if not self._patterns:
            return names
        return [name for name in names if any(matches(name) for matches in self._patterns)]


def switch(key: str, wanted: Mapping[str, Sequence[str]]) -> bool | None:
    """Read a filter that is true or false; None where it is not given."""
    found = {value.lower() for value in wanted.get(key, ())}
    if not found:
        return None
    if found <= _TRUE:
        return True
    if found <= _FALSE:
        return False
    raise InvalidArgument(f"invalid filter '{key}={sorted(found)}'")


def moment_ns(text: str, now_ns: int) -> int:
    """Read a moment: unix seconds, RFC 3339, or a span back from now (`10m`, `1h30m`)."""
    if _UNIX.fullmatch(text):
        return int(float(text) * 1e9)
    if _SPAN.fullmatch(text):
        span = sum(float(number) * _UNITS_NS[unit] for number, unit in _PART.findall(text))
        return now_ns - int(span)
    moment = parse_time_ns(text)
    if not moment:
        raise InvalidArgument(f"invalid time {text!r}: use unix seconds, RFC 3339 or a span")
    return moment


def _pattern(text: str) -> Callable[[str], bool]:
    """Match a name with or without its tag or digest, as Go's path.Match does."""
    try:
        expression = compiled(text.replace("**", "*"))
    except BuildError as error:
        raise InvalidArgument(f"invalid filter 'reference={text}': {error}") from error

    def matches(name: str) -> bool:
        bare = name.partition("@")[0]
        head, colon, tag = bare.rpartition(":")
        repository = head if colon and "/" not in tag else bare
        return any(expression.fullmatch(form) for form in (name, repository))

    return matches

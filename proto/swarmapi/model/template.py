"""Go's templates as far as a service needs them: parsed strictly, rendered from plain values.

Text with actions: fields (`.Task.Slot`), strings, numbers, parentheses, pipes, comments, trimming
`{{-`, `if`/`else if`/`else`/`end`, and the functions named here. An unknown function or field is
refused with its place, `line:column`, before anything runs. Fields are SwarmKit's.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from swarmapi.errors import InvalidArgument

Value: TypeAlias = Any
"""str, int, bool, or a mapping of them."""
Lookup: TypeAlias = Mapping[str, Callable[[str], str]]
"""What `env`, `secret` and `config` find; raises InvalidArgument where there is nothing."""
LOOKUPS: Final = ("config", "env", "secret")
"""Functions of templated secrets and configs alone: elsewhere everybody sees the result."""
MAX_DEPTH: Final = 50
_LEAF: Final = None
_ANY: Final[dict[str, Any]] = {}
FIELDS: Final[dict[str, Any]] = {
    "Service": {"ID": _LEAF, "Name": _LEAF, "Labels": _ANY},
    "Node": {
        "ID": _LEAF,
        "Hostname": _LEAF,
        "Platform": {"Architecture": _LEAF, "OS": _LEAF},
    },
    "Task": {"ID": _LEAF, "Name": _LEAF, "Slot": _LEAF},
}
"""What there is; `_ANY` holds keys of the user's."""
_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<number>-?\d+)"""
    r"""|(?P<field>(?:\.\w+)+)|(?P<word>\w+)|(?P<mark>[|()]))"""
)
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'"}
_Run = Callable[[Mapping[str, Value], Lookup], Value]


class Template:
    """A template that was found good."""

    def __init__(self, body: _Run) -> None:
        self._body = body

    def render(self, values: Mapping[str, Value], lookup: Lookup | None = None) -> str:
        """Return the text; `values` has the shape of FIELDS.

        Raises:
            InvalidArgument: a label, variable, secret or config is not there.
        """
        return str(self._body(values, lookup or {}))


def is_template(text: str) -> bool:
    """Tell whether a text has an action in it."""
    return "{{" in text


def parse(text: str, *, lookups: bool = False) -> Template:
    """Parse a template; with `lookups` it may read variables, secrets and configs.

    Raises:
        InvalidArgument: what is wrong, after its place.
    """
    return Template(_Parser(text, lookups=lookups).parse())


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class _Parser:
    def __init__(self, text: str, *, lookups: bool) -> None:
        self._text = text
        self._lookups = lookups
        self._pieces = self._cut()
        self._tokens: list[_Token] = []
        self._depth = 0

    def parse(self) -> _Run:
        body, end = self._block()
        if end is not None:
            raise self._wrong(end.at, f"unexpected {{{{{end.text}}}}}")
        return body

    def _wrong(self, at: int, what: str) -> InvalidArgument:
        before = self._text[:at]
        column = at - (before.rfind("\n") + 1) + 1
        return InvalidArgument(f"template: {before.count(chr(10)) + 1}:{column}: {what}")

    def _deeper(self, at: int) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong(at, f"nested deeper than {MAX_DEPTH}")

    def _cut(self) -> list[tuple[str, int, bool]]:
        """Return the pieces in reverse: text, its place, whether it is an action."""
        pieces: list[tuple[str, int, bool]] = []
        position, trim = 0, False
        for found in _ACTION.finditer(self._text):
            literal = self._text[position : found.start()]
            literal = literal.lstrip() if trim else literal
            pieces.append((literal.rstrip() if found[1] else literal, position, False))
            pieces.append((found[2], found.start(2), True))
            position, trim = found.end(), bool(found[3])
        rest = self._text[position:]
        if "{{" in rest:
            raise self._wrong(position + rest.index("{{"), "unclosed action")
        pieces.append((rest.lstrip() if trim else rest, position, False))
        return pieces[::-1]

    def _block(self) -> tuple[_Run, _Token | None]:
        """Return what stands before the next `else` or `end`, and which of them it was."""
        parts: list[_Run] = []
        end: _Token | None = None
        while self._pieces:
            text, at, is_action = self._pieces.pop()
            if not is_action:
                parts.append(_constant(text))
                continue
            if text.strip().startswith("/*") and text.strip().endswith("*/"):
                continue
            self._tokens = self._scan(text, at)
            if not self._tokens:
                raise self._wrong(at, "empty action")
            first = self._tokens[0]
            if first.text in ("else", "end"):
                end = self._tokens.pop(0)
                break
            if first.text == "if":
                self._tokens.pop(0)
                parts.append(self._if(first))
            else:
                parts.append(self._all(at))
        return lambda values, lookup: "".join(_text(p(values, lookup)) for p in parts), end

    def _if(self, opened: _Token) -> _Run:
        self._deeper(opened.at)
        condition = self._all(opened.at)
        body, end = self._block()
        other = _constant("")
        if end is not None and end.text == "else":
            if self._tokens and self._tokens[0].text == "if":
                other = self._if(self._tokens.pop(0))
                self._depth -= 1
                return lambda v, lookup: (body if condition(v, lookup) else other)(v, lookup)
            other, end = self._block()
        if end is None or end.text != "end":
            raise self._wrong(opened.at, "if without end")
        self._depth -= 1
        return lambda v, lookup: (body if condition(v, lookup) else other)(v, lookup)

    def _scan(self, text: str, at: int) -> list[_Token]:
        tokens: list[_Token] = []
        position, length = 0, len(text.rstrip())
        while position < length:
            found = _TOKEN.match(text, position)
            if found is None:
                rest = text[position:]
                place = at + position + len(rest) - len(rest.lstrip())
                raise self._wrong(place, f"unexpected {rest.strip()[:1]!r}")
            kind = str(found.lastgroup)
            tokens.append(_Token(kind, found[kind], at + found.start(kind)))
            position = found.end()
        return tokens

    def _all(self, at: int) -> _Run:
        """Parse a whole action."""
        run = self._pipeline(at)
        if self._tokens:
            raise self._wrong(self._tokens[0].at, f"unexpected {self._tokens[0].text!r}")
        return run

    def _pipeline(self, at: int) -> _Run:
        run = self._command(at, None)
        while self._tokens and self._tokens[0].text == "|":
            place = self._tokens.pop(0).at
            run = self._command(place, run)
        return run

    def _command(self, at: int, piped: _Run | None) -> _Run:
        if not self._tokens:
            raise self._wrong(at, "something is missing here")
        first = self._tokens[0]
        if first.kind == "word":
            self._tokens.pop(0)
            return self._call(first, piped)
        if piped is not None:
            raise self._wrong(first.at, f"{first.text!r} takes no argument from a pipe")
        return self._operand()

    def _call(self, name: _Token, piped: _Run | None) -> _Run:
        arguments: list[_Run] = []
        while self._tokens and self._tokens[0].text not in ("|", ")"):
            arguments.append(self._operand())
        arguments += [piped] if piped is not None else []
        if name.text in LOOKUPS:
            return self._lookup(name, arguments)
        if name.text not in _FUNCTIONS:
            known = ", ".join(sorted((*_FUNCTIONS, *(LOOKUPS if self._lookups else ()))))
            raise self._wrong(name.at, f"function {name.text!r} is not defined; known: {known}")
        function, least, most = _FUNCTIONS[name.text]
        self._count(name, arguments, least, most)

        def run(values: Mapping[str, Value], lookup: Lookup) -> Value:
            try:
                return function(*(argument(values, lookup) for argument in arguments))
            except (KeyError, TypeError, AttributeError) as error:
                why = f"no entry {error}" if isinstance(error, KeyError) else "wrong argument"
                raise self._wrong(name.at, f"{name.text}: {why}") from None

        return run

    def _lookup(self, name: _Token, arguments: list[_Run]) -> _Run:
        if not self._lookups:
            what = f"function {name.text!r} is for templated secrets and configs only"
            raise self._wrong(name.at, f"{what}: here everybody sees its result")
        self._count(name, arguments, 1, 1)

        def run(values: Mapping[str, Value], lookup: Lookup) -> Value:
            try:
                return lookup[name.text](_text(arguments[0](values, lookup)))
            except InvalidArgument as error:
                raise self._wrong(name.at, error.message) from None

        return run

    def _count(self, name: _Token, arguments: list[_Run], least: int, most: int) -> None:
        if not least <= len(arguments) <= most:
            wanted = f"{least}" if least == most else f"at least {least}"
            what = f"{name.text} takes {wanted} argument{'s' if wanted != '1' else ''}"
            raise self._wrong(name.at, f"{what}, not {len(arguments)}")

    def _operand(self) -> _Run:
        token = self._tokens.pop(0)
        if token.kind == "string":
            raw = token.text[1:-1]
            return _constant(raw if token.text[0] == "`" else _ESCAPE.sub(_unescaped, raw))
        if token.kind == "number":
            return _constant(int(token.text))
        if token.kind == "field":
            return self._field(token)
        if token.text == "(":
            self._deeper(token.at)
            inside = self._pipeline(token.at)
            self._depth -= 1
            if not self._tokens or self._tokens.pop(0).text != ")":
                raise self._wrong(token.at, "unclosed (")
            return inside
        if token.text in ("true", "false"):
            return _constant(token.text == "true")
        raise self._wrong(token.at, f"unexpected {token.text!r}")

    def _field(self, token: _Token) -> _Run:
        names = token.text[1:].split(".")
        shape: Any = FIELDS
        for number, name in enumerate(names):
            if shape is _LEAF or (shape is not _ANY and name not in shape):
                above = "." + ".".join(names[:number])
                has = f"{above} has {', '.join(shape)}" if shape else f"{above} has no fields"
                raise self._wrong(token.at, f"field {token.text} is not defined; {has}")
            shape = _LEAF if shape is _ANY else shape[name]

        def run(values: Mapping[str, Value], lookup: Lookup) -> Value:
            value: Value = values
            for name in names:
                if name not in value:
                    raise self._wrong(token.at, f"{token.text} is not there")
                value = value[name]
            return value

        return run


def _constant(value: Value) -> _Run:
    return lambda values, lookup: value


def _unescaped(found: re.Match[str]) -> str:
    return _ESCAPES.get(found[1], found[0])


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{_text(value[key])}" for key in sorted(value)) + "]"
    return str(value)


def _index(value: Value, key: Value) -> Value:
    return value[key]


def _join(separator: Value, *values: Value) -> str:
    return _text(separator).join(_text(value) for value in values)


_MANY: Final = 1 << 10
_FUNCTIONS: Final[dict[str, tuple[Callable[..., Value], int, int]]] = {
    "and": (lambda *values: next((v for v in values if not v), values[-1]), 1, _MANY),
    "eq": (lambda first, *others: any(first == other for other in others), 2, _MANY),
    "index": (_index, 2, 2),
    "join": (_join, 1, _MANY),
    "lower": (lambda value: value.lower(), 1, 1),
    "ne": (lambda one, other: one != other, 2, 2),
    "not": (lambda value: not value, 1, 1),
    "or": (lambda *values: next((v for v in values if v), values[-1]), 1, _MANY),
    "print": (lambda *values: "".join(_text(v) for v in values), 0, _MANY),
    "upper": (lambda value: value.upper(), 1, 1),
}
"""Function, and how many arguments it takes at least and at most."""

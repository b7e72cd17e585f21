"""The part of Go's templates that `--format` needs.

Actions: `.Field.Sub`, `json`, `upper`, `lower`, `title`, `len`, `join`, `index`, `println`,
pipes, `if`/`else`/`end` and `range`/`end`. Anything else is refused by name.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from swarmctl.errors import UsageError

_ACTION = re.compile(r"(\{\{.*?\}\})", re.DOTALL)
_ESCAPES = {r"\t": "\t", r"\n": "\n"}
Node = Callable[[Any, Any], str]
Value = Callable[[Any, Any], Any]


class Template:
    """A parsed template. Strict ones refuse a field that is not there, lax ones print
    `<no value>`.
    """

    def __init__(self, text: str, *, strict: bool) -> None:
        for escape, character in _ESCAPES.items():
            text = text.replace(escape, character)
        self.text = text
        self._strict = strict
        self._pieces = iter([piece for piece in _ACTION.split(text) if piece])
        self._body, end = self._block()
        if end:
            raise UsageError(f"template parsing error: unexpected {{{{{end}}}}}", 64)

    def render(self, value: Any) -> str:
        return self._body(value, value)

    def _block(self) -> tuple[Node, str]:
        """Return what stands before the next `end` or `else`, and which of them it was."""
        nodes: list[Node] = []
        end = ""
        for piece in self._pieces:
            if not piece.startswith("{{") or not piece.endswith("}}"):
                if "{{" in piece:
                    raise UsageError("template parsing error: unclosed action", 64)
                nodes.append(_constant(piece))
                continue
            action = piece[2:-2].strip().strip("-").strip()
            keyword, _, rest = action.partition(" ")
            if keyword in ("end", "else"):
                end = keyword
                break
            if keyword == "range":
                nodes.append(self._range(rest))
            elif keyword == "if":
                nodes.append(self._if(rest))
            else:
                nodes.append(self._print(action))
        return (lambda dot, root: "".join(node(dot, root) for node in nodes)), end

    def _range(self, expression: str) -> Node:
        value = self._pipeline(expression)
        body, end = self._block()
        if end != "end":
            raise UsageError("template parsing error: range without end", 64)

        def run(dot: Any, root: Any) -> str:
            return "".join(body(item, root) for item in _items(value(dot, root)))

        return run

    def _if(self, expression: str) -> Node:
        value = self._pipeline(expression)
        body, end = self._block()
        other: Node = _constant("")
        if end == "else":
            other, end = self._block()
        if end != "end":
            raise UsageError("template parsing error: if without end", 64)
        return lambda dot, root: (body if value(dot, root) else other)(dot, root)

    def _print(self, expression: str) -> Node:
        value = self._pipeline(expression)
        return lambda dot, root: _text(value(dot, root))

    def _pipeline(self, expression: str) -> Value:
        stages = [words for words in _stages(expression) if words]
        if not stages:
            raise UsageError(f"template parsing error: empty action {{{{{expression}}}}}", 64)

        def run(dot: Any, root: Any) -> Any:
            piped: list[Any] = []
            for words in stages:
                piped = [self._call(words, piped, dot, root)]
            return piped[0]

        for words in stages:
            if words[0] not in _FUNCTIONS and not _is_operand(words[0]):
                raise UsageError(
                    f'template parsing error: function "{words[0]}" is not supported; known: '
                    + ", ".join(sorted(_FUNCTIONS)),
                    64,
                )
        return run

    def _call(self, words: list[str], piped: list[Any], dot: Any, root: Any) -> Any:
        function = _FUNCTIONS.get(words[0])
        if function is None:
            return self._operand(words[0], dot, root)
        arguments = [self._operand(word, dot, root) for word in words[1:]] + piped
        try:
            return function(*arguments)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise UsageError(f"template: cannot apply {words[0]}: {error}", 1) from error

    def _operand(self, word: str, dot: Any, root: Any) -> Any:
        if word[0] in "\"'`":
            return word[1:-1]
        if word.lstrip("-").isdigit():
            return int(word)
        if word[0] == "$":
            dot, word = root, word[1:] or "."
        value = dot
        for name in filter(None, word.split(".")):
            field = name[:1].lower() + name[1:]  # of `scope`, Go's name is Scope
            if isinstance(value, dict) and (name in value or field in value):
                value = value[name] if name in value else value[field]
            elif self._strict or (value is not None and not isinstance(value, dict)):
                raise UsageError(f"template: can't evaluate field {name}", 1)
            else:
                return None
        return value


def _stages(expression: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(expression, posix=False, punctuation_chars="|")
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    try:
        for word in lexer:
            if word == "|":
                yield words
                words = []
            else:
                words.append(word)
    except ValueError as error:
        raise UsageError(f"template parsing error: {error}", 64) from error
    yield words


def _is_operand(word: str) -> bool:
    return word[0] in ".$\"'`" or word.lstrip("-").isdigit()


def _constant(text: str) -> Node:
    return lambda dot, root: text


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [value[name] for name in sorted(value)]
    return list(value or [])


def _text(value: Any) -> str:
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{name}:{_text(value[name])}" for name in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(_text(item) for item in value) + "]"
    return str(value)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = (value or {}).get(key) if isinstance(value, dict) else value[key]
    return value


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": _json,
    "upper": str.upper,
    "lower": str.lower,
    "title": str.title,
    "len": len,
    "join": lambda values, separator: separator.join(map(str, values or [])),
    "index": _index,
    "println": lambda *values: " ".join(map(_text, values)) + "\n",
}

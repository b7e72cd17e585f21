"""The words of a Dockerfile: splitting at blanks, variables, quotes, Go's way of quoting.

Rules: docs.docker.com/reference/dockerfile/#environment-replacement. The escape character is the
backslash or, by a parser directive, the backtick.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from runtime.image.errors import BuildError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?!$-]")
_BLANKS = " \t\v\f\r\n"


def split_blanks(text: str) -> list[str]:
    """Split at blanks whatever the quotes: COPY, ADD, EXPOSE, VOLUME and FROM do."""
    return text.split()


def split_words(text: str, escape: str = "\\") -> list[str]:
    """Split at blanks outside quotes; quotes and escapes stay for `expand`: ENV, LABEL, ARG do."""
    words, current, quote, index = [], "", "", 0
    while index < len(text):
        char = text[index]
        if char == escape and quote != "'" and index + 1 < len(text):
            current += text[index : index + 2]
            index += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in _BLANKS:
            if current:
                words.append(current)
            current = ""
            index += 1
            continue
        current += char
        index += 1
    return [*words, current] if current else words


def key_values(name: str, text: str, escape: str = "\\") -> list[tuple[str, str]]:
    """The unexpanded pairs of ENV and LABEL, also of the old form `ENV key value`."""
    words = split_words(text, escape)
    if "=" not in words[0]:
        parts = text.split(None, 1)
        if len(parts) < 2:
            raise BuildError(f"{name} must have two arguments")
        return [(parts[0], parts[1])]
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise BuildError(
                f"Syntax error - can't find = in {quoted(word)}. Must be of the form: name=value"
            )
        if not key:
            raise BuildError(f"{name} names can not be blank")
        pairs.append((key, value))
    return pairs


def expand(word: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """Expand variables and remove quotes; raises BuildError naming the word."""
    return "".join(_Lexer(word, variables, escape).run())


def expand_words(word: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    """Expand like `expand`, then split at the blanks that came from unquoted variables."""
    lexer = _Lexer(word, variables, escape)
    words, current = [], ""
    for piece, splits in zip(lexer.run(), lexer.splits, strict=True):
        if not splits:
            current += piece
            continue
        first, *rest = re.split(r"\s+", piece)
        current += first
        for following in rest:
            words.append(current)
            current = following
    return [entry for entry in (*words, current) if entry]


class _Lexer:
    """Reads one word; `splits` tells of each piece whether it came from an unquoted variable."""

    def __init__(self, word: str, variables: Mapping[str, str], escape: str) -> None:
        self._word = word
        self._variables = variables
        self._escape = escape
        self._at = 0
        self.splits: list[bool] = []

    def run(self) -> list[str]:
        try:
            pieces = self._until("", raw=False)
        except _BadWord as error:
            raise BuildError(f"failed to process {quoted(self._word)}: {error}") from None
        return pieces

    def _peek(self) -> str:
        return self._word[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._peek()
        self._at += 1
        return char

    def _until(self, stop: str, *, raw: bool) -> list[str]:
        """Read up to an unquoted stop character, consumed; `raw` keeps escapes (patterns)."""
        pieces: list[str] = []
        while char := self._peek():
            if char == stop:
                self._at += 1
                return pieces
            start = self._at
            if char == "'":
                pieces.append(self._single())
            elif char == '"':
                pieces.append(self._double())
            elif char == "$":
                pieces.append(self._dollar())
            elif char == self._escape:
                self._at += 1
                pieces.append((char if raw else "") + self._next())
            else:
                pieces.append(self._next())
            if not stop:
                self.splits.append(self._word[start] == "$")
        if stop:
            raise _BadWord(f"syntax error: missing '{stop}'")
        return pieces

    def _single(self) -> str:
        end = self._word.find("'", self._at + 1)
        if end < 0:
            raise _BadWord("unexpected end of statement while looking for matching single-quote")
        text = self._word[self._at + 1 : end]
        self._at = end + 1
        return text

    def _double(self) -> str:
        self._at += 1
        text = ""
        while char := self._peek():
            if char == '"':
                self._at += 1
                return text
            if char == "$":
                text += self._dollar()
                continue
            self._at += 1
            following = self._peek()
            if char == self._escape and following and following in ('"', "$", self._escape):
                text += self._next()
            else:
                text += char
        raise _BadWord("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            return self._variables.get(name, "") if name else "$"
        self._at += 1
        if self._peek() in ("{", "}", ":"):
            raise _BadWord("syntax error: bad substitution")
        name = self._name()
        operator = self._next()
        if operator == "}":
            return self._variables.get(name, "")
        if operator == "/":
            return self._replaced(name)
        empty_is_unset = operator == ":"
        if empty_is_unset:
            operator = self._next()
        shown = f":{operator}" if empty_is_unset else operator
        if operator in ("-", "+", "?"):
            return self._substituted(name, operator, empty_is_unset)
        if operator in ("#", "%") and not empty_is_unset:
            return self._trimmed(name, operator)
        if not operator:
            raise _BadWord("syntax error: missing '}'")
        raise _BadWord(f"unsupported modifier ({shown}) in substitution")

    def _name(self) -> str:
        match = _NAME.match(self._word, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _substituted(self, name: str, operator: str, empty_is_unset: bool) -> str:
        operand = "".join(self._until("}", raw=False))
        value = self._variables.get(name)
        present = bool(value) if empty_is_unset else value is not None
        if operator == "-":
            return (value or "") if present else operand
        if operator == "+":
            return operand if present else ""
        if not present:
            missing = "unset" if value is None else "empty"
            raise _BadWord(f"{name}: {operand or f'is not allowed to be {missing}'}")
        return value or ""

    def _trimmed(self, name: str, operator: str) -> str:
        pattern = "".join(self._until("}", raw=True))
        greedy = pattern.startswith(operator)
        expression = re.compile(_glob(pattern[greedy:]), re.DOTALL)
        value = self._variables.get(name, "")
        lengths: Iterable[int] = range(len(value) + 1)
        for length in reversed(range(len(value) + 1)) if greedy else lengths:
            part = value[:length] if operator == "#" else value[len(value) - length :]
            if expression.fullmatch(part):
                return value[length:] if operator == "#" else value[: len(value) - length]
        return value

    def _replaced(self, name: str) -> str:
        everywhere = self._peek() == "/"
        self._at += everywhere
        pattern = "".join(self._until("/", raw=True))
        replacement = "".join(self._until("}", raw=True))
        expression = re.compile(_glob(pattern), re.DOTALL)
        value = self._variables.get(name, "")
        return expression.sub(lambda _: replacement, value, count=0 if everywhere else 1)


class _BadWord(Exception):
    """What is wrong with a word."""


def _glob(pattern: str) -> str:
    """A regular expression of a shell pattern, in which `*` also crosses slashes."""
    out, index = "", 0
    while index < len(pattern):
        char = pattern[index]
        index += 1
        if char == "*":
            out += ".*"
        elif char == "?":
            out += "."
        elif char == "\\":
            out += re.escape(pattern[index : index + 1])
            index += 1
        else:
            out += re.escape(char)
    return out


def quoted(text: str) -> str:
    """Quote as Go's %q does for printable text."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(escapes.get(char, char) for char in text) + '"'


def quoted_list(words: Iterable[str]) -> str:
    """Quote a list as Go's %q does: `["a" "b"]`."""
    return "[" + " ".join(quoted(word) for word in words) + "]"

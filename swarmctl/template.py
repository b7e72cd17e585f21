"""Go's templates, as `--format` takes them.

Fields, variables, pipelines, parentheses, comments and trim markers; `if`, `else if`, `with`,
`range` with `else`, `break` and `continue`; functions of `swarmctl.template_functions`. Others
are refused by name.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from swarmctl.errors import UsageError
from swarmctl.template_functions import FUNCTIONS, OMITTED, Missing, call, text_of

_ACTION = re.compile(r"(\{\{.*?\}\})", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)
    |(?P<field>\$?\w*(?:\.\w+)+|\$\w*|\.)|(?P<word>\w+)|(?P<sign>:=|[=|(),]))""",
    re.VERBOSE,
)
_ESCAPES = {r"\t": "\t", r"\n": "\n"}
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
_MAPS = frozenset(
    (
        *("Annotations", "Attributes", "AuxiliaryAddresses", "Containers", "Data", "DriverOpts"),
        *("Labels", "Networks", "Options", "Ports", "Services", "StorageOpt", "Sysctls", "Tmpfs"),
    )
)
"""What of the API's objects has keys of the user's: there one may be missing."""

Scope = dict[str, list[Any]]
"""The variables by name, each in a cell that inner blocks share."""
Node = Callable[[Any, Scope], str]
Value = Callable[..., Any]


class _Token(NamedTuple):
    kind: str
    text: str


class _Loop(Exception):
    """A `break` or `continue`; `before` is what the round has printed so far."""

    def __init__(self, word: str, before: str = "") -> None:
        super().__init__(word)
        self.word = word
        self.before = before


class Template:
    """A parsed template. Strict ones refuse a field that is not there, lax ones print
    `<no value>`. `code` is the exit code of a template that cannot be parsed.
    """

    def __init__(self, text: str, *, strict: bool, code: int = 64) -> None:
        for escape, character in _ESCAPES.items():
            text = text.replace(escape, character)
        self._strict = strict
        self._code = code
        self._pieces = _pieces(text)
        self._tokens: list[_Token] = []
        self._variables = {"$"}
        self._body, end = self._block()
        if end:
            raise self._wrong(f"unexpected {{{{{end}}}}}")

    def render(self, value: Any) -> str:
        """Fill in a decoded JSON value; raises UsageError for what it does not have."""
        return self._body(value, {"$": [value]})

    def _wrong(self, what: str) -> UsageError:
        return UsageError(f"template parsing error: {what}", self._code)

    def _block(self) -> tuple[Node, str]:
        """Return what stands before the next `end` or `else`, and which of them it was."""
        nodes: list[Node] = []
        end = ""
        for piece in self._pieces:
            if not piece.startswith("{{"):
                nodes.append(_constant(piece))
                continue
            if not piece.endswith("}}"):
                raise self._wrong("unclosed action")
            action = piece[2:-2].strip()
            if action.startswith("/*"):
                continue
            self._tokens = self._split(action)
            keyword = self._tokens[0].text if self._tokens else ""
            if keyword in ("end", "else"):
                end = keyword
                self._tokens.pop(0)
                break
            nodes.append(self._node(keyword))
        return _joined(nodes), end

    def _node(self, keyword: str) -> Node:
        if keyword in ("if", "with", "range"):
            self._tokens.pop(0)
            known = set(self._variables)
            node = self._range() if keyword == "range" else self._if(keyword)
            self._variables = known
            return node
        if keyword in ("break", "continue"):
            return _jump(keyword)
        names, operator = self._declared()
        value = self._pipeline()
        self._done()
        if not operator:
            return lambda dot, scope: text_of(value(dot, scope))
        return _assignment(names[0], value, declares=operator == ":=")

    def _if(self, keyword: str) -> Node:
        names, _ = self._declared()
        value = self._pipeline()
        self._done()
        body, end = self._block()
        other: Node = _constant("")
        if end == "else":
            if self._tokens and self._tokens[0].text in ("if", "with"):
                other = self._if(self._tokens.pop(0).text)
                end = "end"
            else:
                other, end = self._block()
        if end != "end":
            raise self._wrong(f"{keyword} without end")

        def run(dot: Any, scope: Scope) -> str:
            found = value(dot, scope)
            inner = scope | {name: [found] for name in names}
            if not found:
                return other(dot, inner)
            return body(found if keyword == "with" else dot, inner)

        return run

    def _range(self) -> Node:
        names, _ = self._declared()
        value = self._pipeline()
        self._done()
        body, end = self._block()
        other: Node = _constant("")
        if end == "else":
            other, end = self._block()
        if end != "end":
            raise self._wrong("range without end")

        def run(dot: Any, scope: Scope) -> str:
            rounds = list(_rounds(value(dot, scope)))
            printed: list[str] = []
            for key, item in rounds:
                given = (key, item) if len(names) == 2 else (item,)
                inner = scope | {name: [one] for name, one in zip(names, given, strict=False)}
                try:
                    printed.append(body(item, inner))
                except _Loop as jump:
                    printed.append(jump.before)
                    if jump.word == "break":
                        break
            return "".join(printed) if rounds else other(dot, scope)

        return run

    def _split(self, action: str) -> list[_Token]:
        tokens: list[_Token] = []
        position = 0
        while position < len(action):
            match = _TOKEN.match(action, position)
            if not match or not match.lastgroup:
                raise self._wrong(f"unexpected {action[position:].strip()!r} in {action!r}")
            spaced = match.end() - len(match[0]) < match.start(match.lastgroup)
            kind = match.lastgroup
            if kind == "field" and not spaced and tokens and tokens[-1].text == ")":
                kind = "suffix"
            tokens.append(_Token(kind, match[match.lastgroup]))
            position = match.end()
            if not action[position:].strip():
                break
        return tokens

    def _declared(self) -> tuple[list[str], str]:
        """Take `$a :=`, `$a =` or `$a, $b :=` from the front."""
        texts = [token.text for token in self._tokens[:4]]
        if texts[1:2] in ([":="], ["="]) and texts[0][0] == "$":
            names, operator = texts[:1], texts[1]
        elif texts[1:2] == [","] and texts[3:4] == [":="]:
            names, operator = [texts[0], texts[2]], ":="
        else:
            return [], ""
        if operator == "=" and names[0] not in self._variables:
            raise self._wrong(f"undefined variable {names[0]!r}")
        del self._tokens[: 2 * len(names)]
        self._variables |= set(names)
        return names, operator

    def _pipeline(self) -> Value:
        stages = [self._command()]
        while self._tokens and self._tokens[0].text == "|":
            self._tokens.pop(0)
            stages.append(self._command())

        def run(dot: Any, scope: Scope) -> Any:
            found = stages[0](dot, scope)
            for stage in stages[1:]:
                found = stage(dot, scope, found)
            return found

        return run

    def _command(self) -> Value:
        """Take one stage of a pipeline: a function or a field, and its arguments."""
        if not self._tokens or self._tokens[0].text in ("|", ")"):
            raise self._wrong("missing value for command")
        first = self._tokens[0]
        name = first.text if first.kind == "word" and first.text not in _CONSTANTS else ""
        if name and name not in FUNCTIONS:
            raise self._wrong(
                f'function "{name}" not defined; known: ' + ", ".join(sorted(FUNCTIONS))
            )
        head = self._function() if name else self._operand()
        arguments: list[Value] = []
        while self._tokens and self._tokens[0].text not in ("|", ")"):
            arguments.append(self._operand())

        def run(dot: Any, scope: Scope, *piped: Any) -> Any:
            found = head(dot, scope)
            given = [*(argument(dot, scope) for argument in arguments), *piped]
            if callable(found):
                return found(*given)
            if given:
                raise UsageError("template: can't give argument to what is no function", 1)
            return found

        return run

    def _function(self) -> Value:
        name = self._tokens.pop(0).text
        return lambda dot, scope: lambda *arguments: call(name, *arguments)

    def _operand(self) -> Value:
        token = self._tokens.pop(0)
        if token.text == "(":
            value = self._pipeline()
            if not self._tokens or self._tokens.pop(0).text != ")":
                raise self._wrong("unclosed left paren")
            if self._tokens and self._tokens[0].kind == "suffix":
                return self._chain(value, self._tokens.pop(0).text)
            return value
        if token.kind in ("string", "number") or token.text in _CONSTANTS:
            constant = _constant_of(token)
            return lambda dot, scope: constant
        if token.kind != "field":
            raise self._wrong(f"unexpected {token.text!r}")
        if token.text[0] != "$":
            return self._chain(lambda dot, scope: dot, token.text)
        name, dot_sign, rest = token.text.partition(".")
        if name not in self._variables:
            raise self._wrong(f"undefined variable {name!r}")
        return self._chain(lambda dot, scope: scope[name][0], dot_sign + rest)

    def _chain(self, start: Value, path: str) -> Value:
        names = [name for name in path.split(".") if name]

        def run(dot: Any, scope: Scope) -> Any:
            value = start(dot, scope)
            parent = ""
            for name in names:
                value = self._field(value, name, parent)
                parent = name
            return value

        return run

    def _field(self, value: Any, name: str, parent: str) -> Any:
        field = name[:1].lower() + name[1:]  # of `scope`, Go's name is Scope
        if isinstance(value, dict):
            spelled = name.replace("ID", "Id").replace("API", "Api")
            for known in (name, field, spelled, field.lower()):
                if known in value:
                    return value[known]
            if parent in _MAPS:
                return Missing()
            if name in OMITTED:
                return OMITTED[name]
        if self._strict or not (value is None or isinstance(value, (dict, Missing))):
            raise UsageError(f"template: can't evaluate field {name}", 1)
        return Missing()

    def _done(self) -> None:
        if self._tokens:
            raise self._wrong(f"unexpected {self._tokens[0].text!r}")


_CONSTANTS = {"true": True, "false": False, "nil": None}


def _pieces(text: str) -> Iterator[str]:
    """Cut a template into text and actions; `{{-` and `-}}` take the space beside them."""
    found = [piece for piece in _ACTION.split(text) if piece]
    for position, piece in enumerate(found):
        if piece.startswith("{{") and piece.endswith("}}"):
            inner = piece[2:-2]
            inner = inner[1:] if inner[:1] == "-" and inner[1:2].isspace() else inner
            inner = inner[:-1] if inner[-1:] == "-" and inner[-2:-1].isspace() else inner
            yield "{{" + inner + "}}"
            continue
        if position and re.search(r"\s-\}\}\Z", found[position - 1]):
            piece = piece.lstrip()
        if found[position + 1 : position + 2] and re.match(r"\{\{-\s", found[position + 1]):
            piece = piece.rstrip()
        if "{{" in piece:
            before, _, rest = piece.partition("{{")
            yield before
            yield "{{" + rest
        elif piece:
            yield piece


def _joined(nodes: list[Node]) -> Node:
    def run(dot: Any, scope: Scope) -> str:
        inner = dict(scope)
        printed = ""
        for node in nodes:
            try:
                printed += node(dot, inner)
            except _Loop as jump:
                raise _Loop(jump.word, printed + jump.before) from None
        return printed

    return run


def _jump(word: str) -> Node:
    def run(dot: Any, scope: Scope) -> str:
        raise _Loop(word)

    return run


def _assignment(name: str, value: Value, *, declares: bool) -> Node:
    def run(dot: Any, scope: Scope) -> str:
        found = value(dot, scope)
        if declares:
            scope[name] = [found]
        else:
            scope[name][0] = found
        return ""

    return run


def _constant(text: str) -> Node:
    return lambda dot, scope: text


def _constant_of(token: _Token) -> Any:
    if token.kind == "number":
        return float(token.text) if "." in token.text else int(token.text)
    if token.kind == "word":
        return _CONSTANTS[token.text]
    if token.text[0] == "`":
        return token.text[1:-1]
    return re.sub(r"\\(.)", lambda match: _ESCAPED.get(match[1], match[1]), token.text[1:-1])


def _rounds(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from ((name, value[name]) for name in sorted(value))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield from ((number, number) for number in range(value))
    elif isinstance(value, list):
        yield from enumerate(value)
    elif value is not None and not isinstance(value, Missing):
        raise UsageError(f"template: range can't iterate over {value}", 1)

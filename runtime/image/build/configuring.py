"""Instructions that change an image's configuration alone; `commit -c` and `import -c` use them.

Each returns the text Docker puts into the history after `#(nop)`.
"""

from __future__ import annotations

import posixpath
import re
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from runtime.image.build.dockerfile import Instruction, parse_dockerfile, parse_instruction
from runtime.image.build.words import (
    expand,
    expand_words,
    key_values,
    quoted_list,
    split_blanks,
    split_words,
)
from runtime.image.errors import BuildError

DEFAULT_SHELL = ("/bin/sh", "-c")
_CHANGES = frozenset(
    (
        *("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "STOPSIGNAL"),
        *("USER", "VOLUME", "WORKDIR"),
    )
)
_DURATION = re.compile(r"([0-9]*\.?[0-9]+)(ns|us|µs|ms|s|m|h)")
_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}
_UNITS_NS["h"] = 3600 * 10**9
_PORT = re.compile(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?")
_CHECK_TIMES = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}
_CHECK_TIME_MIN_NS = 1_000_000
Variables = Mapping[str, str]


@dataclass
class Settings:
    """An OCI image `config` in the making; `cmd_set` tells that this stage gave a CMD."""

    config: dict[str, Any] = field(default_factory=dict)
    author: str = ""
    cmd_set: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the image."""
        entries = self.config.get("Env") or []
        return dict(entry.split("=", 1) for entry in entries if "=" in entry)

    @property
    def shell(self) -> list[str]:
        """What the shell form runs with."""
        return list(self.config.get("Shell") or DEFAULT_SHELL)


def apply_changes(config: dict[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """Return a config changed by Dockerfile instructions (`-c` of commit and import).

    Raises BuildError for an instruction that is malformed or does more than configure.
    """
    lines = [line for line in changes if line.strip()]
    if not lines:
        return config
    settings = Settings(dict(config))
    for step in parse_dockerfile("\n".join(lines)):
        if step.name not in _CHANGES:
            raise BuildError(f"{step.name} is not a valid change command")
        configure(step, settings, settings.environment)
    return settings.config


def configure(step: Instruction, settings: Settings, variables: Variables) -> str:
    """Apply one instruction; return the text for the history. Raises BuildError."""
    return _APPLY[step.name](step, settings, variables)


def command_line(step: Instruction, settings: Settings) -> list[str]:
    """The argument vector of CMD, ENTRYPOINT or RUN: exec form, or the shell with the text."""
    words = step.json_words()
    if words is not None:
        return words
    return [*settings.shell, step.text] if step.text else []


def arguments(step: Instruction, variables: Variables) -> list[tuple[str, str | None]]:
    """The names and defaults of an ARG; None where it has no default."""
    found: list[tuple[str, str | None]] = []
    known = dict(variables)
    for word in split_words(step.text, step.escape):
        name, equals, default = word.partition("=")
        if not name:
            raise BuildError("ARG names can not be blank")
        value = expand(default, known, step.escape) if equals else None
        found.append((expand(name, known, step.escape), value))
    return found


def _env(step: Instruction, settings: Settings, variables: Variables) -> str:
    env, text = settings.environment, "ENV"
    for key, raw in key_values("ENV", step.text, step.escape):
        name = expand(key, variables, step.escape)
        env[name] = expand(raw, variables, step.escape)
        text += f" {name}={env[name]}"
    settings.config["Env"] = [f"{name}={value}" for name, value in env.items()]
    return text


def _label(step: Instruction, settings: Settings, variables: Variables) -> str:
    labels, text = dict(settings.config.get("Labels") or {}), "LABEL"
    for key, raw in key_values("LABEL", step.text, step.escape):
        name = expand(key, variables, step.escape)
        labels[name] = expand(raw, variables, step.escape)
        text += f" {name}={labels[name]}"
    settings.config["Labels"] = labels
    return text


def _maintainer(step: Instruction, settings: Settings, variables: Variables) -> str:
    settings.author = step.text
    return f"MAINTAINER {step.text}"


def _cmd(step: Instruction, settings: Settings, variables: Variables) -> str:
    settings.config["Cmd"] = command_line(step, settings)
    settings.cmd_set = settings.cmd_set or bool(settings.config["Cmd"])
    return f"CMD {quoted_list(settings.config['Cmd'])}"


def _entrypoint(step: Instruction, settings: Settings, variables: Variables) -> str:
    words = command_line(step, settings)
    settings.config["Entrypoint"] = words or None
    if not settings.cmd_set:  # a CMD of the base was made for the base's entrypoint
        settings.config.pop("Cmd", None)
    return f"ENTRYPOINT {quoted_list(words)}"


def _expose(step: Instruction, settings: Settings, variables: Variables) -> str:
    ports = dict(settings.config.get("ExposedPorts") or {})
    words = [
        entry
        for word in sorted(split_blanks(step.text))
        for entry in expand_words(word, variables, step.escape)
    ]
    for word in words:
        match = _PORT.fullmatch(word.lower())
        if match is None or not 0 < int(match[1]) <= int(match[2] or match[1]) < 65536:
            raise BuildError(f"invalid containerPort: {word}")
        for port in range(int(match[1]), int(match[2] or match[1]) + 1):
            ports[f"{port}/{match[3] or 'tcp'}"] = {}
    settings.config["ExposedPorts"] = ports
    return "EXPOSE " + " ".join(words)


def _user(step: Instruction, settings: Settings, variables: Variables) -> str:
    settings.config["User"] = expand(step.text, variables, step.escape)
    return f"USER {settings.config['User']}"


def _volume(step: Instruction, settings: Settings, variables: Variables) -> str:
    words = [expand(word, variables, step.escape) for word in step.words()]
    if not all(words):
        raise BuildError("VOLUME specified can not be an empty string")
    volumes = dict(settings.config.get("Volumes") or {})
    volumes.update({word: {} for word in words})
    settings.config["Volumes"] = volumes
    return f"VOLUME [{' '.join(words)}]"


def _workdir(step: Instruction, settings: Settings, variables: Variables) -> str:
    path = expand(step.text, variables, step.escape)
    if not path:
        raise BuildError("cannot normalize nothing")
    if not path.startswith("/"):  # an absolute one stays as written
        before = settings.config.get("WorkingDir") or "/"
        path = posixpath.normpath(posixpath.join("/", before, path))
    settings.config["WorkingDir"] = path
    return f"WORKDIR {settings.config['WorkingDir']}"


def _stopsignal(step: Instruction, settings: Settings, variables: Variables) -> str:
    name = expand(step.text, variables, step.escape)
    known = {entry.name.removeprefix("SIG") for entry in signal.Signals}
    is_number = name.isdecimal() and 0 < int(name) <= signal.SIGRTMAX
    is_realtime = re.fullmatch(r"RTM(IN(\+\d+)?|AX(-\d+)?)", name.upper().removeprefix("SIG"))
    if not is_number and not is_realtime and name.upper().removeprefix("SIG") not in known:
        raise BuildError(f"invalid signal: {name}")
    settings.config["StopSignal"] = name
    return f"STOPSIGNAL {name}"


def _shell(step: Instruction, settings: Settings, variables: Variables) -> str:
    settings.config["Shell"] = step.json_words() or []
    return f"SHELL [{' '.join(settings.config['Shell'])}]"


def _onbuild(step: Instruction, settings: Settings, variables: Variables) -> str:
    parse_instruction(step.text, step.line, step.escape)  # better now than in the child's build
    settings.config["OnBuild"] = [*(settings.config.get("OnBuild") or []), step.text]
    return f"ONBUILD {step.text}"


def _healthcheck(step: Instruction, settings: Settings, variables: Variables) -> str:
    kind, _, rest = step.text.partition(" ")
    rest = rest.strip()
    check: dict[str, Any]
    if kind.upper() == "NONE":
        if rest:
            raise BuildError("HEALTHCHECK NONE takes no arguments")
        check = {"Test": ["NONE"]}
    else:
        if not rest:
            raise BuildError("Missing command after HEALTHCHECK CMD")
        words = replace(step, text=rest).json_words()
        check = {"Test": ["CMD-SHELL", rest] if words is None else ["CMD", *words]}
    for flag, value in step.flags:
        if flag == "retries":
            if not value.lstrip("-").isdecimal() or int(value) < 0:
                raise BuildError(f"--retries cannot be negative ({value})")
            check["Retries"] = int(value)
        else:
            check[_CHECK_TIMES[flag]] = duration_ns(value)
            if 0 < duration_ns(value) < _CHECK_TIME_MIN_NS:
                raise BuildError(f'Interval "{flag}" cannot be less than 1ms')
    settings.config["Healthcheck"] = check
    times = " ".join(f'"{step.flag(flag) or "0s"}"' for flag in _CHECK_TIMES)
    retries = _rune(check.get("Retries", 0))
    return f"HEALTHCHECK &{{{quoted_list(check['Test'])} {times} {retries}}}"


def _rune(number: int) -> str:
    """A number as Go's %q shows it: as a character."""
    named = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r"}
    if number in named:
        return f"'{named[number]}'"
    if number < 32:
        return f"'\\x{number:02x}'"
    return f"'{chr(number)}'" if number < 127 else f"'\\u{number:04x}'"


def duration_ns(text: str) -> int:
    """Nanoseconds of Go's duration text (`1m30s`); raises BuildError."""
    parts = _DURATION.findall(text)
    if text == "0":
        return 0
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise BuildError(f"invalid duration {text!r}: write it like 1m30s")
    return sum(int(float(number) * _UNITS_NS[unit]) for number, unit in parts)


_APPLY: dict[str, Callable[[Instruction, Settings, Variables], str]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}

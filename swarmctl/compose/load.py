"""Reading Compose files: YAML, variables of the environment, several files as one."""

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from swarmctl.compose.interpolate import interpolate
from swarmctl.compose.merge import merge
from swarmctl.errors import ClientError
from swarmctl.flags import environment


class _Loader(yaml.SafeLoader):
    """YAML as Compose's own reader takes it.

    Unlike YAML 1.1: no numbers to the base of 60 (`22:22` is a pair of ports), no dates, `yes`
    and `on` are words; and a key that is there twice is an error.
    """

    def mapping(self, node: yaml.MappingNode) -> dict[Any, Any]:
        """Return a mapping; merge keys (`<<`) give way to what is written beside them."""
        seen: set[Any] = set()
        for name, _ in node.value:
            if name.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(name, deep=True)
            if key in seen:
                where = name.start_mark
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is there twice", where
                )
            seen.add(key)
        self.flatten_mapping(node)
        found: dict[Any, Any] = self.construct_mapping(node, deep=True)
        return found


def _octal_or_decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    if digits[:2] in ("0o", "0x", "0b"):
        return sign * int(digits, 0)
    return sign * int(digits, 8 if len(digits) > 1 and digits[0] == "0" else 10)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag.rpartition(":")[2] not in ("bool", "int", "float", "timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _octal_or_decimal)
for _kind, _pattern, _firsts in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?(?:0o?[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+|0|[1-9][0-9_]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), list(_firsts))


def load(paths: list[str], *, variables: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the files as one document; `-` is standard input, `variables` None leaves `$` alone.

    Relative paths in it are meant from the first file's directory (`directory_of`).

    Raises:
        ClientError: a file that cannot be read or is no Compose file.
    """
    document: dict[str, Any] = {}
    for path in paths:
        found = _parse(_read(path), path)
        if variables is not None:
            found = interpolate(found, variables)
        document = merge(document, found)
    return document


def variables_of(files: list[str] | None) -> dict[str, str]:
    """Return the client's environment over what files of NAME=value say."""
    given = dict(line.partition("=")[::2] for line in environment(None, files))
    return {**given, **os.environ}


def directory_of(paths: list[str]) -> str:
    """Return the directory that relative paths are meant from."""
    first = paths[0]
    return os.getcwd() if first == "-" else os.path.dirname(os.path.abspath(first))


def _read(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read()
        with open(path, encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError:
        raise ClientError(f"{path}: not text in UTF-8") from None
    except OSError as error:
        raise ClientError(f"cannot read {path}: {(error.strerror or '').lower()}") from None


def _parse(text: str, path: str) -> dict[str, Any]:
    try:
        found = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        raise ClientError(f"{where}: {error.problem or error.context or 'not YAML'}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ClientError(f"{path}: not YAML: {str(error).partition(chr(10))[0]}") from None
    if not isinstance(found, dict):
        raise ClientError(f"{path}: not a Compose file: a mapping with services is wanted")
    return found

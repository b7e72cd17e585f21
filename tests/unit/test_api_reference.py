"""Our document against the Engine API's own, where `SWARM_REFERENCE_OPENAPI` names a copy."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmapi.openapi import Json
from worker.cluster.document import whole

REFERENCE = os.environ.get("SWARM_REFERENCE_OPENAPI", "")
pytestmark = pytest.mark.skipif(
    not REFERENCE, reason="SWARM_REFERENCE_OPENAPI names no copy of the Engine API's document"
)
NOT_OFFERED = {
    "/session": "BuildKit",
    "/plugins": "no plugins",
    "/volumes/{name} put": "cluster volumes",
}
"""Beginning of a path, or path and method → why not."""
EXTRA_KEYS = {"UsageData", "Containers", "ID"}
"""What daemons answer and the document leaves out or spells otherwise (`Id` of a new secret)."""


@pytest.fixture(scope="module")
def reference() -> Json:
    yaml = pytest.importorskip("yaml")
    found: Json = yaml.safe_load(Path(REFERENCE).read_text())
    return found


@pytest.fixture(scope="module")
def ours() -> Json:
    return asyncio.run(whole())


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, found in document["paths"].items():
        for method, operation in found.items():
            if method != "parameters":
                yield path, method, operation


def query_of(operation: Json) -> set[str]:
    return {p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"}


def test_every_operation_is_served_or_knowingly_not(reference: Json, ours: Json) -> None:
    missing = [
        f"{path} {method}"
        for path, method, _ in operations(reference)
        if method not in ours["paths"].get(path, {})
        and not any(f"{path} {method}".startswith(known) for known in NOT_OFFERED)
    ]
    assert missing == []


def test_nothing_served_is_excused(ours: Json) -> None:
    served = {f"{path} {method}" for path, method, _ in operations(ours)}
    assert {known for known in NOT_OFFERED if any(one.startswith(known) for one in served)} == set()


def test_every_parameter_is_served_or_refused(reference: Json, ours: Json) -> None:
    missing = [
        f"{path} {method} {name}"
        for path, method, operation in operations(reference)
        if method in ours["paths"].get(path, {})
        for name in query_of(operation) - query_of(ours["paths"][path][method])
    ]
    assert missing == []


def test_answers_have_the_keys_of_the_reference(reference: Json, ours: Json) -> None:
    foreign = [
        f"{path} {method} {key}"
        for path, method, operation in operations(reference)
        if method in ours["paths"].get(path, {})
        for status, answer in ours["paths"][path][method]["responses"].items()
        if status[0] == "2"
        for key in keys_of(ours, answer) - keys_of_reference(reference, operation, status)
        if keys_of_reference(reference, operation, status) and key not in EXTRA_KEYS
    ]
    assert foreign == []


def keys_of(document: Json, answer: Json) -> set[str]:
    schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
    return properties(document["components"]["schemas"], schema)


def keys_of_reference(document: Json, operation: Json, status: str) -> set[str]:
    schema = operation["responses"].get(status, operation["responses"].get(int(status), {}))
    return properties(document["definitions"], schema.get("schema", {}))


def properties(types: Json, schema: Json) -> set[str]:
    """Return the names of an object's properties, or of a list's elements'."""
    if "$ref" in schema:
        return properties(types, types[schema["$ref"].rpartition("/")[2]])
    if schema.get("type") == "array":
        return properties(types, schema["items"])
    found: set[str] = set(schema.get("properties", ()))
    for part in schema.get("allOf", ()):
        found |= properties(types, part)
    return found


def test_the_comparison_sees_a_difference(reference: Json) -> None:
    ping: dict[str, Any] = {"paths": {"/_ping": {"get": {"parameters": []}}}}
    assert sum(1 for _ in operations(reference)) > 100
    assert sum(1 for _ in operations(ping)) == 1
    assert "Id" in keys_of_reference(reference, reference["paths"]["/commit"]["post"], "201")

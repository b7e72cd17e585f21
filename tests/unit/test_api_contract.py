"""The route tables against the code that reads them, and against the reference document."""

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manager.api import routes as manager_routes
from swarmapi import openapi
from swarmapi.rest import API_VERSION, Route, route_of
from worker.api import app, document
from worker.cluster import routes as cluster_routes
from worker.cluster.document import whole

ROOT = Path(__file__).parents[2]
ENGINE = (*app.MODULES, document)
TABLES = (*ENGINE, cluster_routes, manager_routes)
PACKAGES = {"worker": (*ENGINE, cluster_routes), "manager": (manager_routes,)}
READERS = {"text", "texts", "flag", "integer", "time_ns", "filters", "document"}


def routes(module: Any) -> list[Route]:
    return [route_of(declared) for declared in module.ROUTES]


def names_read(package: str) -> Iterator[str]:
    """The parameters a package reads by name."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for found in ast.walk(ast.parse(path.read_text())):
            match found:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="query"), attr=reader), args=[_, *rest]
                ) if reader in READERS:
                    if reader == "filters":
                        yield "filters"
                    elif rest and isinstance(rest[0], ast.Constant):
                        yield str(rest[0].value)


NO_DIFFERENCE = {
    "all": "every unused step goes",
    "digests": "RepoDigests are always shown",
    "shared-size": "never known: -1",
    "manifests": "no image has several",
    "verbose": "a local network has no more to tell",
    "quiet": "load tells no progress",
    "detachKeys": "a start attaches nobody",
    "forcerm": "no intermediate container is left",
}
"""What may be asked and changes nothing here; elsewhere, `refused` is the way."""


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_read_is_declared_and_what_is_declared_is_read(package: str) -> None:
    read = set(names_read(package))
    declared = [p for module in PACKAGES[package] for route in routes(module) for p in route.query]
    assert read - {param.name for param in declared} == set()
    served = {param.name for param in declared if param.kind != "refused"}
    assert served - read - set(NO_DIFFERENCE) == set()


def test_queries_are_read_in_one_place_only() -> None:
    direct = [
        f"{path.relative_to(ROOT)}:{number}"
        for place in ("worker", "manager")
        for path in sorted((ROOT / place).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"request\.(rel_url\.|url\.)?query\b", line)
    ]
    assert direct == []


@pytest.mark.parametrize("module", TABLES, ids=lambda module: module.__name__)
def test_every_described_handler_has_words(module: Any) -> None:
    silent = [
        f"{route.method} {route.path}"
        for route in routes(module)
        if not route.hidden and not (route.handler.__doc__ or "").strip()
    ]
    assert silent == []


def whole_document() -> openapi.Json:
    ours = [route for module in (*ENGINE, cluster_routes) for route in routes(module)]
    engine = openapi.describe(ours, title="t", version=API_VERSION)
    return openapi.merge(engine, manager_routes.document())


def test_operations_have_names_of_their_own() -> None:
    found = [
        operation["operationId"]
        for path in whole_document()["paths"].values()
        for operation in path.values()
    ]
    assert len(found) > 60
    assert len(set(found)) == len(found)


def test_every_reference_to_a_type_leads_somewhere() -> None:
    document = whole_document()
    for name in set(re.findall(r"#/components/schemas/([\w.]+)", str(document))):
        assert name in document["components"]["schemas"]


def test_the_whole_document_has_the_managers_part() -> None:
    document = asyncio.run(whole())
    assert {"/containers/json", "/swarm/init", "/services/create"} <= set(document["paths"])
    assert document == asyncio.run(whole())


def test_every_route_of_ours_is_in_the_docs() -> None:
    """Where somebody who has curl and no swarmctl looks."""
    text = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    ours = {path for path in asyncio.run(whole())["paths"] if path.startswith("/swarm/v1/")}
    shown = {re.sub(r"\{[^}]*\}", "[^/ ]+", path) for path in ours}
    assert len(ours) > 15
    assert {path for path in shown if not re.search(path, text)} == set()

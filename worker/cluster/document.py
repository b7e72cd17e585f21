"""`python -m worker.cluster.document`: print the OpenAPI document of a whole daemon."""

import asyncio
import sys

import msgspec

from swarmapi import openapi, rest
from worker.api import app, document
from worker.cluster import routes
from worker.cluster.manager_process import manager_document


async def whole() -> openapi.Json:
    """Return the document of engine, membership and managers."""
    tables = (*(module.ROUTES for module in app.MODULES), document.ROUTES, routes.ROUTES)
    ours = [rest.route_of(declared) for table in tables for declared in table]
    return openapi.merge(document.describe(ours), await manager_document())


if __name__ == "__main__":
    raw = msgspec.json.encode(asyncio.run(whole()))
    sys.stdout.buffer.write(msgspec.json.format(raw, indent=2) + b"\n")

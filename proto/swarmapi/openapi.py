"""The OpenAPI 3.1 document of declared routes."""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from swarmapi.rest import Param, Route

_VARIABLE = re.compile(r"\{(\w+)(?::[^{}]*)?\}")
_MEDIA = {
    "json": "application/json",
    "stream": "application/json",
    "tar": "application/x-tar",
    "text": "text/plain",
    "upgrade": "application/vnd.docker.raw-stream",
    "file": "application/octet-stream",
}
_ERROR = {
    "type": "object",
    "required": ["message"],
    "properties": {"message": {"type": "string"}},
}
Json = dict[str, Any]


def describe(routes: Sequence[Route], *, title: str, version: str, group: str = "") -> Json:
    """Return the document; `group` begins the names of its types, for `merge`."""
    shown = [route for route in routes if not route.hidden]
    kinds = [kind for route in shown for kind in _types(route)]
    schemas, components = msgspec.json.schema_components(
        kinds, ref_template=f"#/components/schemas/{group}{{name}}"
    )
    schema_of = list(zip(kinds, schemas, strict=True))
    paths: dict[str, Json] = {}
    for route in shown:
        path = paths.setdefault(_VARIABLE.sub(r"{\1}", route.path), {})
        path[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "servers": [{"url": "/"}, {"url": f"/v{version}"}],
        "paths": paths,
        "components": {
            "schemas": {
                "Error": _ERROR,
                **{group + name: schema for name, schema in components.items()},
            }
        },
    }


def merge(first: Json, second: Json) -> Json:
    """Return the document of both, the first one's words where both have an operation."""
    paths = {path: dict(found) for path, found in first["paths"].items()}
    for path, found in second["paths"].items():
        paths[path] = {**found, **paths.get(path, {})}
    schemas = {**second["components"]["schemas"], **first["components"]["schemas"]}
    return {
        **first,
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def _types(route: Route) -> list[Any]:
    found = [route.body, route.answer, *(p.type for p in route.query if p.kind == "json")]
    return [kind for kind in found if kind not in (None, bytes, str)]


def _operation(route: Route, schema_of: Sequence[tuple[Any, Json]]) -> Json:
    def schema(kind: Any) -> Json:
        if kind in (bytes, str):
            return {"type": "string"} | ({"format": "binary"} if kind is bytes else {})
        return next(found for known, found in schema_of if known is kind or known == kind)

    handler = route.handler
    words = inspect.getdoc(handler) or ""
    operation: Json = {
        "operationId": f"{_name(handler)}:{route.method}:{route.path}",
        "summary": words.partition("\n")[0],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _VARIABLE.findall(route.path)
        ]
        + [_parameter(p, schema(p.type) if p.kind == "json" else {}) for p in route.query],
        "responses": _responses(route, schema(route.answer) if route.answer is not None else None),
    }
    if route.content == "stream":
        operation["x-stream"] = True  # documents of the answer's type, one after the other
    if route.body is not None:
        media = "application/x-tar" if route.body is bytes else "application/json"
        operation["requestBody"] = {"content": {media: {"schema": schema(route.body)}}}
    return operation


def _name(handler: Any) -> str:
    return f"{handler.__module__.rpartition('.')[2]}.{handler.__qualname__}"


def _responses(route: Route, schema: Mapping[str, Any] | None) -> Json:
    error = {
        "description": "an error",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    good: Json = {"description": "done"}
    if schema is not None:
        good["content"] = {_MEDIA[route.content]: {"schema": schema}}
    found: Json = {str(route.status): good}
    if route.content == "upgrade":
        found["101"] = {"description": "the connection becomes the stream"}
    for status in route.errors:
        found[str(status)] = {"description": "nothing to do"} if status == 304 else error
    found["default"] = error
    return found


def _parameter(param: Param, schema: Json) -> Json:
    found: Json = {"name": param.name, "in": "query"}
    if param.help:
        found["description"] = param.help
    if param.kind == "filters":
        properties = {key: {"type": "array", "items": {"type": "string"}} for key in param.choices}
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if param.kind in ("json", "filters"):
        return {**found, "content": {"application/json": {"schema": schema}}}
    return {**found, "schema": _plain(param)}


def _plain(param: Param) -> Json:
    if param.kind == "flag":
        return {"type": "boolean", "default": bool(param.default)}
    if param.kind == "integer":
        return {"type": "integer", "format": "int64", "default": param.default}
    if param.kind == "time":
        return {"type": "string", "pattern": r"^-?\d{1,12}(\.\d{1,9})?$"}
    if param.kind == "texts":
        return {"type": "array", "items": {"type": "string"}}
    if param.kind == "refused":
        return {"type": "string", "maxLength": 0}
    return {"type": "string", "enum": list(param.choices)} if param.choices else {"type": "string"}

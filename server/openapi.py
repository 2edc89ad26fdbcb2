"""The OpenAPI document: the server parses bodies itself, and describes them from the same types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from .errors import ErrorObject

REF = "#/components/schemas/{name}"

REASONS = {
    400: "A value in the request cannot be honoured",
    401: "No API key, or a wrong one",
    403: "The API key is not for this route",
    404: "No such model",
    408: "The request took too long to arrive",
    409: "It is there already",
    413: "The body is too large",
    415: "The body is not plain JSON",
    422: "The request is not valid",
    424: "The engine failed on this request",
    429: "Too many requests wait, or the API key's limit is reached; Retry-After says when to come back",
    431: "The headers are too large, or too many",
    500: "The engine failed on this request",
    507: "The model does not fit the memory",
    503: "The server is shutting down, or the engine is not ready",
}
EVERYWHERE = (401, 431)
WITH_BODY = (400, 404, 408, 413, 415, 429, 500, 503)


def describe(
    summary: str,
    *,
    answer: type[msgspec.Struct] | None,
    body: type[msgspec.Struct] | None = None,
    path: Sequence[str] = (),
    errors: Sequence[int] = (),
    streams: bool = False,
    stream_type: str = "text/event-stream",
    error: type[msgspec.Struct] = ErrorObject,
) -> dict[str, Any]:
    """What a route's decorator needs to document it. The types must be given to `install`.

    `answer` is the type of the answer, None for a list.
    """
    schema = {"type": "array", "items": {}} if answer is None else _ref(answer)
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if streams:
        content[stream_type] = {"schema": {"type": "string"}}
    responses: dict[int | str, dict[str, Any]] = {200: {"description": "The answer", "content": content}}
    for status in sorted({*EVERYWHERE, *errors, *(WITH_BODY if body is not None else ())}):
        responses[status] = {
            "description": REASONS[status],
            "content": {"application/json": {"schema": _ref(error)}},
        }
    extra: dict[str, Any] = {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    if path:
        extra["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path
        ]
    return {"summary": summary, "responses": responses, "openapi_extra": extra}


def install(app: FastAPI, types: Sequence[type[msgspec.Struct]]) -> None:
    """Makes `app.openapi()` give a document that defines the types which `describe` refers to."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _, components = msgspec.json.schema_components([*types, ErrorObject], ref_template=REF)
            schema.setdefault("components", {}).setdefault("schemas", {}).update(components)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _ref(type: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": REF.format(name=type.__name__)}

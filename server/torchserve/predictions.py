"""`/predictions`: bodies of every kind to arrays, and outputs to JSON.

A TorchServe handler gets the body and makes of it what it likes. Here the model's description says what a
body is: see `raw_tensors`. An object with `instances` is answered with `predictions`, as TorchServe's JSON
envelope does. Stands on numpy: imported with the first request.
"""

from __future__ import annotations

from typing import cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...errors import InvalidRequest
from ...models.classic.predictor import Array, Description
from .. import classic
from ..context import ServerContext
from ..json_body import media_type, parse_json, read_any
from ..multipart import read_parts
from ..raw_tensors import JSON, UNNAMED, from_body, from_json, from_parts
from ..tensors import BYTES_PER_VALUE, from_rows, num_values, to_rows


async def predict(context: ServerContext, request: Request, model: str, version: str | None) -> Response:
    """Answers one request: with an example's outputs, or a list of them for a list of examples."""
    if request.query_params:
        raise InvalidRequest("the query is not read; send the inputs in the body", param="query")
    description = (await classic.metadata(context, model, version)).description
    kind = media_type(request)

    def read(body: bytes) -> _Read:
        return _read(context, description, kind, request.headers.get("content-type", ""), body)

    asked = await read_any(context, request, read)
    outputs = await classic.infer(context, model, version, asked.inputs)

    def write() -> bytes:
        rows = to_rows(outputs)
        if asked.enveloped:
            return msgspec.json.encode({"predictions": rows})
        return msgspec.json.encode(rows[0] if asked.single else rows)

    body = await context.offload(BYTES_PER_VALUE * num_values(outputs), write)
    return Response(body, media_type="application/json")


class _Read(msgspec.Struct):
    """What a body holds."""

    inputs: dict[str, Array]
    single: bool
    enveloped: bool = False


def _read(
    context: ServerContext, description: Description, kind: str, content_type: str, body: bytes
) -> _Read:
    def parse(text: bytes) -> object:
        return parse_json(text, context.settings)

    if kind == "multipart/form-data":
        return _Read(*from_parts(description, read_parts(body, content_type), parse))
    if kind in JSON or (kind in UNNAMED and description.inputs[0].datatype != "BYTES"):
        value = parse(body)
        if isinstance(value, dict):
            members = cast("dict[str, object]", value)
            if list(members) == ["instances"]:
                return _Read(from_rows(description, members["instances"], "instances"), False, True)
        return _Read(*from_json(description, value))
    return _Read(*from_body(description, kind, body, parse))

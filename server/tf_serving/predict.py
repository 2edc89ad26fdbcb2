"""Predict, classify and regress. Stands on numpy: imported with the first request."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ...models.classic.predictor import Array
from .. import classic
from ..context import ServerContext
from ..json_body import parse_object, read_any
from ..tensors import BYTES_PER_VALUE, num_values
from .bodies import read_body, write_body
from .versions import Target


async def answer(context: ServerContext, request: Request, target: Target, verb: str) -> Response:
    """Answers `:predict`, `:classify` or `:regress`."""
    name, version = target.model, target.find_version(context)
    description = classic.metadata(context, name, version).description
    settings = context.settings

    def read(body: bytes) -> tuple[dict[str, Array], bool]:
        return read_body(description, parse_object(body, settings), verb)

    inputs, in_rows = await read_any(context, request, read)
    outputs = await classic.infer(context, name, version, inputs)
    body = await context.offload(
        BYTES_PER_VALUE * num_values(outputs), lambda: write_body(outputs, verb, in_rows=in_rows)
    )
    return Response(body, media_type="application/json")

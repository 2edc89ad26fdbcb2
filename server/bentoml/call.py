"""A call of an API: inputs by name in, outputs out. Stands on numpy: imported with the first request."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...models.classic.predictor import Array
from .. import classic
from ..context import ServerContext
from ..errors import UnsupportedMediaType
from ..json_body import media_type, parse_json, read_any
from ..raw_tensors import from_json
from ..tensors import BYTES_PER_VALUE, num_values, to_columns, to_rows


async def call(context: ServerContext, request: Request, model: str) -> Response:
    """Answers one request: one output alone, several by name; of an example what is the example's."""
    if media_type(request) != "application/json":
        raise UnsupportedMediaType("the inputs must be JSON, sent with Content-Type: application/json")
    description = (await classic.metadata(context, model)).description

    def read(body: bytes) -> tuple[dict[str, Array], bool]:
        return from_json(description, parse_json(body, context.settings) if body else {})

    inputs, single = await read_any(context, request, read)
    outputs = await classic.infer(context, model, None, inputs)
    body = await context.offload(
        BYTES_PER_VALUE * num_values(outputs),
        lambda: msgspec.json.encode(to_rows(outputs)[0] if single else to_columns(outputs)),
    )
    return Response(body, media_type="application/json")

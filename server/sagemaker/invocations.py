"""`/invocations`: one route for every kind of model and body."""

from __future__ import annotations

import json
from typing import cast

from starlette.requests import Request
from starlette.responses import Response

from ...errors import InvalidRequest
from .. import classic
from ..context import RequestRecord, ServerContext
from ..json_body import media_type, parse_json, read_any
from ..language_bodies import HANDLERS, handler_of, replayed
from .attributes import CUSTOM, Attributes

HOW = "name one as tfs-model-name in X-Amzn-SageMaker-Custom-Attributes, or ask it by its own routes"


async def invoke(context: ServerContext, request: Request, model: str | None = None) -> Response:
    """Answers one request.

    Args:
        context: The server.
        request: The request.
        model: The classic model, where the path names it.

    Raises:
        InvalidRequest: A value cannot be honoured; the message names it.
        NotFound: There is no such model.
    """
    attributes = Attributes.of(request)
    record: RequestRecord = request.state.record
    record.tags |= attributes.tags
    response = await _answer(context, request, attributes, model or attributes.model)
    if attributes.custom is not None:
        response.headers[CUSTOM] = attributes.custom
    return response


async def _answer(
    context: ServerContext, request: Request, attributes: Attributes, model: str | None
) -> Response:
    has_classic = model is not None or classic.has_models(context)

    def read(body: bytes) -> tuple[bytes, object]:
        is_json = media_type(request) == "application/json"
        return body, parse_json(body, context.settings) if is_json else None

    body, value = await read_any(context, request, read)
    if model is not None and model in context.language_models:
        return await _ask_language(context, request, model, value)
    handler = handler_of(context, value, has_classic=has_classic) if model is None else None
    if handler is not None:
        return await handler(context, replayed(request, body))
    name = model or classic.only_model(context, HOW)
    classic.plane(context, name)  # an absent model is no reason to load numpy
    return await _ask(context, request, name, attributes, body, value)


async def _ask_language(context: ServerContext, request: Request, name: str, value: object) -> Response:
    """Asks a language model that the path names, or a header, and not the body."""
    handler = handler_of(context, value, has_classic=False)
    if handler is None or not isinstance(value, dict):
        raise InvalidRequest(f"the body must be JSON with one of {', '.join(HANDLERS)}")
    asked = cast("dict[str, object]", value)
    if asked.setdefault("model", name) != name:
        raise InvalidRequest(f"the body names another model than {name!r}", param="model")
    if handler is HANDLERS["inputs"]:
        if name != context.model_name:
            raise InvalidRequest("TGI's requests reach the default model alone; send messages or prompt")
        del asked["model"]
    return await handler(context, replayed(request, json.dumps(asked, ensure_ascii=False).encode()))


async def _ask(
    context: ServerContext, request: Request, name: str, attributes: Attributes, body: bytes, value: object
) -> Response:
    from ..tensors import BYTES_PER_VALUE, num_values
    from . import bodies

    settings = context.settings
    description = (await classic.metadata(context, name, attributes.version)).description
    kind = media_type(request)
    answer_type = bodies.accepted(request.headers.get("accept", ""), kind)

    def parse(text: bytes) -> object:
        return value if text is body and value is not None else parse_json(text, settings)

    asked = await context.offload(
        len(body),
        lambda: bodies.read(description, kind, body, attributes.method, parse, settings.max_json_values),
    )
    outputs = await classic.infer(context, name, attributes.version, asked.inputs)
    written = await context.offload(
        BYTES_PER_VALUE * num_values(outputs), lambda: bodies.write(outputs, asked, answer_type)
    )
    return Response(written, media_type=answer_type)

"""Vertex AI's predictions: `instances` for every kind of model; other bodies (rawPredict) as they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...errors import InvalidRequest, QuireError
from .. import classic
from ..context import ServerContext
from ..generation import while_connected
from ..json_body import convert, media_type, parse_json, read_any
from ..language_bodies import Handler, add_part, handler_of, part_of, replayed
from ..sagemaker.invocations import invoke
from .protocol import VertexRequest, VertexResponse

FORMAT, CHAT = "@requestFormat", "chatCompletions"
"""The key by which Google's clients say that an instance is a chat, and its only value."""

HOW = "name one as parameters.model"


async def predict(context: ServerContext, request: Request) -> Response:
    """Answers one request.

    Raises:
        InvalidRequest: A value cannot be honoured; the message names it.
    """

    def read(body: bytes) -> tuple[bytes, object]:
        is_json = media_type(request) in ("application/json", "")
        return body, parse_json(body, context.settings) if is_json else None

    body, value = await read_any(context, request, read)
    if not isinstance(value, dict) or "instances" not in value:
        return await invoke(context, replayed(request, body))  # rawPredict and streamRawPredict
    asked = convert(cast("dict[str, object]", value), VertexRequest, {})
    if not asked.instances:
        raise InvalidRequest("instances must not be empty", param="instances")
    parameters = dict(asked.parameters or {})
    bodies = [_language_body(instance, parameters) for instance in asked.instances]
    handlers = [
        handler_of(context, body, has_classic=classic.has_models(context)) if body is not None else None
        for body in bodies
    ]
    if all(handler is not None for handler in handlers):
        pairs = [(handler, body) for handler, body in zip(handlers, bodies, strict=True) if handler and body]
        predictions: list[Any] = await while_connected(request.receive, _generate(context, request, pairs))
    elif any(handler is not None for handler in handlers):
        raise InvalidRequest("the instances must all be for language models, or none", param="instances")
    else:
        predictions = await _compute(context, asked.instances, parameters)
    answer = await context.offload(len(body), lambda: msgspec.json.encode(VertexResponse(predictions)))
    return Response(answer, media_type="application/json")


async def _compute(context: ServerContext, instances: list[Any], parameters: dict[str, Any]) -> list[Any]:
    """The predictions of a classic model."""
    name = parameters.pop("model", None)
    if name is not None and not isinstance(name, str):
        raise InvalidRequest("parameters.model must be a string", param="parameters.model")
    name = name or classic.only_model(context, HOW)
    classic.plane(context, name)  # an absent model is no reason to load numpy
    from ..tensors import BYTES_PER_VALUE, from_rows, num_values, to_rows

    description = (await classic.metadata(context, name)).description
    inputs = await context.offload(
        BYTES_PER_VALUE * len(instances), lambda: from_rows(description, instances, "instances")
    )
    outputs = await classic.infer(context, name, None, inputs, parameters)
    return await context.offload(BYTES_PER_VALUE * num_values(outputs), lambda: to_rows(outputs))


def _language_body(instance: object, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """An instance as the body of a request of its own, with the parameters that all instances share."""
    if not isinstance(instance, dict):
        return None
    own = dict(cast("dict[str, Any]", instance))
    if own.pop(FORMAT, CHAT) != CHAT:
        raise InvalidRequest(f"{FORMAT} may be {CHAT!r} alone", param=FORMAT)
    if "inputs" not in own or "messages" in own or "prompt" in own:
        return {**parameters, **own}
    mine = own.get("parameters")
    if mine is None or isinstance(mine, dict):
        shared = {key: value for key, value in parameters.items() if key != "model"}
        own["parameters"] = {**shared, **cast("dict[str, Any]", mine or {})}
    return own


async def _generate(
    context: ServerContext, request: Request, pairs: list[tuple[Handler, dict[str, Any]]]
) -> list[Any]:
    """The answers of language models, computed side by side. One that fails ends the others."""
    limit = context.settings.max_prompts
    if len(pairs) > limit:
        raise InvalidRequest(
            f"instances has {len(pairs)} items; at most {limit} are allowed", param="instances"
        )
    tasks = [
        asyncio.ensure_future(_generate_one(context, request, place, *pair))
        for place, pair in enumerate(pairs)
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _generate_one(
    context: ServerContext, request: Request, place: int, handler: Handler, body: dict[str, Any]
) -> Any:
    if body.get("stream"):
        raise InvalidRequest("instances are not streamed; send the body alone, as streamRawPredict does")
    part, record = part_of(request, place, json.dumps(body, ensure_ascii=False).encode())
    try:
        response = await handler(context, part)
        if record.error is not None:  # which the handler has written as its dialect does
            raise record.error
    except QuireError as error:
        error.message = f"instances[{place}]: {error.message}"
        raise
    finally:
        add_part(request.state.record, record)
    answer = msgspec.json.decode(bytes(response.body))
    if isinstance(answer, list):  # TGI's
        return answer[0]["generated_text"]
    return answer

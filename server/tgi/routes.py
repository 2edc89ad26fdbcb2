"""TGI's routes."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ... import __version__
from ...engine.sampling_params import MAX_CHOICES, MAX_STOP_STRINGS
from ..context import ServerContext
from ..dialects import guarded
from ..generation import encode
from ..json_body import read_message
from ..openai.chat_prompt import render_prompt
from ..openai.protocol import UNSUPPORTED_IN_CHAT, ChatCompletionRequest
from ..openai.tools import read_tools
from ..openapi import describe
from ..tei.answers import answer_any
from .failures import failure_response, write_error
from .generate import generate
from .protocol import (
    TgiAnswer,
    TgiEvent,
    TgiFailure,
    TgiInfo,
    TgiParameters,
    TgiRequest,
    TgiTemplatedChat,
)
from .tokens import placed

TYPES = (TgiAnswer, TgiEvent, TgiFailure, TgiInfo, TgiParameters, TgiRequest, TgiTemplatedChat)
"""What the OpenAPI document defines."""

MODEL = "tgi"
"""What TGI's clients call the only model there is."""


def tgi_routes(context: ServerContext) -> APIRouter:
    """Generation, what there is to know of the server, and how it writes a conversation."""
    router = APIRouter(tags=["TGI"])
    context.paths.add_error_writer("/(?:generate|generate_stream|info|chat_tokenize)?", write_error)

    @router.post("/generate", **_describe("Continue a text", TgiAnswer, TgiRequest))
    async def whole(request: Request) -> Response:
        return await guarded(request, generate(context, request, streams=False), failure_response)

    @router.post(
        "/generate_stream", **_describe("Continue a text, token by token", TgiEvent, TgiRequest, streams=True)
    )
    async def stream(request: Request) -> Response:
        return await guarded(request, generate(context, request, streams=True), failure_response)

    @router.post("/", **_describe("Continue a text; `stream` says how", TgiAnswer, TgiRequest, streams=True))
    async def either(request: Request) -> Response:
        return await guarded(request, _answer(context, request), failure_response)

    @router.get("/info", **_describe("The server, its model and its limits", TgiInfo))
    async def info() -> Response:
        return Response(msgspec.json.encode(_info(context)), media_type="application/json")

    @router.post(
        "/chat_tokenize",
        **_describe("What the model is given for a chat", TgiTemplatedChat, ChatCompletionRequest),
    )
    async def chat_tokenize(request: Request) -> Response:
        return await guarded(request, _chat_tokenize(context, request), failure_response)

    _ = (whole, stream, either, info, chat_tokenize)
    return router


def _describe(
    summary: str,
    answer: type[msgspec.Struct],
    body: type[msgspec.Struct] | None = None,
    *,
    streams: bool = False,
) -> dict[str, Any]:
    return describe(
        summary,
        answer=answer,
        body=body,
        errors=() if body is None else (422, 424),
        streams=streams,
        error=TgiFailure,
    )


async def _answer(context: ServerContext, request: Request) -> Response:
    """`/` belongs to text-embeddings-inference, too: whose client it is follows from what the model does."""
    model = await context.serving(None, request.state.record)
    if not model.engine.model_config.generates:
        return await answer_any(model, request)
    return await generate(context, request, streams=None, in_list=True)


def _info(context: ServerContext) -> TgiInfo:
    engine = context.engine
    return TgiInfo(
        model_id=context.model_name,
        model_sha=engine.config.revision,
        max_concurrent_requests=engine.config.max_num_seqs + engine.config.max_num_waiting,
        max_best_of=MAX_CHOICES,
        max_stop_sequences=MAX_STOP_STRINGS,
        max_input_tokens=engine.max_model_len - 1,
        max_total_tokens=engine.max_model_len,
        version=__version__,
    )


async def _chat_tokenize(context: ServerContext, request: Request) -> Response:
    body = await read_message(context, request, ChatCompletionRequest, unsupported=UNSUPPORTED_IN_CHAT)
    name = None if body.model == MODEL else body.model
    context = await context.serving(name, request.state.record)
    prompt = await render_prompt(context, body, read_tools(body))
    (tokens,) = await encode(context, [prompt.text], add_special_tokens=body.add_special_tokens is True)

    def write() -> bytes:
        return msgspec.json.encode(TgiTemplatedChat(placed(context.engine.tokenizer, tokens), prompt.text))

    return Response(await context.offload(50 * len(tokens), write), media_type="application/json")

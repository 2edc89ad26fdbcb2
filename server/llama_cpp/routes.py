"""The llama.cpp server's routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ... import __version__
from ...errors import InvalidRequest, Unavailable
from ..context import ServerContext
from ..dialects import guarded
from ..json_body import read_message
from ..openai.chat_prompt import render_prompt
from ..openai.protocol import UNSUPPORTED_IN_CHAT, ChatCompletionRequest
from ..openai.scores import Ranking, RerankRequest
from ..openai.tools import read_tools
from ..openapi import describe
from .completion import complete
from .embeddings import embed_texts, rank
from .failures import NotSupported, failure_response, write_error
from .params import sampling_params, settings
from .protocol import (
    LlamaCompletion,
    LlamaCompletionRequest,
    LlamaDefaults,
    LlamaEmbedding,
    LlamaEmbeddingRequest,
    LlamaFailure,
    LlamaModalities,
    LlamaPrompt,
    LlamaProps,
    LlamaSlot,
)

TYPES = (
    LlamaCompletion,
    LlamaCompletionRequest,
    LlamaEmbedding,
    LlamaEmbeddingRequest,
    LlamaFailure,
    LlamaPrompt,
    LlamaProps,
    LlamaSlot,
)
"""What the OpenAPI document defines."""

PATHS = "/(?:completions?|apply-template|props|slots(?:/.*)?|embeddings?|reranking|infill|lora-adapters)"
"""Those whose errors are in llama.cpp's form, as a regex."""

REFUSED = (
    ("/infill", "filling in the middle is the suffix of /v1/completions, not served here yet"),
    ("/props", "properties cannot be changed while the server runs"),
    ("/slots/{slot}", "there are no slots to save, restore or erase: caching is automatic"),
    ("/lora-adapters", "adapters are not supported yet"),
)


def llama_cpp_routes(context: ServerContext) -> APIRouter:
    """Completion, templates, and what there is to know of the server."""
    router = APIRouter(tags=["llama.cpp"])
    context.paths.add_error_writer(PATHS, write_error)
    _add_texts(router, context)
    _add_state(router, context)
    _add_embeddings(router, context)
    for path, reason in REFUSED:
        _refuse(router, path, reason)
    return router


def _add_texts(router: APIRouter, context: ServerContext) -> None:
    completion = _describe("Continue a prompt", LlamaCompletion, LlamaCompletionRequest, streams=True)

    @router.post("/completion", **completion)
    @router.post("/completions", include_in_schema=False)
    async def completions(request: Request) -> Response:
        return await guarded(request, complete(context, request), failure_response)

    @router.post(
        "/apply-template",
        **_describe("What the model is given for a chat", LlamaPrompt, ChatCompletionRequest),
    )
    async def apply_template(request: Request) -> Response:
        return await guarded(request, _apply_template(context, request), failure_response)

    _ = (completions, apply_template)


def _add_embeddings(router: APIRouter, context: ServerContext) -> None:
    embedding = _describe("Embed texts", LlamaEmbedding, LlamaEmbeddingRequest)

    @router.post("/embedding", **embedding)
    @router.post("/embeddings", include_in_schema=False)
    async def embed(request: Request) -> Response:
        return await guarded(request, embed_texts(context, request), failure_response)

    @router.post("/reranking", **_describe("Rank documents", Ranking, RerankRequest))
    @router.post("/v1/reranking", include_in_schema=False)
    async def reranking(request: Request) -> Response:
        return await guarded(request, rank(context, request), failure_response)

    _ = (embed, reranking)


def _add_state(router: APIRouter, context: ServerContext) -> None:
    @router.get("/props", **_describe("The server and its model", LlamaProps))
    async def props() -> Response:
        return Response(msgspec.json.encode(_props(context)), media_type="application/json")

    slots_are = _describe("How many requests can run at once, and how many do", None, errors=(400, 503))

    @router.get("/slots", **slots_are)
    async def slots(request: Request) -> Response:
        return await guarded(request, _slots(context, request), failure_response)

    _ = (props, slots)


def _refuse(router: APIRouter, path: str, reason: str) -> None:
    async def refuse(request: Request) -> Response:
        async def fail() -> Response:
            raise NotSupported(reason)

        return await guarded(request, fail(), failure_response)

    router.add_api_route(path, refuse, methods=["POST"], include_in_schema=False)


def _describe(
    summary: str,
    answer: type[msgspec.Struct] | None,
    body: type[msgspec.Struct] | None = None,
    *,
    streams: bool = False,
    errors: Sequence[int] = (),
) -> dict[str, Any]:
    return describe(summary, answer=answer, body=body, streams=streams, errors=errors, error=LlamaFailure)


async def _apply_template(context: ServerContext, request: Request) -> Response:
    body = await read_message(context, request, ChatCompletionRequest, unsupported=UNSUPPORTED_IN_CHAT)
    context = await context.serving(body.model, request.state.record)
    prompt = await render_prompt(context, body, read_tools(body))
    return Response(msgspec.json.encode(LlamaPrompt(prompt.text)), media_type="application/json")


def _props(context: ServerContext) -> LlamaProps:
    engine = context.engine
    body = LlamaCompletionRequest(prompt="", seed=0)
    params = msgspec.structs.replace(settings(context, body, sampling_params(context, body, 1)), seed=-1)
    tokenizer = engine.tokenizer
    bos, eos = tokenizer.bos_token_id, engine.model_config.eos_token_ids
    return LlamaProps(
        default_generation_settings=LlamaDefaults(engine.max_model_len, params),
        total_slots=engine.config.max_num_seqs,
        model_path=engine.config.model,
        chat_template=engine.chat_template.sources.get("default", ""),
        bos_token="" if bos is None else tokenizer.token_text(bos),
        eos_token=tokenizer.token_text(eos[0]) if eos else "",
        modalities=LlamaModalities(),
        build_info=f"quire {__version__}",
    )


async def _slots(context: ServerContext, request: Request) -> Response:
    """A slot for each request that can run; those that do come first."""
    fail = request.query_params.get("fail_on_no_slot")
    if fail not in (None, "0", "1"):
        raise InvalidRequest(f"fail_on_no_slot must be 0 or 1, got {fail!r:.80}", param="fail_on_no_slot")
    engine = context.engine
    total, running = engine.config.max_num_seqs, engine.stats.num_running
    if fail == "1" and running >= total:
        raise Unavailable("no slot is free", code="no_slot")
    found = [
        LlamaSlot(id=place, n_ctx=engine.max_model_len, is_processing=place < running)
        for place in range(total)
    ]
    return Response(msgspec.json.encode(found), media_type="application/json")

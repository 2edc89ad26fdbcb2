"""Ollama's routes."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...errors import InvalidRequest, Overloaded, QuireError
from ..context import ServerContext
from ..dialects import guarded, rename
from ..errors import ErrorDetails, error_details
from ..openapi import describe
from . import answers, embeddings, models
from .options import RENAMED
from .protocol import (
    OllamaChatLine,
    OllamaChatRequest,
    OllamaEmbedded,
    OllamaEmbedding,
    OllamaEmbeddingRequest,
    OllamaEmbedRequest,
    OllamaFailure,
    OllamaGenerateLine,
    OllamaGenerateRequest,
    OllamaModels,
    OllamaShow,
    OllamaShowRequest,
    OllamaVersion,
)
from .stream import MEDIA_TYPE

TYPES = (
    OllamaChatLine,
    OllamaChatRequest,
    OllamaEmbedRequest,
    OllamaEmbedded,
    OllamaEmbedding,
    OllamaEmbeddingRequest,
    OllamaFailure,
    OllamaGenerateLine,
    OllamaGenerateRequest,
    OllamaModels,
    OllamaShow,
    OllamaShowRequest,
    OllamaVersion,
)
"""What the OpenAPI document defines."""

API_VERSION = "0.13.0"
"""The Ollama whose API this is; clients refuse to talk to older ones than they know."""

# What a server with one model, chosen when it is started, does not do.
REFUSED = (
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("HEAD", "/api/blobs/{digest}"),
    ("POST", "/api/blobs/{digest}"),
)


def ollama_routes(context: ServerContext) -> APIRouter:
    """Generation, chat, and what there is to know of the model."""
    router = APIRouter(tags=["Ollama"])
    context.paths.add_error_writer("/api/.*", _write_error)
    _add_generation(router, context)
    _add_models(router, context)
    _add_embeddings(router, context)
    for method, path in REFUSED:
        _refuse(router, method, path, "models cannot be changed over the API: quire serve MODEL chooses one")
    return router


def _add_generation(router: APIRouter, context: ServerContext) -> None:
    @router.post(
        "/api/generate",
        **_describe("Answer a prompt", OllamaGenerateLine, OllamaGenerateRequest, streams=True),
    )
    async def generate(request: Request) -> Response:
        return await _guarded(request, answers.generate(context, request))

    @router.post("/api/chat", **_describe("Answer a chat", OllamaChatLine, OllamaChatRequest, streams=True))
    async def chat(request: Request) -> Response:
        return await _guarded(request, answers.chat(context, request))

    _ = (generate, chat)


def _add_embeddings(router: APIRouter, context: ServerContext) -> None:
    @router.post("/api/embed", **_describe("Embed texts", OllamaEmbedded, OllamaEmbedRequest))
    async def embed(request: Request) -> Response:
        return await _guarded(request, embeddings.embed_texts(context, request))

    @router.post("/api/embeddings", **_describe("Embed a text", OllamaEmbedding, OllamaEmbeddingRequest))
    async def embed_one(request: Request) -> Response:
        return await _guarded(request, embeddings.embed_text(context, request))

    _ = (embed, embed_one)


def _add_models(router: APIRouter, context: ServerContext) -> None:
    @router.get("/api/tags", **_describe("List the models", OllamaModels))
    async def tags() -> Response:
        return models.list_models(context, loaded=False)

    @router.get("/api/ps", **_describe("List the models that are loaded", OllamaModels))
    async def ps() -> Response:
        return models.list_models(context, loaded=True)

    @router.post("/api/show", **_describe("Describe a model", OllamaShow, OllamaShowRequest))
    async def show(request: Request) -> Response:
        return await _guarded(request, models.show(context, request))

    @router.get("/api/version", **_describe("The version of Ollama's API", OllamaVersion))
    @router.head("/api/version", include_in_schema=False)
    async def version() -> Response:
        return Response(msgspec.json.encode(OllamaVersion(API_VERSION)), media_type="application/json")

    _ = (tags, ps, show, version)


def _refuse(router: APIRouter, method: str, path: str, reason: str) -> None:
    async def refuse(request: Request) -> Response:
        async def fail() -> Response:
            raise InvalidRequest(reason, code="unsupported_route")

        return await _guarded(request, fail())

    router.add_api_route(path, refuse, methods=[method], include_in_schema=False)


def _describe(
    summary: str,
    answer: type[msgspec.Struct],
    body: type[msgspec.Struct] | None = None,
    *,
    streams: bool = False,
) -> dict[str, Any]:
    return describe(
        summary, answer=answer, body=body, streams=streams, stream_type=MEDIA_TYPE, error=OllamaFailure
    )


async def _guarded(request: Request, work: Awaitable[Response]) -> Response:
    return await guarded(request, work, _failure)


def _write_error(status: int, details: ErrorDetails) -> bytes:
    """What the gate refuses, in Ollama's form, which is a message alone."""
    return msgspec.json.encode(OllamaFailure(details.message))


def _failure(error: Exception) -> Response:
    """An error in Ollama's shape; where OpenAI has 429 for a full queue, Ollama has 503."""
    headers: dict[str, str] = {}
    status = 500
    if isinstance(error, QuireError):
        rename(error, RENAMED)
        status = error.status
    if isinstance(error, Overloaded):
        headers["retry-after"] = str(error.retry_after)
        status = 503
    body = msgspec.json.encode(OllamaFailure(error_details(error).message))
    return Response(body, status, headers, media_type="application/json")

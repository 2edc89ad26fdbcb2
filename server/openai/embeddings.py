"""`/v1/embeddings`: one vector of each text."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Literal

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...engine.embeddings import as_floats
from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..json_body import read_message
from ..openapi import describe
from ..pooling import PoolingOptions, embed
from .common import check_common, priority
from .completions import split_prompts
from .protocol import SamplingFields

if TYPE_CHECKING:
    from ...engine.embeddings import Vector


class PoolingFields(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What requests that make vectors have in common; all but `model` and `user` are vLLM's.

    `truncate_prompt_tokens` keeps the first tokens of a longer text, as many as fit if it is -1.
    """

    model: str | None = None
    user: str | None = None
    add_special_tokens: bool | None = None
    cache_salt: str | None = None
    priority: int | None = None
    request_id: str | None = None
    truncate_prompt_tokens: int | None = None


class EmbeddingRequest(PoolingFields, kw_only=True):
    """`input` is a text, a list of token ids, or a list of texts or of lists of token ids."""

    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None


class Embedding(msgspec.Struct, kw_only=True):
    """A vector: numbers, or their float32 little-endian in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class PoolingUsage(msgspec.Struct, kw_only=True):
    """Tokens of all texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, kw_only=True):
    """The vectors, in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: PoolingUsage


TYPES = (EmbeddingList, EmbeddingRequest)
"""What the OpenAPI document defines."""


def embedding_routes(context: ServerContext) -> APIRouter:
    """The route."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.post("/embeddings", **describe("Embed texts", body=EmbeddingRequest, answer=EmbeddingList))
    async def embeddings(request: Request) -> Response:
        return await create_embeddings(context, request)

    _ = embeddings
    return router


async def create_embeddings(context: ServerContext, request: Request) -> Response:
    """Answers one request."""
    body = await read_message(context, request, EmbeddingRequest, unsupported={})
    try:
        return await _create(context, request, body)
    except InvalidRequest as error:
        error.param = "input" if error.param == "prompt" else error.param
        raise


async def _create(context: ServerContext, request: Request, body: EmbeddingRequest) -> Response:
    context = await context.serving(body.model, request.state.record)
    prompts = split_prompts(body.input, context.settings.max_prompts)
    options = pooling_options(request, body)
    vectors = await embed(context, request, prompts, options, dimensions=body.dimensions)

    def write() -> bytes:
        return msgspec.json.encode(
            EmbeddingList(
                data=[
                    Embedding(index=index, embedding=write_vector(vector, body.encoding_format))
                    for index, vector in enumerate(vectors)
                ],
                model=context.model_name,
                usage=pooling_usage(request.state.record),
            )
        )

    num_bytes = sum(8 * vector.size for vector in vectors)
    return Response(await context.offload(num_bytes, write), media_type="application/json")


def pooling_options(request: Request, body: PoolingFields) -> PoolingOptions:
    """How the texts are read. Raises `InvalidRequest` naming a field that is out of range."""
    fields = SamplingFields(
        model=body.model,
        user=body.user,
        cache_salt=body.cache_salt,
        priority=body.priority,
        request_id=body.request_id,
    )
    check_common(request, fields)
    return PoolingOptions(
        add_special_tokens=body.add_special_tokens is not False,
        truncate=body.truncate_prompt_tokens,
        priority=priority(request, fields),
        cache_salt=body.cache_salt,
    )


def pooling_usage(record: RequestRecord) -> PoolingUsage:
    """The tokens of a request."""
    return PoolingUsage(prompt_tokens=record.num_prompt_tokens, total_tokens=record.num_prompt_tokens)


def write_vector(vector: Vector, encoding_format: Literal["float", "base64"] | None) -> list[float] | str:
    """The vector as numbers, or as base64 of float32, little-endian."""
    if encoding_format != "base64":
        return as_floats(vector)
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()

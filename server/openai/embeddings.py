"""`/v1/embeddings`: one vector of each text."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...engine.embeddings import as_floats, finish_embedding, pooling_params
from ...engine.outputs import RequestOutput
from ...errors import EngineError, InvalidRequest
from ..context import RequestRecord, ServerContext
from ..generation import Job, collect, encode, run, while_connected
from ..json_body import read_message
from ..openapi import describe
from .common import check_common, priority
from .completions import split_prompts
from .protocol import SamplingFields

if TYPE_CHECKING:
    from ...engine.embeddings import Vector

UNSUPPORTED: dict[str, tuple[object, ...]] = {"truncate_prompt_tokens": ()}


class PoolingFields(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What requests that make vectors have in common; all but `model` and `user` are vLLM's."""

    model: str | None = None
    user: str | None = None
    add_special_tokens: bool | None = None
    cache_salt: str | None = None
    priority: int | None = None
    request_id: str | None = None


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
    body = await read_message(context, request, EmbeddingRequest, unsupported=UNSUPPORTED)
    try:
        return await _create(context, request, body)
    except InvalidRequest as error:
        error.param = "input" if error.param == "prompt" else error.param
        raise


async def _create(context: ServerContext, request: Request, body: EmbeddingRequest) -> Response:
    context = await context.serving(body.model, request.state.record)
    context.engine.pooling.check_dimensions(body.dimensions)
    prompts = split_prompts(body.input, context.settings.max_prompts)
    vectors = await embed(context, request, body, prompts, body.dimensions)

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


async def embed(
    context: ServerContext,
    request: Request,
    body: PoolingFields,
    prompts: Sequence[str | list[int]],
    dimensions: int | None = None,
    *,
    normalize: bool = True,
) -> list[Vector]:
    """The embeddings of texts or token ids, in their order.

    Raises what the checks of common fields and the engine raise.
    """
    fields = SamplingFields(
        model=body.model,
        user=body.user,
        cache_salt=body.cache_salt,
        priority=body.priority,
        request_id=body.request_id,
    )
    check_common(request, fields)
    record: RequestRecord = request.state.record
    pooling = context.engine.pooling
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    encoded = iter(await encode(context, texts, add_special_tokens=body.add_special_tokens is not False))
    job = Job(
        prompts=[next(encoded) if isinstance(prompt, str) else prompt for prompt in prompts],
        params=[pooling_params(pooling)] * len(prompts),
        priority=priority(request, fields),
        cache_salt=body.cache_salt,
    )
    outputs = await while_connected(request.receive, collect(run(context, record, job)))

    def finish() -> list[Vector]:
        return [
            finish_embedding(pooling, _pooled(output), dimensions, normalize=normalize)
            for _, output in outputs
        ]

    return await context.offload(4 * pooling.hidden_size * len(outputs), finish)


def _pooled(output: RequestOutput) -> bytes:
    if output.pooled is None:
        raise EngineError("the engine gave no vector for a prompt")
    return output.pooled


def pooling_usage(record: RequestRecord) -> PoolingUsage:
    """The tokens of a request."""
    return PoolingUsage(prompt_tokens=record.num_prompt_tokens, total_tokens=record.num_prompt_tokens)


def write_vector(vector: Vector, encoding_format: Literal["float", "base64"] | None) -> list[float] | str:
    """The vector as numbers, or as base64 of float32, little-endian."""
    if encoding_format != "base64":
        return as_floats(vector)
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()

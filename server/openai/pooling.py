"""`/pooling`, in vLLM's form: vectors of texts or numbers of labels, finished or as the model gives them."""

from __future__ import annotations

import time
from typing import Literal

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..json_body import read_message
from ..openapi import describe
from ..pooling import classify, embed
from .completions import split_prompts
from .embeddings import EmbeddingRequest, PoolingUsage, pooling_options, pooling_usage, write_vector


class PoolingRequest(EmbeddingRequest, kw_only=True):
    """As for embeddings; a classifier gives a number for each label.

    `use_activation: false` leaves the vectors, or numbers, as the model gives them.
    """

    use_activation: bool | None = None


class PooledVector(msgspec.Struct, kw_only=True):
    """A vector: numbers, or their float32 little-endian in base64."""

    index: int
    object: Literal["pooling"] = "pooling"
    data: list[float] | str


class PooledVectors(msgspec.Struct, kw_only=True):
    """The vectors, in the order of the texts."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[PooledVector]
    usage: PoolingUsage


TYPES = (PooledVectors, PoolingRequest)
"""What the OpenAPI document defines."""


def pooling_routes(context: ServerContext) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["pooling"])

    @router.post("/pooling", **describe("Pool texts", body=PoolingRequest, answer=PooledVectors))
    async def pool(request: Request) -> Response:
        body = await read_message(context, request, PoolingRequest, unsupported={})
        try:
            return await _pool(context, request, body)
        except InvalidRequest as error:
            error.param = "input" if error.param == "prompt" else error.param
            raise

    _ = pool
    return router


async def _pool(context: ServerContext, request: Request, body: PoolingRequest) -> Response:
    record: RequestRecord = request.state.record
    context = await context.serving(body.model, record)
    prompts = split_prompts(body.input, context.settings.max_prompts)
    options, use_activation = pooling_options(request, body), body.use_activation is not False
    if context.engine.pooling.classifier is not None:
        if body.dimensions is not None:
            raise InvalidRequest(
                "dimensions are those of embeddings, and this model classifies", param="dimensions"
            )
        vectors = await classify(context, request, prompts, options, use_activation=use_activation)
    else:
        normalize = None if use_activation else False
        vectors = await embed(
            context, request, prompts, options, dimensions=body.dimensions, normalize=normalize
        )

    def write() -> bytes:
        return msgspec.json.encode(
            PooledVectors(
                id=f"pool-{record.request_id}",
                created=int(time.time()),
                model=context.model_name,
                data=[
                    PooledVector(index=index, data=write_vector(vector, body.encoding_format))
                    for index, vector in enumerate(vectors)
                ],
                usage=pooling_usage(record),
            )
        )

    num_bytes = sum(8 * vector.size for vector in vectors)
    return Response(await context.offload(num_bytes, write), media_type="application/json")

"""Embeddings and rankings in llama.cpp's form."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.embeddings import as_floats
from ...errors import InvalidRequest
from ..context import ServerContext
from ..json_body import read_message
from ..openai.completions import split_prompts
from ..openai.scores import RerankRequest, rerank
from ..pooling import embed
from .protocol import LlamaEmbedding, LlamaEmbeddingRequest

NORMALIZATIONS = {None: True, 2: True, -1: False}
"""What `embd_normalize` says, and whether vectors get length 1 for it."""


async def embed_texts(context: ServerContext, request: Request) -> Response:
    """`/embedding`: the vector of each text, in a list of its own."""
    body = await read_message(context, request, LlamaEmbeddingRequest, unsupported={})
    context = await context.serving(body.model, request.state.record)
    if (body.content is None) == (body.input is None):
        raise InvalidRequest("give either content or input", param="content", code="missing_parameter")
    if body.embd_normalize not in NORMALIZATIONS:
        raise InvalidRequest(
            f"embd_normalize must be 2 (length 1) or -1 (as pooled), got {body.embd_normalize}",
            param="embd_normalize",
        )
    content = body.input if body.content is None else body.content
    prompts = split_prompts(content or "", context.settings.max_prompts)
    vectors = await embed(context, request, prompts, normalize=NORMALIZATIONS[body.embd_normalize])

    def write() -> bytes:
        return msgspec.json.encode(
            [LlamaEmbedding(index, [as_floats(vector)]) for index, vector in enumerate(vectors)]
        )

    num_bytes = sum(8 * vector.size for vector in vectors)
    return Response(await context.offload(num_bytes, write), media_type="application/json")


async def rank(context: ServerContext, request: Request) -> Response:
    """`/reranking`: the same answer as at `/rerank`, which has all that llama.cpp's has, and more."""
    body = await read_message(context, request, RerankRequest, unsupported={})
    return Response(msgspec.json.encode(await rerank(context, request, body)), media_type="application/json")

"""Ollama's embeddings: `/api/embed`, and the older `/api/embeddings` for a single text."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.embeddings import as_floats
from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..pooling import PoolingOptions, embed
from .body import read_body
from .options import check_keep_alive, read_options
from .prompts import serving
from .protocol import NANOSECONDS, OllamaEmbedded, OllamaEmbedding, OllamaEmbeddingRequest, OllamaEmbedRequest


async def embed_texts(context: ServerContext, request: Request) -> Response:
    """`/api/embed`: vectors of length 1. A longer text is cut, unless `truncate` is false."""
    body = await read_body(context, request, OllamaEmbedRequest, unsupported={})
    record: RequestRecord = request.state.record
    context = await serving(context, body.model, record)
    check_keep_alive(body.keep_alive)
    num_tokens = _check_options(context, body.options)
    texts = [body.input] if isinstance(body.input, str) else body.input
    if len(texts) > context.settings.max_prompts:
        raise InvalidRequest(
            f"input has {len(texts)} texts, {context.settings.max_prompts} are allowed", param="input"
        )
    vectors = []
    if texts:  # without any, the model is to be loaded, which it is
        vectors = await embed(
            context,
            request,
            texts,
            PoolingOptions(truncate=None if body.truncate is False else num_tokens),
            dimensions=body.dimensions,
            normalize=True,
        )
    nanoseconds = int(record.elapsed * NANOSECONDS)

    def write() -> bytes:
        return msgspec.json.encode(
            OllamaEmbedded(
                model=body.model,
                embeddings=[as_floats(vector) for vector in vectors],
                total_duration=nanoseconds,
                load_duration=0,
                prompt_eval_count=record.num_prompt_tokens,
            )
        )

    num_bytes = sum(8 * vector.size for vector in vectors)
    return Response(await context.offload(num_bytes, write), media_type="application/json")


async def embed_text(context: ServerContext, request: Request) -> Response:
    """`/api/embeddings`: the vector of one text, which is cut if it is long; none of an empty text."""
    body = await read_body(context, request, OllamaEmbeddingRequest, unsupported={})
    context = await serving(context, body.model, request.state.record)
    check_keep_alive(body.keep_alive)
    options = PoolingOptions(truncate=_check_options(context, body.options))
    vectors = await embed(context, request, [body.prompt], options) if body.prompt else []
    embedding = as_floats(vectors[0]) if vectors else []
    return Response(msgspec.json.encode(OllamaEmbedding(embedding)), media_type="application/json")


def _check_options(context: ServerContext, given: dict[str, Any] | None) -> int:
    """The most tokens of a text: `num_ctx`, which alone of the options has a meaning here."""
    options = read_options(
        context, {name: value for name, value in (given or {}).items() if value is not None}
    )
    for name in options.__struct_fields__:
        if name != "num_ctx" and getattr(options, name) is not None:
            raise InvalidRequest(f"{name} has no meaning for embeddings", param=name)
    return options.num_ctx or -1

"""Answers to the clients of text-embeddings-inference: vectors, similarities, predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.embeddings import as_floats, cosine
from ...errors import InvalidRequest
from ..context import ServerContext
from ..json_body import convert, read_message, read_object
from ..openai.completions import split_prompts
from ..pooling import PoolingOptions, classify, classify_pairs, embed, head_of
from .protocol import (
    TeiClassifyParameters,
    TeiClassifyRequest,
    TeiEmbedRequest,
    TeiFields,
    TeiPrediction,
    TeiPredictRequest,
    TeiSimilarityRequest,
)

if TYPE_CHECKING:
    from ...engine.embeddings import Vector


async def answer_any(context: ServerContext, request: Request) -> Response:
    """`/` of a model that generates nothing: by what the model does, and by what the body holds."""
    value = await read_object(context, request)
    if context.engine.pooling.classifier is not None:
        return await _classify(context, request, convert(value, TeiClassifyRequest, {}))
    if isinstance(value.get("inputs"), dict):
        return await _compare(context, request, convert(value, TeiSimilarityRequest, {}))
    return await _embed(context, request, convert(value, TeiEmbedRequest, {}))


async def answer_embed(context: ServerContext, request: Request) -> Response:
    """`/embed`: the vector of each text."""
    body = await read_message(context, request, TeiEmbedRequest, unsupported={})
    return await _embed(await context.serving(None, request.state.record), request, body)


async def answer_similarity(context: ServerContext, request: Request) -> Response:
    """`/similarity`: the cosine of one text's vector and each of the others'."""
    body = await read_message(context, request, TeiSimilarityRequest, unsupported={})
    return await _compare(await context.serving(None, request.state.record), request, body)


async def answer_predict(context: ServerContext, request: Request) -> Response:
    """`/predict`: all labels of a text or a pair, those that suit best first; for a list, a list of them."""
    body = await read_message(context, request, TeiPredictRequest, unsupported={})
    context = await context.serving(None, request.state.record)
    context.engine.pooling.check_task("classify")
    options = _options(body)
    batch, is_single = _batch(body.inputs, context.settings.max_prompts)
    singles = [text for text in batch if isinstance(text, str)]
    pairs = [pair for pair in batch if not isinstance(pair, str)]
    if singles and pairs:
        raise InvalidRequest("inputs must be all texts or all pairs", param="inputs")
    use_activation = body.raw_scores is not True
    if singles:
        vectors = await classify(context, request, singles, options, use_activation=use_activation)
    else:
        vectors = await classify_pairs(context, request, pairs, options, use_activation=use_activation)
    labels = head_of(context).labels
    predictions = [_predictions(vector, labels) for vector in vectors]
    return _json(predictions[0] if is_single else predictions)


async def _embed(context: ServerContext, request: Request, body: TeiEmbedRequest) -> Response:
    prompt = context.engine.pooling.prompt(body.prompt_name)
    prompts = split_prompts(body.inputs, context.settings.max_prompts)
    if prompt and not all(isinstance(text, str) for text in prompts):
        raise InvalidRequest("prompt_name stands in front of texts, not of tokens", param="prompt_name")
    vectors = await embed(
        context,
        request,
        [prompt + text if isinstance(text, str) else text for text in prompts],
        _options(body),
        dimensions=body.dimensions,
        normalize=body.normalize is not False,
    )
    num_bytes = sum(8 * vector.size for vector in vectors)
    content = await context.offload(
        num_bytes, lambda: msgspec.json.encode([as_floats(vector) for vector in vectors])
    )
    return Response(content, media_type="application/json")


async def _compare(context: ServerContext, request: Request, body: TeiSimilarityRequest) -> Response:
    parameters = body.parameters
    prompt = context.engine.pooling.prompt(parameters.prompt_name if parameters else None)
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    split_prompts(list(texts), context.settings.max_prompts)
    options = _options(parameters) if parameters else PoolingOptions()
    first, *others = await embed(context, request, [prompt + text for text in texts], options)
    return _json([cosine(first, other) for other in others])


async def _classify(context: ServerContext, request: Request, body: TeiClassifyRequest) -> Response:
    parameters = body.parameters or TeiClassifyParameters()
    head, top_k = head_of(context), parameters.top_k
    if top_k is not None and top_k < 1:
        raise InvalidRequest(f"top_k must be at least 1, got {top_k}", param="top_k")
    if parameters.function_to_apply is not None:
        head = replace(head, activation=parameters.function_to_apply)
    (vector,) = await classify(context, request, [body.inputs], head=head)
    return _json([_predictions(vector, head.labels)[:top_k]])


def _batch(inputs: str | list[str | list[str]], limit: int) -> tuple[list[str | tuple[str, str]], bool]:
    """The texts and pairs of a request, and whether it is about a single one."""
    if isinstance(inputs, str):
        return [inputs], True
    if len(inputs) == 2 and all(isinstance(text, str) for text in inputs):
        first, second = inputs
        return [(str(first), str(second))], True
    if not 1 <= len(inputs) <= limit:
        raise InvalidRequest(f"inputs must have 1 to {limit} entries, got {len(inputs)}", param="inputs")
    batch: list[str | tuple[str, str]] = []
    for entry in inputs:
        if isinstance(entry, str) or not 1 <= len(entry) <= 2:
            raise InvalidRequest("each entry of inputs must be a list of one or two texts", param="inputs")
        batch.append(entry[0] if len(entry) == 1 else (entry[0], entry[1]))
    return batch, False


def _options(body: TeiFields) -> PoolingOptions:
    if body.truncation_direction in ("left", "Left"):
        raise InvalidRequest(
            "truncation_direction must be 'right': the beginning of a text is kept",
            param="truncation_direction",
        )
    return PoolingOptions(truncate=-1 if body.truncate else None)


def _predictions(vector: Vector, labels: Sequence[str]) -> list[TeiPrediction]:
    scores = as_floats(vector)
    order = sorted(range(len(labels)), key=lambda place: -scores[place])
    return [TeiPrediction(scores[place], labels[place]) for place in order]


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")

"""From texts to vectors, labels and scores, whatever the dialect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request

from ..engine.embeddings import (
    cosine,
    finish_embedding,
    finish_labels,
    pair_limit,
    pooling_params,
)
from ..engine.outputs import RequestOutput
from ..engine.sampling_params import SamplingParams
from ..errors import EngineError, InvalidRequest
from ..models.encoder_config import ClassifierConfig
from .context import RequestRecord, ServerContext
from .generation import Job, check_text_length, collect, encode, run, shortened, while_connected

if TYPE_CHECKING:
    from ..engine.embeddings import Vector

Prompt = str | list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingOptions:
    """How the texts of a request are read.

    Attributes:
        add_special_tokens: Whether to add what the model was trained to see around a text.
        truncate: Keep only so many tokens of a longer text, its first ones; -1 for as many as the model
            takes. None refuses what is longer.
        priority: Lower runs first.
        cache_salt: Separates prefix caches.
    """

    add_special_tokens: bool = True
    truncate: int | None = None
    priority: int = 0
    cache_salt: str | None = None


ORDINARY = PoolingOptions()


async def embed(
    context: ServerContext,
    request: Request,
    prompts: Sequence[Prompt],
    options: PoolingOptions = ORDINARY,
    *,
    dimensions: int | None = None,
    normalize: bool | None = None,
) -> list[Vector]:
    """The embeddings of texts or token ids, in their order.

    Args:
        context: That of the model.
        request: The request.
        prompts: The texts.
        options: How they are read.
        dimensions: Cut the vectors to this length.
        normalize: Whether they are scaled to length 1; None for what the model wants.

    Raises:
        InvalidRequest: The model makes no embeddings, or not of this length, or a text does not fit it.
        QuireError: What the engine raises.
    """
    pooling = context.engine.pooling
    pooling.check_task("embed")
    pooling.check_dimensions(dimensions)
    outputs = await _pool(context, request, prompts, options)

    def finish() -> list[Vector]:
        return [finish_embedding(pooling, each, dimensions, normalize=normalize) for each in outputs]

    return await context.offload(4 * pooling.hidden_size * len(outputs), finish)


async def classify(
    context: ServerContext,
    request: Request,
    prompts: Sequence[Prompt],
    options: PoolingOptions = ORDINARY,
    *,
    use_activation: bool = True,
    head: ClassifierConfig | None = None,
) -> list[Vector]:
    """What a classifier says of each text: a number for each label.

    Arguments and errors as of `embed`; `head` replaces the model's own.
    """
    context.engine.pooling.check_task("classify")
    outputs = await _pool(context, request, prompts, options)
    return _labels(head or head_of(context), outputs, use_activation)


async def score(
    context: ServerContext,
    request: Request,
    texts: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    options: PoolingOptions = ORDINARY,
    *,
    use_activation: bool = True,
) -> list[float]:
    """How well the texts of each pair fit: what a cross-encoder says, or the cosine of their embeddings.

    Arguments and errors as of `embed`; pairs give their texts by their places.
    """
    pooling = context.engine.pooling
    pooling.check_task("score")
    if pooling.classifier is None:
        vectors = await embed(context, request, texts, options)
        return [cosine(vectors[left], vectors[right]) for left, right in pairs]
    if not options.add_special_tokens:
        raise InvalidRequest(
            "add_special_tokens must be true: a cross-encoder knows two texts by the marks between them",
            param="add_special_tokens",
        )
    spelled = [(texts[left], texts[right]) for left, right in pairs]
    outputs = await _pool_pairs(context, request, spelled, options)
    return [float(each[0]) for each in _labels(pooling.classifier, outputs, use_activation)]


async def classify_pairs(
    context: ServerContext,
    request: Request,
    pairs: Sequence[tuple[str, str]],
    options: PoolingOptions = ORDINARY,
    *,
    use_activation: bool = True,
) -> list[Vector]:
    """What a classifier says of pairs of texts, as of whether one follows from the other."""
    context.engine.pooling.check_task("classify")
    outputs = await _pool_pairs(context, request, pairs, options)
    return _labels(head_of(context), outputs, use_activation)


def head_of(context: ServerContext) -> ClassifierConfig:
    """The head of a model that classifies."""
    head = context.engine.pooling.classifier
    assert head is not None, "the task has been checked"
    return head


def _labels(head: ClassifierConfig, outputs: Sequence[bytes], use_activation: bool) -> list[Vector]:
    return [finish_labels(head, each, use_activation=use_activation) for each in outputs]


async def _pool(
    context: ServerContext, request: Request, prompts: Sequence[Prompt], options: PoolingOptions
) -> list[bytes]:
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    encoded = iter(
        await encode(
            context,
            texts,
            add_special_tokens=options.add_special_tokens,
            cuts_texts=options.truncate is not None,
        )
    )
    params = pooling_params(context.engine.pooling, options.truncate)
    tokens = [next(encoded) if isinstance(prompt, str) else prompt for prompt in prompts]
    return await _run(context, request, tokens, [params] * len(tokens), options)


async def _pool_pairs(
    context: ServerContext, request: Request, pairs: Sequence[tuple[str, str]], options: PoolingOptions
) -> list[bytes]:
    limit = pair_limit(options.truncate, context.engine.max_model_len)
    if limit is None:
        for text in (text for pair in pairs for text in pair):
            check_text_length(context, text)
    else:
        pairs = [(shortened(context, left), shortened(context, right)) for left, right in pairs]
    tokenizer, size = context.engine.tokenizer, sum(len(left) + len(right) for left, right in pairs)
    encoded = await context.offload(size, lambda: tokenizer.encode_pairs(pairs, max_tokens=limit))
    pooling = context.engine.pooling
    params = [pooling_params(pooling, second_text=second) for _, second in encoded]
    return await _run(context, request, [tokens for tokens, _ in encoded], params, options)


async def _run(
    context: ServerContext,
    request: Request,
    tokens: Sequence[list[int]],
    params: Sequence[SamplingParams],
    options: PoolingOptions,
) -> list[bytes]:
    record: RequestRecord = request.state.record
    job = Job(prompts=tokens, params=params, priority=options.priority, cache_salt=options.cache_salt)
    outputs = await while_connected(request.receive, collect(run(context, record, job)))
    return [_pooled(output) for _, output in outputs]


def _pooled(output: RequestOutput) -> bytes:
    if output.pooled is None:
        raise EngineError("the engine gave no vector for a prompt")
    return output.pooled

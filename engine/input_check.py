"""The last check before a request enters the engine: nothing that gets past it can raise in a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..errors import ContextLengthExceeded, InvalidRequest
from ..models.tokenizer import Tokenizer
from .sampling_params import SamplingParams

NO_GENERATION = (
    "this model generates no text: it is an encoder or a classifier, which serves embeddings, "
    "classifications, scores and rankings"
)


def check_request(
    prompt_token_ids: Sequence[int],
    params: SamplingParams,
    *,
    vocab_size: int,
    max_model_len: int,
    eos_token_ids: Iterable[int] = (),
    generates: bool = True,
) -> None:
    """Checks a prompt and its parameters against the model.

    Raises:
        InvalidRequest: Text is asked of a model that generates none; an empty prompt, a token id outside
            of the vocabulary, parameters that leave no token to sample, or a `best_of` that has not been
            resolved.
        ContextLengthExceeded: The prompt, or the prompt and `max_tokens`, exceed the context.
    """
    if not generates and params.pooling is None:
        raise InvalidRequest(NO_GENERATION, param="model")
    if params.ranks:
        raise InvalidRequest(
            f"best_of ({params.best_of}) above n ({params.n}) cannot be streamed: "
            "the best are known at the end",
            param="best_of",
        )
    if not prompt_token_ids:
        raise InvalidRequest("the prompt is empty", param="prompt")
    num_prompt = len(prompt_token_ids)
    scores_only = params.max_tokens == 0
    if num_prompt > max_model_len - (0 if scores_only else 1):
        raise ContextLengthExceeded(
            f"the prompt has {num_prompt} tokens, but this model's maximum context length is "
            f"{max_model_len} tokens" + ("" if scores_only else ", of which at least one is generated"),
            param="prompt",
        )
    if params.max_tokens is not None and num_prompt + params.max_tokens > max_model_len:
        raise ContextLengthExceeded(
            f"the prompt's {num_prompt} tokens and max_tokens={params.max_tokens} exceed what this model's "
            f"context holds: this model's maximum context length is {max_model_len} tokens",
            param="max_tokens",
        )
    for token in prompt_token_ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise InvalidRequest(
                f"the prompt holds {token!r}, which is no token id (the vocabulary has {vocab_size})",
                param="prompt",
            )
    params.check_vocabulary(vocab_size)
    if params.min_tokens > 0:
        stops = {*params.stop_token_ids, *(() if params.ignore_eos else eos_token_ids)}
        allowed = params.allowed_token_ids
        if len(stops) == vocab_size if allowed is None else stops.issuperset(allowed):
            raise InvalidRequest(
                f"min_tokens={params.min_tokens} forbids stop tokens, and no others are allowed",
                param="min_tokens",
            )


def resolve_bad_words(params: SamplingParams, tokenizer: Tokenizer) -> SamplingParams:
    """Moves `bad_words` to `bad_words_token_ids`, which is all that the engine knows.

    A word has one spelling in tokens at the beginning of a text, one after a space, and one in the middle
    of a line; often these are not the same.
    """
    if not params.bad_words:
        return params
    sequences = {tuple(sequence): None for sequence in params.bad_words_token_ids}
    newline = tokenizer.encode("\n", add_special_tokens=False)
    for word in params.bad_words:
        bare = word.lstrip(" ")
        for text in (bare, " " + bare):
            sequences[tuple(tokenizer.encode(text, add_special_tokens=False))] = None
        # SentencePiece puts a space in front of a text, so the bare word is found behind a line's end.
        after = tokenizer.encode("\n" + bare, add_special_tokens=False)
        if after[: len(newline)] == newline:
            sequences[tuple(after[len(newline) :])] = None
    sequences.pop((), None)
    return replace(params, bad_words=(), bad_words_token_ids=[list(sequence) for sequence in sequences])


def truncate_prompt(
    token_ids: list[int], params: SamplingParams, tokenizer: Tokenizer, max_model_len: int
) -> list[int]:
    """The prompt as `params.truncate_prompt_tokens` leaves it; one that is short enough stays as it is.

    Of a text that goes on, the end counts; of one that is embedded or classified, the beginning, and the
    special tokens behind it.

    Raises `InvalidRequest` if more tokens are to be kept than the context holds.
    """
    limit = params.truncate_prompt_tokens
    if limit is None:
        return token_ids
    if limit == -1:
        limit = max(1, max_model_len - (1 if params.max_tokens is None else params.max_tokens))
    elif limit > max_model_len:
        raise InvalidRequest(
            f"truncate_prompt_tokens ({limit}) exceeds this model's context of {max_model_len} tokens",
            param="truncate_prompt_tokens",
        )
    if len(token_ids) <= limit:
        return token_ids
    if params.pooling is not None:
        return _first_tokens(token_ids, limit, tokenizer)
    first = tokenizer.encode("")
    kept = len(first) if len(first) < limit and token_ids[: len(first)] == first else 0
    return token_ids[:kept] + token_ids[len(token_ids) - (limit - kept) :]


def _first_tokens(token_ids: list[int], limit: int, tokenizer: Tokenizer) -> list[int]:
    """The first tokens of a text, and those that the tokenizer puts behind every text."""
    _, behind = tokenizer.around
    kept = len(behind)
    if not kept or kept >= limit or token_ids[-kept:] != behind:
        return token_ids[:limit]
    return token_ids[: limit - kept] + behind

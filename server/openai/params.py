"""From a request's fields to `SamplingParams`: names and defaults."""

from __future__ import annotations

import re
from typing import TypeVar

from ...engine.sampling_params import SamplingParams
from ...errors import InvalidRequest
from ...models.config import GenerationDefaults
from .protocol import SamplingFields
from .structured import structured_params

T = TypeVar("T")

_TOKEN_ID = re.compile(r"-?[0-9]{1,20}")


def sampling_params(
    request: SamplingFields,
    defaults: GenerationDefaults,
    *,
    n: int,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> SamplingParams:
    """The parameters of a request. What it leaves open is as the model's makers recommend.

    Raises `InvalidRequest` naming the field.
    """
    return SamplingParams(
        n=n,
        max_tokens=max_tokens,
        min_tokens=or_default(request.min_tokens, 0),
        temperature=or_default(request.temperature, or_default(defaults.temperature, 1.0)),
        top_k=or_default(request.top_k, or_default(defaults.top_k, 0)),
        top_p=or_default(request.top_p, or_default(defaults.top_p, 1.0)),
        min_p=or_default(request.min_p, 0.0),
        presence_penalty=or_default(request.presence_penalty, 0.0),
        frequency_penalty=or_default(request.frequency_penalty, 0.0),
        repetition_penalty=or_default(
            request.repetition_penalty, or_default(defaults.repetition_penalty, 1.0)
        ),
        logit_bias=_logit_bias(request.logit_bias),
        allowed_token_ids=request.allowed_token_ids,
        seed=request.seed,
        stop=or_default(request.stop, []),
        stop_token_ids=or_default(request.stop_token_ids, []),
        include_stop_str_in_output=request.include_stop_str_in_output is True,
        ignore_eos=request.ignore_eos is True,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        skip_special_tokens=request.skip_special_tokens is not False,
        structured_outputs=structured_params(request),
    )


def or_default(value: T | None, default: T) -> T:
    """The value, or the default where a client left it out or sent null."""
    return default if value is None else value


def _logit_bias(biases: dict[str, float] | None) -> dict[int, float]:
    result: dict[int, float] = {}
    for key, bias in (biases or {}).items():
        if _TOKEN_ID.fullmatch(key) is None:
            raise InvalidRequest(f"logit_bias: {key[:40]!r} is no token id", param="logit_bias")
        result[int(key)] = bias
    return result

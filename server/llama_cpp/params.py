"""From llama.cpp's parameters to the engine's: names, defaults and what is refused."""

from __future__ import annotations

import secrets

from ...engine.sampling_params import MAX_LOGPROBS, SamplingParams
from ...engine.structured_params import StructuredOutputsParams
from ...errors import ContextLengthExceeded, InvalidRequest
from ..context import ServerContext
from ..openai.params import or_default
from .protocol import LlamaCompletionRequest, LlamaSettings

RENAMED = {
    "logprobs": "n_probs",
    "max_tokens": "n_predict",
    "repetition_penalty": "repeat_penalty",
    "structured_outputs": "grammar",
}
"""The engine's parameters that have other names in llama.cpp's requests."""

# Where neither the client nor the model's makers say anything, llama.cpp's own defaults hold.
TEMPERATURE, TOP_K, TOP_P, MIN_P = 0.8, 40, 0.95, 0.05

INT32_LIMIT = 1 << 31
RANDOM_SEEDS = (None, -1, 0xFFFFFFFF)
SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p"]


def sampling_params(
    context: ServerContext, body: LlamaCompletionRequest, num_prompt_tokens: int
) -> SamplingParams:
    """The engine's parameters. Raises `InvalidRequest` naming the field."""
    defaults = context.engine.model_config.generation
    limit = context.engine.max_model_len
    num_predict = or_default(body.n_predict, -1)
    if not -1 <= num_predict < INT32_LIMIT or num_predict == 0:
        raise InvalidRequest(
            f"n_predict must be positive and less than 2^31, or -1 for no limit, got {num_predict}",
            param="n_predict",
        )
    if or_default(body.n_keep, 0) < -1:
        raise InvalidRequest(f"n_keep must be at least -1, got {body.n_keep}", param="n_keep")
    room = limit - num_prompt_tokens
    if room < 1:
        raise ContextLengthExceeded(
            f"the prompt has {num_prompt_tokens} tokens, and the context of {limit} tokens leaves no room "
            "for an answer",
            param="prompt",
        )
    repetition = or_default(body.repeat_penalty, or_default(defaults.repetition_penalty, 1.0))
    presence = or_default(body.presence_penalty, 0.0)
    frequency = or_default(body.frequency_penalty, 0.0)
    if body.repeat_last_n == 0:
        repetition, presence, frequency = 1.0, 0.0, 0.0
    elif body.repeat_last_n not in (None, -1, limit) and (repetition != 1 or presence or frequency):
        raise InvalidRequest(
            f"repeat_last_n {body.repeat_last_n} is not supported: penalties count all tokens (-1) or none "
            "(0)",
            param="repeat_last_n",
        )
    num_probs = or_default(body.n_probs, 0)
    if not 0 <= num_probs <= MAX_LOGPROBS:
        raise InvalidRequest(
            f"n_probs must be between 0 and {MAX_LOGPROBS}, got {num_probs}", param="n_probs"
        )
    return SamplingParams(
        max_tokens=min(num_predict, room) if num_predict > 0 else room,
        temperature=or_default(body.temperature, or_default(defaults.temperature, TEMPERATURE)),
        top_k=or_default(body.top_k, or_default(defaults.top_k, TOP_K)),
        top_p=or_default(body.top_p, or_default(defaults.top_p, TOP_P)),
        min_p=or_default(body.min_p, MIN_P),
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        seed=secrets.randbits(31) if body.seed in RANDOM_SEEDS else body.seed,
        stop=or_default(body.stop, []),
        ignore_eos=body.ignore_eos is True,
        logit_bias=_logit_bias(body.logit_bias),
        logprobs=num_probs or None,
        structured_outputs=_structured(body),
    )


def settings(context: ServerContext, body: LlamaCompletionRequest, params: SamplingParams) -> LlamaSettings:
    """The parameters as an answer names them."""
    constraint = params.structured_outputs
    return LlamaSettings(
        n_ctx=context.engine.max_model_len,
        n_predict=or_default(body.n_predict, -1),
        seed=or_default(params.seed, -1),
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repeat_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        stop=list(params.stop),
        ignore_eos=params.ignore_eos,
        stream=body.stream is True,
        n_probs=or_default(params.logprobs, 0),
        grammar=or_default(constraint.grammar, "") if constraint is not None else "",
        samplers=SAMPLERS,
    )


def _structured(body: LlamaCompletionRequest) -> StructuredOutputsParams | None:
    if body.grammar and body.json_schema is not None:
        raise InvalidRequest("grammar and json_schema exclude each other", param="grammar")
    if body.json_schema is not None:
        return StructuredOutputsParams(json=body.json_schema)
    return StructuredOutputsParams(grammar=body.grammar) if body.grammar else None


def _logit_bias(given: list[tuple[int, float]] | dict[str, float] | None) -> dict[int, float]:
    if not isinstance(given, dict):
        return dict(given or [])
    biases: dict[int, float] = {}
    for key, bias in given.items():
        if not (key.isascii() and key.isdecimal()) or len(key) > 20:
            raise InvalidRequest(f"logit_bias: {key!r:.40} is no token id", param="logit_bias")
        biases[int(key)] = bias
    return biases

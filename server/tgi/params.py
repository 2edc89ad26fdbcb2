"""From TGI's parameters to the engine's: names, defaults and what is refused."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import cast

from ...engine.sampling_params import MAX_CHOICES, MAX_LOGPROBS, SamplingParams
from ...engine.structured_params import StructuredOutputsParams
from ...errors import InvalidRequest
from ..openai.params import or_default
from .protocol import TgiGrammar, TgiParameters

RENAMED = {
    "logprobs": "top_n_tokens",
    "max_tokens": "max_new_tokens",
    "n": "best_of",
    "prompt": "inputs",
    "structured_outputs": "grammar",
}
"""The engine's parameters that have other names in TGI's requests."""

DEFAULT_MAX_NEW_TOKENS = 100


def sampling_params(parameters: TgiParameters, *, streams: bool) -> SamplingParams:
    """The engine's parameters; a prompt's length is not known yet.

    As in TGI, the most likely token is taken unless a parameter asks for sampling, and a stop sequence is
    part of the text that it ends. Raises `InvalidRequest` naming the field.
    """
    _check(parameters, streams=streams)
    samples = _samples(parameters)
    seed = parameters.seed
    if samples and seed is None:
        seed = secrets.randbits(63)  # the answer names it, so that it can be had again
    needs_logprobs = streams or parameters.details or or_default(parameters.best_of, 1) > 1
    num_top = or_default(parameters.top_n_tokens, 0)
    return SamplingParams(
        n=or_default(parameters.best_of, 1),
        max_tokens=or_default(parameters.max_new_tokens, DEFAULT_MAX_NEW_TOKENS),
        temperature=or_default(parameters.temperature, 1.0) if samples else 0.0,
        top_k=or_default(parameters.top_k, 0),
        top_p=or_default(parameters.top_p, 1.0),
        repetition_penalty=or_default(parameters.repetition_penalty, 1.0),
        frequency_penalty=or_default(parameters.frequency_penalty, 0.0),
        seed=seed,
        stop=or_default(parameters.stop, []),
        include_stop_str_in_output=True,
        logprobs=num_top if needs_logprobs else None,
        prompt_logprobs=0 if parameters.decoder_input_details else None,
        structured_outputs=_structured(parameters.grammar),
    )


def fitted(
    params: SamplingParams, parameters: TgiParameters, num_prompt_tokens: int, limit: int
) -> SamplingParams:
    """The parameters for a prompt: the default length gives way to a long one, a given one does not."""
    if parameters.max_new_tokens is not None:
        return params
    return replace(params, max_tokens=max(1, min(DEFAULT_MAX_NEW_TOKENS, limit - num_prompt_tokens)))


def _samples(parameters: TgiParameters) -> bool:
    return (
        parameters.do_sample is True
        or parameters.temperature not in (None, 1)
        or parameters.top_k is not None
        or parameters.top_p is not None
    )


def _check(parameters: TgiParameters, *, streams: bool) -> None:
    def refuse(name: str, reason: str) -> InvalidRequest:
        return InvalidRequest(f"{name} {reason}", param=name)

    best_of = or_default(parameters.best_of, 1)
    if not 1 <= best_of <= MAX_CHOICES:
        raise refuse("best_of", f"must be between 1 and {MAX_CHOICES}, got {best_of}")
    if best_of > 1 and streams:
        raise refuse("best_of", "above 1 cannot be streamed")
    if best_of > 1 and not _samples(parameters):
        raise refuse("best_of", "needs sampling: without, all answers are the same")
    if parameters.temperature is not None and parameters.temperature <= 0:
        raise refuse("temperature", f"must be positive, got {parameters.temperature}")
    if parameters.max_new_tokens is not None and parameters.max_new_tokens < 1:
        raise refuse("max_new_tokens", f"must be at least 1, got {parameters.max_new_tokens}")
    if parameters.truncate is not None and parameters.truncate < 1:
        raise refuse("truncate", f"must be at least 1, got {parameters.truncate}")
    top = parameters.top_n_tokens
    if top is not None and not 0 <= top <= MAX_LOGPROBS:
        raise refuse("top_n_tokens", f"must be between 0 and {MAX_LOGPROBS}, got {top}")
    if parameters.decoder_input_details and streams:
        raise refuse("decoder_input_details", "cannot be streamed")
    if not streams and not parameters.details:
        for name in ("decoder_input_details", "top_n_tokens"):
            if getattr(parameters, name):
                raise refuse(name, "needs details: true")


def _structured(grammar: TgiGrammar | None) -> StructuredOutputsParams | None:
    if grammar is None:
        return None
    value = grammar.value
    if grammar.type == "regex":
        return StructuredOutputsParams(regex=value)
    if grammar.type == "json_schema":
        schema = cast("dict[str, object]", value).get("schema") if isinstance(value, dict) else None
        if schema is None:
            raise InvalidRequest("grammar.value must be an object with a schema", param="grammar")
        value = schema
    if not isinstance(value, str | dict):
        raise InvalidRequest("grammar.value must be a JSON schema, as an object or a text", param="grammar")
    return StructuredOutputsParams(json=cast("str | dict[str, object]", value))

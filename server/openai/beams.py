"""Beam search in a request: `use_beam_search`, with `best_of` or `n` as the number of beams."""

from __future__ import annotations

from ...engine.beam_search import BeamSearchParams
from ...engine.sampling_params import SamplingParams
from ...errors import InvalidRequest
from .params import or_default
from .protocol import SamplingFields
from .structured import given_fields

# What a search does not do, with the values that ask for nothing: it draws nothing, and follows the
# model's own probabilities.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "allowed_token_ids": (),
    "bad_words": ([],),
    "frequency_penalty": (0.0,),
    "include_stop_str_in_output": (False,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0.0,),
    "min_tokens": (0,),
    "presence_penalty": (0.0,),
    "prompt_logprobs": (),
    "repetition_penalty": (1.0,),
    "stop": ([],),
    "stop_token_ids": ([],),
    "stream": (False,),
    "temperature": (0.0, 1.0),
    "tools": (),
    "top_k": (0, -1),
    "top_p": (1.0,),
}


def beam_params(body: SamplingFields, params: SamplingParams) -> BeamSearchParams | None:
    """The search that a request asks for, if it does. `generation.run` sets `max_tokens` for each prompt.

    Args:
        body: The request.
        params: Made of it.

    Raises:
        InvalidRequest: If the request asks for what a search does not do, or for a part of a search without
            asking for the search.
    """
    if not body.use_beam_search:
        if body.length_penalty not in (None, 1.0):
            raise InvalidRequest("length_penalty needs use_beam_search: true", param="length_penalty")
        return None
    for name, neutral in _NEUTRAL.items():
        given: object = getattr(body, name, None)
        if given is not None and not any(type(given) is type(one) and given == one for one in neutral):
            raise InvalidRequest(f"{name} cannot be combined with use_beam_search", param=name)
    if forms := given_fields(body):
        raise InvalidRequest(f"{forms[0]} cannot be combined with use_beam_search", param=forms[0])
    return BeamSearchParams(
        beam_width=or_default(params.best_of, params.n),
        max_tokens=or_default(params.max_tokens, 1),  # what the context holds is not known here
        length_penalty=or_default(body.length_penalty, 1.0),
        ignore_eos=params.ignore_eos,
        skip_special_tokens=params.skip_special_tokens,
    )

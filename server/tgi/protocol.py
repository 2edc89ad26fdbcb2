"""The messages of TGI's API, as types: what is not here is refused.

Requests are strict: no unknown field, no conversion between types. null means the default.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

# What quire knows and does not do, with the values by which a client asks for nothing special.
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "adapter_id": (),
    "typical_p": (1, 1.0),
    "watermark": (False,),
}

FinishReason = Literal["length", "eos_token", "stop_sequence"]


class TgiFailure(msgspec.Struct):
    """The body of an answer that is not a success, and the event of a stream that fails."""

    error: str
    error_type: str


class TgiGrammar(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`value` is a schema, a schema with a name, or a regular expression."""

    type: Literal["json", "json_schema", "regex"]
    value: Any


class TgiParameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How a text is continued. `truncate` keeps the last tokens of the prompt."""

    best_of: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    do_sample: bool | None = None
    max_new_tokens: int | None = None
    return_full_text: bool | None = None
    stop: list[str] | None = None
    truncate: int | None = None
    details: bool | None = None
    decoder_input_details: bool | None = None
    seed: int | None = None
    top_n_tokens: int | None = None
    grammar: TgiGrammar | None = None


class TgiRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text to continue. `parameters` are those of `TgiParameters`."""

    inputs: str
    parameters: dict[str, Any] | None = None
    stream: bool | None = None


class TgiPrefillToken(msgspec.Struct):
    """A token of the prompt; the first has no log-probability."""

    id: int
    text: str
    logprob: float | None


class TgiToken(msgspec.Struct):
    """A token of the answer. The texts of those that are not special are the answer's, joined."""

    id: int
    text: str
    logprob: float
    special: bool


class TgiSequence(msgspec.Struct, kw_only=True):
    """One answer, but for its text."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: list[TgiPrefillToken]
    tokens: list[TgiToken]
    top_tokens: list[list[TgiToken]] | msgspec.UnsetType = msgspec.UNSET


class TgiBestOfSequence(TgiSequence, kw_only=True):
    """One of the answers that were not the best."""

    generated_text: str


class TgiDetails(TgiSequence, kw_only=True):
    """The best answer's details."""

    best_of_sequences: list[TgiBestOfSequence] | msgspec.UnsetType = msgspec.UNSET


class TgiAnswer(msgspec.Struct, kw_only=True):
    """A whole answer."""

    generated_text: str
    details: TgiDetails | msgspec.UnsetType = msgspec.UNSET


class TgiStreamDetails(msgspec.Struct):
    """What the last event of a stream says besides."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    input_length: int


class TgiEvent(msgspec.Struct, kw_only=True):
    """A token of a stream, counted from 1; the last one brings the whole text."""

    index: int
    token: TgiToken
    top_tokens: list[TgiToken] | msgspec.UnsetType = msgspec.UNSET
    generated_text: str | None = None
    details: TgiStreamDetails | None = None


class TgiInfo(msgspec.Struct, kw_only=True):
    """The server, its model and its limits."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: Literal["text-generation"] = "text-generation"
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    router: Literal["quire"] = "quire"
    version: str


class TgiTokenizeRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text to split into tokens."""

    inputs: str
    add_special_tokens: bool | None = None


class TgiPlacedToken(msgspec.Struct):
    """A token, and where in the text its characters are."""

    id: int
    text: str
    start: int
    stop: int


class TgiTemplatedChat(msgspec.Struct):
    """What the model would be given for a conversation."""

    tokenize_response: list[TgiPlacedToken]
    templated_text: str

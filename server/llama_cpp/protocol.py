"""The messages of the llama.cpp server's API, as types: what is not here is refused.

Requests are strict: no unknown field, no conversion between types. null means the default.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

# What quire knows and does not do, with the values by which a client asks for nothing special:
# llama.cpp's own defaults, which its clients send with every request.
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "dry_allowed_length": (2,),
    "dry_base": (1.75,),
    "dry_multiplier": (0, 0.0),
    "dry_penalty_last_n": (-1,),
    "dry_sequence_breakers": ([], ["\n", ":", '"', "*"]),
    "dynatemp_exponent": (1, 1.0),
    "dynatemp_range": (0, 0.0),
    "id_slot": (-1,),  # requests are not bound to slots
    "lora": ([],),
    "min_keep": (0,),
    "mirostat": (0,),
    "mirostat_eta": (0.1,),
    "mirostat_tau": (5, 5.0),
    "n_cmpl": (1,),
    "n_discard": (0,),
    "n_indent": (0,),
    "post_sampling_probs": (False,),
    "response_fields": ([],),
    "return_progress": (False,),
    "samplers": (),
    "t_max_predict_ms": (0, -1),
    "timings_per_token": (False,),
    "top_n_sigma": (-1, -1.0),
    "typical_p": (1, 1.0),
    "xtc_probability": (0, 0.0),
    "xtc_threshold": (0.1,),
}


class LlamaErrorDetails(msgspec.Struct):
    """`code` is the HTTP status."""

    code: int
    message: str
    type: str


class LlamaFailure(msgspec.Struct):
    """The body of an answer that is not a success, and the event of a stream that fails."""

    error: LlamaErrorDetails


class LlamaCompletionRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`prompt` is a text, or a list of token ids and texts that stand one after another.

    `n_keep`, how much of a prompt must survive when there is no room, is always fulfilled. Penalties
    count all tokens so far, so that `repeat_last_n` can only be -1 (all of them) or 0 (no penalties).
    Without `cache_prompt`, no token of the prompt is taken from the prefix cache.
    """

    prompt: str | list[str | int]
    model: str | None = None
    n_predict: int | None = None
    n_keep: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | None = None
    ignore_eos: bool | None = None
    logit_bias: list[tuple[int, float]] | dict[str, float] | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    n_probs: int | None = None
    cache_prompt: bool | None = None
    return_tokens: bool | None = None
    stream: bool | None = None


class LlamaTopProb(msgspec.Struct):
    """One of the most likely tokens at a place."""

    id: int
    token: str
    bytes: list[int]
    logprob: float


class LlamaProb(LlamaTopProb):
    """A token of the answer."""

    top_logprobs: list[LlamaTopProb]


class LlamaTimings(msgspec.Struct, kw_only=True):
    """`prompt_n` tokens were computed, `cache_n` were found in the prefix cache."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class LlamaSettings(msgspec.Struct, kw_only=True):
    """The parameters that an answer was made with. `samplers` are in the order of their use."""

    n_ctx: int
    n_predict: int
    seed: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    stop: list[str]
    ignore_eos: bool
    stream: bool
    n_probs: int
    grammar: str
    samplers: list[str]


class LlamaCompletion(msgspec.Struct, kw_only=True):
    """A whole answer, or an event of a stream, of which only the last has all fields."""

    index: Literal[0] = 0
    content: str
    tokens: list[int]
    id_slot: Literal[-1] = -1
    stop: bool
    model: str | msgspec.UnsetType = msgspec.UNSET
    tokens_predicted: int
    tokens_evaluated: int
    completion_probabilities: list[LlamaProb] | msgspec.UnsetType = msgspec.UNSET
    generation_settings: LlamaSettings | msgspec.UnsetType = msgspec.UNSET
    prompt: str | msgspec.UnsetType = msgspec.UNSET
    has_new_line: bool | msgspec.UnsetType = msgspec.UNSET
    truncated: bool | msgspec.UnsetType = msgspec.UNSET
    stop_type: Literal["eos", "limit", "word"] | msgspec.UnsetType = msgspec.UNSET
    stopping_word: str | msgspec.UnsetType = msgspec.UNSET
    tokens_cached: int | msgspec.UnsetType = msgspec.UNSET
    timings: LlamaTimings | msgspec.UnsetType = msgspec.UNSET


class LlamaSlot(msgspec.Struct, kw_only=True):
    """Room for a request."""

    id: int
    n_ctx: int
    is_processing: bool


class LlamaModalities(msgspec.Struct):
    """What a model takes besides text."""

    vision: bool = False
    audio: bool = False


class LlamaDefaults(msgspec.Struct):
    """What requests get that ask for nothing."""

    n_ctx: int
    params: LlamaSettings


class LlamaProps(msgspec.Struct, kw_only=True):
    """The server and its model."""

    default_generation_settings: LlamaDefaults
    total_slots: int
    model_path: str
    chat_template: str
    bos_token: str
    eos_token: str
    modalities: LlamaModalities
    build_info: str


class LlamaPrompt(msgspec.Struct):
    """What the model would be given for a conversation."""

    prompt: str


class LlamaTokenizeRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`add_special` adds what stands around a text. Special tokens that it spells out are read as such."""

    content: str
    add_special: bool | None = None
    with_pieces: bool | None = None


class LlamaPiece(msgspec.Struct):
    """A token and its text, or its bytes where they are no whole characters."""

    id: int
    piece: str | list[int]


class LlamaTokens(msgspec.Struct):
    """The tokens of a text."""

    tokens: list[int | LlamaPiece]


class LlamaEmbeddingRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`content`, or `input`, is a text, a list of token ids, or a list of texts or of lists of token ids."""

    content: str | list[str | int | list[int]] | None = None
    input: str | list[str | int | list[int]] | None = None
    model: str | None = None
    embd_normalize: int | None = None


class LlamaEmbedding(msgspec.Struct):
    """The vectors of a text: one, as its tokens are pooled."""

    index: int
    embedding: list[list[float]]

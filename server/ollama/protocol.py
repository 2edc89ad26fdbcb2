"""The messages of Ollama's API, as types: what is not here is refused.

Requests are strict: no unknown field, no conversion between types. null means the default. Times are
in nanoseconds.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..openai.message_protocol import FunctionDefinition
from ..openai.protocol import TokenLogprob

# What quire knows and does not do, with the values by which a client asks for nothing special.
UNSUPPORTED_IN_CHAT: dict[str, tuple[object, ...]] = {
    "shift": (False,),  # nothing of a prompt is ever dropped to make room
    "truncate": (False,),
}
UNSUPPORTED_IN_GENERATE = UNSUPPORTED_IN_CHAT | {
    "height": (0,),
    "images": ([],),
    "steps": (0,),
    "suffix": ("",),
    "template": ("",),
    "width": (0,),
}
UNSUPPORTED_IN_SHOW: dict[str, tuple[object, ...]] = {
    "options": ({},),
    "system": ("",),
    "template": ("",),
    "verbose": (False,),
}


NANOSECONDS = 1e9


class OllamaFailure(msgspec.Struct):
    """The body of an answer that is not a success, and the last line of a stream that fails."""

    error: str


class OllamaFields(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What generate and chat have in common. `keep_alive` is a number of seconds or Go's duration."""

    model: str
    stream: bool | None = None
    format: dict[str, Any] | str | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class OllamaGenerateRequest(OllamaFields, kw_only=True):
    """`context` is what an earlier answer gave, for going on with it."""

    prompt: str | None = None
    system: str | None = None
    context: list[int] | None = None
    raw: bool | None = None


class OllamaFunction(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A call; its arguments are an object."""

    name: str
    arguments: dict[str, Any]
    index: int | msgspec.UnsetType = msgspec.UNSET


class OllamaToolCall(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A call of a function."""

    id: str | None = None
    type: Literal["function"] | None = None
    function: OllamaFunction


class OllamaMessage(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One turn. A tool's names the function, or the call by its id, that it answers."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[OllamaToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaTool(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A function that the model may call."""

    type: Literal["function"] | None = None
    function: FunctionDefinition


class OllamaChatRequest(OllamaFields, kw_only=True):
    """Without messages, it asks for the model to be loaded."""

    messages: list[OllamaMessage] | None = None
    tools: list[OllamaTool] | None = None


class OllamaFigures(msgspec.Struct, kw_only=True):
    """What the last line of an answer says besides."""

    done_reason: str | msgspec.UnsetType = msgspec.UNSET
    total_duration: int | msgspec.UnsetType = msgspec.UNSET
    load_duration: int | msgspec.UnsetType = msgspec.UNSET
    prompt_eval_count: int | msgspec.UnsetType = msgspec.UNSET
    prompt_eval_duration: int | msgspec.UnsetType = msgspec.UNSET
    eval_count: int | msgspec.UnsetType = msgspec.UNSET
    eval_duration: int | msgspec.UnsetType = msgspec.UNSET


class OllamaGenerateLine(OllamaFigures, kw_only=True):
    """A line of a stream, or a whole answer. `context` comes with the last line, unless `raw` was set."""

    model: str
    created_at: str
    response: str
    thinking: str | msgspec.UnsetType = msgspec.UNSET
    logprobs: list[TokenLogprob] | msgspec.UnsetType = msgspec.UNSET
    done: bool
    context: list[int] | msgspec.UnsetType = msgspec.UNSET


class OllamaAnswerMessage(msgspec.Struct, kw_only=True):
    """The model's turn, or what is new in it; calls come whole."""

    role: Literal["assistant"] = "assistant"
    content: str
    thinking: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[OllamaToolCall] | msgspec.UnsetType = msgspec.UNSET


class OllamaChatLine(OllamaFigures, kw_only=True):
    """A line of a stream, or a whole answer."""

    model: str
    created_at: str
    message: OllamaAnswerMessage
    logprobs: list[TokenLogprob] | msgspec.UnsetType = msgspec.UNSET
    done: bool


class OllamaEmbedRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Texts to embed; of a longer text, the first tokens count, unless `truncate` is false."""

    model: str
    input: str | list[str]
    truncate: bool | None = None
    dimensions: int | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None


class OllamaEmbedded(msgspec.Struct, kw_only=True):
    """The vectors, in the order of the texts."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbeddingRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text to embed."""

    model: str
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None


class OllamaEmbedding(msgspec.Struct):
    """The vector of a text."""

    embedding: list[float]


class OllamaShowRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`name` is the older name of `model`."""

    model: str | None = None
    name: str | None = None


class OllamaDetails(msgspec.Struct, kw_only=True):
    """What kind of model it is."""

    parent_model: str = ""
    format: str = "safetensors"
    family: str
    families: list[str]
    parameter_size: str = ""
    quantization_level: str


class OllamaShow(msgspec.Struct, kw_only=True):
    """A model. `parameters` are the recommended ones, a line each."""

    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, str | int]
    capabilities: list[str]
    modified_at: str


class OllamaModel(msgspec.Struct, kw_only=True):
    """A model in a list. The last two are given for those that are loaded; it is never unloaded."""

    name: str
    model: str
    modified_at: str
    details: OllamaDetails
    expires_at: str | msgspec.UnsetType = msgspec.UNSET
    context_length: int | msgspec.UnsetType = msgspec.UNSET


class OllamaModels(msgspec.Struct):
    """Models."""

    models: list[OllamaModel]


class OllamaVersion(msgspec.Struct):
    """Which Ollama's API this is."""

    version: str

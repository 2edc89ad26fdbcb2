"""The messages of OpenAI's responses API, as types: what is not here is refused.

Requests are strict: no unknown field, no conversion between types. null means the default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from ..openai.protocol import CompletionTokensDetails, PromptTokensDetails

# What quire knows and does not do, with the values by which a client asks for nothing special.
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "context_management": (),
    "conversation": (),
    "include": ([],),
    "max_tool_calls": (),
    "moderation": (),
    "parallel_tool_calls": (True,),
    "prompt": (),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning": ({},),
    "service_tier": ("auto", "default"),  # there is one tier
    "stream_options": ({}, {"include_obfuscation": False}),
    "text": ({}, {"format": {"type": "text"}}),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}

Nothing = Annotated[list[Any], msgspec.Meta(max_length=0)]
"""An empty list, as it stands in an answer that is sent back."""

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class InputPart(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A piece of a message: a user's, or one of an answer that is sent back."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Nothing | None = None
    logprobs: Nothing | None = None


class InputMessage(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A turn of the conversation. `id` and `status` are there when an answer is sent back."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputPart]
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class CreateResponse(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A conversation, or the next turn after `previous_response_id`, whose instructions do not carry over.

    `store` is true by default. `metadata`, `safety_identifier` and `user` go into the request's
    line in the log. The fields from `cache_salt` on are vLLM's.
    """

    model: str | None = None
    input: str | list[InputMessage]
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    user: str | None = None
    cache_salt: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    min_p: float | None = None
    priority: int | None = None
    repetition_penalty: float | None = None
    request_id: str | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    top_k: int | None = None


class OutputText(msgspec.Struct, kw_only=True):
    """The text of an answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[str] = msgspec.field(default_factory=list[str])
    logprobs: list[str] = msgspec.field(default_factory=list[str])


class OutputMessage(msgspec.Struct, kw_only=True):
    """The model's turn."""

    id: str
    type: Literal["message"] = "message"
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class ResponseUsage(msgspec.Struct, kw_only=True):
    """The tokens of a response."""

    input_tokens: int
    input_tokens_details: PromptTokensDetails
    output_tokens: int
    output_tokens_details: CompletionTokensDetails
    total_tokens: int


class IncompleteDetails(msgspec.Struct, kw_only=True):
    """Why an answer is incomplete."""

    reason: Literal["max_output_tokens"]


class ResponseError(msgspec.Struct, kw_only=True):
    """Why there is no answer."""

    code: str
    message: str


class TextFormat(msgspec.Struct, kw_only=True):
    """Plain text."""

    type: Literal["text"] = "text"


class TextSettings(msgspec.Struct, kw_only=True):
    """The form of the answer."""

    format: TextFormat = msgspec.field(default_factory=TextFormat)


class ResponseObject(msgspec.Struct, kw_only=True):
    """A response, whole or as far as it has come."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    background: bool
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputMessage] = msgspec.field(default_factory=list[OutputMessage])
    parallel_tool_calls: bool = True
    previous_response_id: str | None
    store: bool
    temperature: float
    text: TextSettings = msgspec.field(default_factory=TextSettings)
    tool_choice: Literal["auto"] = "auto"
    tools: list[str] = msgspec.field(default_factory=list[str])
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None


class DeletedResponse(msgspec.Struct, kw_only=True):
    """A response that the server has forgotten."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True

"""The messages of OpenAI's responses API, as types: what is not here is refused.

Requests are strict: no unknown field, no conversion between types. null means the default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from ..openai.protocol import CompletionTokensDetails, PromptTokensDetails, TokenLogprob
from ..openai.structured import JsonObjectFormat, TextFormat

# What quire knows and does not do, with the values by which a client asks for nothing special.
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "context_management": (),
    "conversation": (),
    "max_tool_calls": (),
    "moderation": (),
    "prompt": (),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "service_tier": ("auto", "default"),  # there is one tier
    "stream_options": ({}, {"include_obfuscation": False}),
    "truncation": ("disabled",),
}

Nothing = Annotated[list[Any], msgspec.Meta(max_length=0)]
"""An empty list, as it stands in an answer that is sent back."""

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class InputPart(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A piece of an item: a user's, or one of an answer that is sent back."""

    type: Literal["input_text", "output_text", "reasoning_text", "summary_text"]
    text: str
    annotations: Nothing | None = None
    logprobs: list[Any] | None = None
    parsed: Any = None  # what the official client made of the text


class InputItem(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A message, a call, what came of a call, or what the model thought; see `conversation` for which
    fields each has. `id` and `status` are there when an answer is sent back."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    id: str | None = None
    status: ItemStatus | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None
    summary: list[InputPart] | None = None
    encrypted_content: None = None
    parsed_arguments: Any = None  # what the official client made of the arguments


class FunctionTool(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A function that the model may call."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Demands a call of one function."""

    type: Literal["function"]
    name: str


class ReasoningSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`effort` is for models whose chat template knows it. Nothing is summarised."""

    effort: str | None = None
    summary: None = None


ToolChoice = Literal["none", "auto", "required"] | NamedFunction


class NamedSchemaFormat(
    msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="json_schema"
):
    """JSON that a schema describes. It is enforced in full, whether `strict` or not."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The form of the answer; it is free text by default."""

    format: TextFormat | JsonObjectFormat | NamedSchemaFormat | None = None
    verbosity: None = None


Include = Literal["message.output_text.logprobs"]
"""What else may be in an answer."""


class CreateResponse(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A conversation, or the next turn after `previous_response_id`, whose instructions do not carry over.

    `store` is true by default. `metadata`, `safety_identifier` and `user` go into the request's
    line in the log. The fields from `cache_salt` on are vLLM's.
    """

    model: str | None = None
    input: str | list[InputItem]
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    text: TextSettings | None = None
    include: list[Include] | None = None
    top_logprobs: int | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningSettings | None = None
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
    logprobs: list[TokenLogprob] = msgspec.field(default_factory=list[TokenLogprob])


class OutputMessage(msgspec.Struct, kw_only=True):
    """What the model says."""

    id: str
    type: Literal["message"] = "message"
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class ReasoningText(msgspec.Struct, kw_only=True):
    """The text of what the model thinks."""

    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class OutputReasoning(msgspec.Struct, kw_only=True):
    """What the model thinks."""

    id: str
    type: Literal["reasoning"] = "reasoning"
    status: ItemStatus
    summary: list[str] = msgspec.field(default_factory=list[str])
    content: list[ReasoningText]


class OutputCall(msgspec.Struct, kw_only=True):
    """A call; `arguments` is a JSON text."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


OutputItem = OutputMessage | OutputReasoning | OutputCall


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
    output: list[Any] = msgspec.field(default_factory=list[Any])  # of OutputItem
    parallel_tool_calls: bool = True
    previous_response_id: str | None
    store: bool
    temperature: float
    text: TextSettings
    reasoning: ReasoningSettings = msgspec.field(default_factory=ReasoningSettings)
    tool_choice: ToolChoice = "auto"
    tools: list[FunctionTool] = msgspec.field(default_factory=list[FunctionTool])
    top_logprobs: int = 0
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None


class DeletedResponse(msgspec.Struct, kw_only=True):
    """A response that the server has forgotten."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True

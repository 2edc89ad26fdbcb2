"""The messages of Anthropic's API, as types: what is not here is refused.

Requests are strict: no unknown field, no conversion between types. null means the default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

# What quire knows and does not do, with the values by which a client asks for nothing special.
UNSUPPORTED_IN_COUNT: dict[str, tuple[object, ...]] = {
    "context_management": (),
    "mcp_servers": ([],),
}
UNSUPPORTED = UNSUPPORTED_IN_COUNT | {
    "container": (),
    "inference_geo": (),
    "service_tier": ("auto", "standard_only"),  # there is one tier
}


class CacheControl(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Asks for a prefix to be cached: every prefix is, marked or not, for as long as there is room."""

    type: Literal["ephemeral"]
    ttl: Literal["5m"] | None = None


class TextBlock(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="text"):
    """A piece of a turn or of the system prompt."""

    text: str
    citations: Annotated[list[Any], msgspec.Meta(max_length=0)] | None = None
    cache_control: CacheControl | None = None


class ThinkingBlock(
    msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="thinking"
):
    """What the model thought, sent back; the signature is another server's affair."""

    thinking: str
    signature: str | None = None


class ToolUseBlock(
    msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="tool_use"
):
    """A call of the model, sent back."""

    id: str
    name: str
    input: dict[str, Any]
    caller: None = None
    cache_control: CacheControl | None = None


class ToolResultBlock(
    msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="tool_result"
):
    """What a tool said. Templates know no failures: the text of one begins with "Error: "."""

    tool_use_id: str
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


Block = TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock


class ToolDefinition(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A function that the model may call."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None


class ToolChoice(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Whether the model may, must or must not call; `name` is the function that "tool" demands."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class InputMessage(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One turn; turns of one role that follow each other are one."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class Thinking(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Keeps the model from thinking, or says how many tokens of it; adaptive leaves it to the model."""

    type: Literal["disabled", "enabled", "adaptive"]
    budget_tokens: int | None = None


class OutputFormat(
    msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="json_schema"
):
    """JSON that a schema describes."""

    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The form of the answer."""

    format: OutputFormat | None = None
    effort: None = None


class CountTokensRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A conversation. If its last turn is the assistant's, the answer goes on with it."""

    model: str
    messages: list[InputMessage]
    system: str | list[TextBlock] | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None


class Metadata(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`user_id` goes into the request's line in the log."""

    user_id: str | None = None


class MessagesRequest(CountTokensRequest, kw_only=True):
    """A conversation to go on with."""

    max_tokens: Annotated[int, msgspec.Meta(ge=1)]
    metadata: Metadata | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


class TokenCount(msgspec.Struct):
    """The prompt's tokens, with what the chat template adds."""

    input_tokens: int


class AnswerText(msgspec.Struct, kw_only=True, tag_field="type", tag="text"):
    """A piece of the answer."""

    text: str
    citations: None = None


class AnswerThinking(msgspec.Struct, kw_only=True, tag_field="type", tag="thinking"):
    """What the model thought first. There is nothing to sign."""

    thinking: str
    signature: str = ""


class AnswerToolUse(msgspec.Struct, kw_only=True, tag_field="type", tag="tool_use"):
    """A call."""

    id: str
    name: str
    input: dict[str, Any]


AnswerBlock = AnswerText | AnswerThinking | AnswerToolUse


class MessageUsage(msgspec.Struct, kw_only=True):
    """`input_tokens` are those that were not found in the prefix cache."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int


StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class MessageAnswer(msgspec.Struct, kw_only=True):
    """The model's turn. `content` is empty if the model said nothing."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnswerBlock]
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


class MessageStart(msgspec.Struct, tag_field="type", tag="message_start"):
    """The answer without its content."""

    message: MessageAnswer


class BlockStart(msgspec.Struct, tag_field="type", tag="content_block_start"):
    """A block begins, empty."""

    index: int
    content_block: AnswerBlock


class TextDelta(msgspec.Struct, tag_field="type", tag="text_delta"):
    """New text."""

    text: str


class ThinkingDelta(msgspec.Struct, tag_field="type", tag="thinking_delta"):
    """New thoughts."""

    thinking: str


class SignatureDelta(msgspec.Struct, tag_field="type", tag="signature_delta"):
    """The end of the thoughts."""

    signature: str = ""


class InputDelta(msgspec.Struct, tag_field="type", tag="input_json_delta"):
    """More of a call's input, a JSON text."""

    partial_json: str


class BlockDelta(msgspec.Struct, tag_field="type", tag="content_block_delta"):
    """What is new in a block."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockStop(msgspec.Struct, tag_field="type", tag="content_block_stop"):
    """A block is complete."""

    index: int


class Stop(msgspec.Struct, kw_only=True):
    """Why the answer ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, tag_field="type", tag="message_delta"):
    """The end of the answer, with the usage of all of it."""

    delta: Stop
    usage: MessageUsage


class MessageStop(msgspec.Struct, tag_field="type", tag="message_stop"):
    """The stream is complete."""


class Ping(msgspec.Struct, tag_field="type", tag="ping"):
    """Nothing, to keep the connection."""


Event = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping


class AnthropicErrorDetails(msgspec.Struct):
    """`type` is a stable class of errors."""

    type: str
    message: str


class AnthropicError(msgspec.Struct, tag_field="type", tag="error"):
    """The body of every answer that is not a success, and of an error event in a stream."""

    error: AnthropicErrorDetails

"""Messages and tools as OpenAI's chat API writes them; see `protocol` for the rest."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class FunctionDefinition(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A function that the model may call. `parameters` is a JSON schema of type object."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Functions are the only tools."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which function."""

    name: str


class NamedToolChoice(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Demands a call of one function."""

    type: Literal["function"]
    function: FunctionName


class FunctionCall(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """`arguments` is a JSON text. The official client adds what it made of them, `parsed_arguments`."""

    name: str
    arguments: str
    parsed_arguments: Any = None


class ToolCall(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One call. Clients that join a stream's deltas leave its place among the calls in `index`."""

    id: str
    type: Literal["function"]
    function: FunctionCall
    index: int | None = None


class ContentPart(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A piece of a message. Those of other types than text have names here so as to be refused clearly."""

    type: str
    text: str | None = None
    audio_url: Any = None
    file: Any = None
    image_url: Any = None
    input_audio: Any = None
    refusal: Any = None
    video_url: Any = None


class Message(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One turn of a conversation. Some fields are there because an answer may be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None  # the same by its older name
    annotations: list[None] | None = None
    audio: None = None
    function_call: None = None
    # What clients make of an answer and put into it: OpenAI's own, and LiteLLM.
    parsed: Any = None
    provider_specific_fields: Any = None
    refusal: None = None


class AnswerMessage(msgspec.Struct, kw_only=True):
    """The model's turn. `content` is null where it only calls functions or only reasons."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning: str | msgspec.UnsetType = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class FunctionDelta(msgspec.Struct, kw_only=True):
    """What is new in a call; the name comes once."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    arguments: str


class ToolCallDelta(msgspec.Struct, kw_only=True):
    """What is new in one of the calls; id and type come once."""

    index: int
    id: str | msgspec.UnsetType = msgspec.UNSET
    type: Literal["function"] | msgspec.UnsetType = msgspec.UNSET
    function: FunctionDelta


class Delta(msgspec.Struct, kw_only=True):
    """What is new in a streamed turn."""

    role: Literal["assistant"] | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType = msgspec.UNSET
    reasoning: str | msgspec.UnsetType = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCallDelta] | msgspec.UnsetType = msgspec.UNSET

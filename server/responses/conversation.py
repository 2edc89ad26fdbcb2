"""Turns of the responses API as a chat's messages: items in, messages out."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import InvalidRequest
from ..openai.message_protocol import (
    ContentPart,
    FunctionCall,
    FunctionDefinition,
    FunctionName,
    Message,
    NamedToolChoice,
    Tool,
    ToolCall,
)
from .protocol import (
    FunctionTool,
    InputItem,
    InputPart,
    NamedFunction,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
)

# What items of a type must have, and what else they may have.
_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "message": (("role", "content"), ()),
    "function_call": (("call_id", "name", "arguments"), ()),
    "function_call_output": (("call_id", "output"), ()),
    "reasoning": ((), ("content", "summary")),
}
_ANYWHERE = ("type", "id", "status")


def read_input(items: str | list[InputItem]) -> list[Message]:
    """The turns. What the model thought, said and called in one turn is one message.

    Raises `InvalidRequest` naming the field.
    """
    if isinstance(items, str):
        return [Message(role="user", content=items)]
    if not items:
        raise InvalidRequest("input must not be empty", param="input")
    messages: list[Message] = []
    turn: Message | None = None  # the model's, to which more may come
    for place, item in enumerate(items):
        _check(item, f"input[{place}]")
        if item.type == "function_call_output":
            turn = None
            output = item.output or ""
            messages.append(Message(role="tool", tool_call_id=item.call_id, content=_content(output)))
        elif item.type == "message" and item.role is not None and item.role != "assistant":
            turn = None
            messages.append(Message(role=item.role, content=_content(item.content or "")))
        else:
            if turn is None or not _may_join(turn, item):
                turn = Message(role="assistant")
                messages.append(turn)
            _add(turn, item)
    return messages


def answer_message(items: Sequence[OutputItem]) -> Message:
    """An answer as the message that it is in later turns."""
    message = Message(role="assistant")
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for item in items:
        match item:
            case OutputMessage(content=parts):
                texts += [part.text for part in parts]
            case OutputReasoning(content=parts):
                thoughts += [part.text for part in parts]
            case OutputCall():
                calls.append(_call(item.call_id, item.name, item.arguments))
    message.content = "".join(texts) if texts or not calls else None
    message.reasoning = "".join(thoughts) or None
    message.tool_calls = calls or None
    return message


def read_tool(tool: FunctionTool) -> Tool:
    """A tool as chats have it."""
    function = FunctionDefinition(
        name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
    )
    return Tool(type="function", function=function)


def read_choice(choice: NamedFunction) -> NamedToolChoice:
    """A demanded function as chats have it."""
    return NamedToolChoice(type="function", function=FunctionName(name=choice.name))


def _check(item: InputItem, param: str) -> None:
    required, optional = _FIELDS[item.type]
    for name in item.__struct_fields__:
        value = getattr(item, name)
        if name in required and value is None:
            raise InvalidRequest(
                f"{param}.{name} is required", param=f"{param}.{name}", code="missing_parameter"
            )
        if value is not None and name not in (*required, *optional, *_ANYWHERE):
            raise InvalidRequest(
                f"{param}.{name}: an item of type {item.type!r} has none", param=f"{param}.{name}"
            )


def _may_join(turn: Message, item: InputItem) -> bool:
    """Whether an item belongs to the turn before it: thoughts, then text, then calls."""
    if item.type == "function_call":
        return True
    has_text = turn.content is not None or turn.tool_calls is not None
    return item.type == "message" and not has_text


def _add(turn: Message, item: InputItem) -> None:
    if item.type == "function_call":
        call = _call(item.call_id or "", item.name or "", item.arguments or "")
        turn.tool_calls = [*(turn.tool_calls or []), call]
    elif item.type == "message":
        turn.content = _content(item.content or "")
    else:
        parts = item.content or item.summary or []
        turn.reasoning = parts if isinstance(parts, str) else "\n".join(part.text for part in parts)


def _call(call_id: str, name: str, arguments: str) -> ToolCall:
    return ToolCall(id=call_id, type="function", function=FunctionCall(name=name, arguments=arguments))


def _content(content: str | list[InputPart]) -> str | list[ContentPart]:
    if isinstance(content, str):
        return content
    return [ContentPart(type="text", text=part.text) for part in content]

"""From a request's messages to those that chat templates know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ...errors import InvalidRequest
from ..settings import ServerSettings
from ..strict_json import parse
from .message_protocol import ContentPart, Message, ToolCall
from .template_style import TemplateStyle

# Fields that only messages of these roles have.
_OF_ROLE = {
    "tool_calls": ("assistant",),
    "reasoning": ("assistant",),
    "reasoning_content": ("assistant",),
    "tool_call_id": ("tool",),
}


def is_ordinary(message: Message) -> bool:
    """Whether all templates take a message in the same form: text alone, of anyone but a tool."""
    return (
        message.content is not None
        and message.role != "tool"
        and all(not getattr(message, name) for name in _OF_ROLE)
    )


def template_messages(
    messages: Sequence[Message], style: TemplateStyle, settings: ServerSettings
) -> list[dict[str, Any]]:
    """Messages as a template of this style expects them: content is text, and developers are the system.

    A message of a tool bears the name of the function whose call it answers. Raises `InvalidRequest`
    naming the field that a message lacks or cannot have.
    """
    names: dict[str, str] = {}
    plain: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
        param = f"messages[{place}]"
        _check_fields(message, param)
        calls = message.tool_calls or []
        if (calls or message.role == "tool") and not style.shows_calls:
            raise InvalidRequest("the model's chat template has no form for calls of tools", param=param)
        turn: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role}
        turn["content"] = _content(message, param, style)
        if message.name is not None:
            turn["name"] = message.name
        if calls:
            turn["tool_calls"] = [
                _call(call, f"{param}.tool_calls[{index}]", style, settings)
                for index, call in enumerate(calls)
            ]
            names.update((call.id, call.function.name) for call in calls)
        if message.role == "tool":
            turn["tool_call_id"] = message.tool_call_id
            if message.name is None and message.tool_call_id in names:
                turn["name"] = names[message.tool_call_id]
        _add_reasoning(turn, message, param, style)
        plain.append(turn)
    return plain


def _check_fields(message: Message, param: str) -> None:
    for name, roles in _OF_ROLE.items():
        if getattr(message, name) is not None and message.role not in roles:
            raise InvalidRequest(
                f"{param}.{name}: a message of role {message.role!r} has none", param=f"{param}.{name}"
            )
    if message.role == "tool" and not message.tool_call_id:
        raise InvalidRequest(
            f"{param}.tool_call_id is required: the id of the call that the message answers",
            param=f"{param}.tool_call_id",
            code="missing_parameter",
        )


def _content(message: Message, param: str, style: TemplateStyle) -> str | None:
    content, param = message.content, f"{param}.content"
    if isinstance(content, str):
        return content if content or not message.tool_calls else style.no_content
    if content is not None:
        return "\n".join(_text(part, f"{param}[{place}]") for place, part in enumerate(content))
    if message.role != "assistant":
        raise InvalidRequest(f"{param} is required", param=param, code="missing_parameter")
    if message.tool_calls:
        return style.no_content
    if message.reasoning is None and message.reasoning_content is None:
        raise InvalidRequest(
            f"{param} is required where there are no tool_calls", param=param, code="missing_parameter"
        )
    return ""


def _text(part: ContentPart, param: str) -> str:
    if part.type != "text":
        raise InvalidRequest(
            f"{param}.type: {part.type[:80]!r} is not supported; this model takes text alone",
            param=f"{param}.type",
        )
    for name in part.__struct_fields__:
        if name not in ("type", "text") and getattr(part, name) is not None:
            raise InvalidRequest(f"{param}.{name}: a part of type 'text' has none", param=f"{param}.{name}")
    if part.text is None:
        raise InvalidRequest(f"{param}.text is required", param=f"{param}.text", code="missing_parameter")
    return part.text


def _call(call: ToolCall, param: str, style: TemplateStyle, settings: ServerSettings) -> dict[str, Any]:
    function = call.function
    arguments: object = function.arguments
    if not style.arguments_are_text:
        arguments = _parse(function.arguments, f"{param}.function.arguments", settings)
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": function.name, "arguments": arguments},
    }


def _parse(arguments: str, param: str, settings: ServerSettings) -> dict[str, Any]:
    """The arguments of a call; clients write none as an empty text."""
    if not arguments.strip():
        return {}
    try:
        value = parse(
            arguments.encode(), max_depth=settings.max_json_depth, max_values=settings.max_json_values
        )
    except InvalidRequest as error:
        raise InvalidRequest(error.message.replace("the body", param, 1), param=param) from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{param} must be a JSON object", param=param)
    return cast("dict[str, Any]", value)


def _add_reasoning(turn: dict[str, Any], message: Message, param: str, style: TemplateStyle) -> None:
    """Puts the reasoning where the template looks for it; most drop that of earlier turns."""
    reasoning, older = message.reasoning, message.reasoning_content
    if reasoning is not None and older is not None and reasoning != older:
        raise InvalidRequest(
            f"{param}: reasoning and its older name reasoning_content differ", param=f"{param}.reasoning"
        )
    text = older if reasoning is None else reasoning
    if not text:
        return
    if style.is_harmony and turn["content"] and "tool_calls" in turn:
        # A preamble and thoughts: the template takes only one of them before a call.
        text, turn["content"] = f"{text}\n{turn['content']}", ""
    for key in style.reasoning_keys:
        turn[key] = text

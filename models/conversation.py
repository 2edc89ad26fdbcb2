"""Conversations and tools as OpenAI's chat API writes them, in the form that chat templates know.

Server and `LLM.chat` share this, so that the same messages make the same prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from ..errors import InvalidRequest
from .chat_template import ChatTemplate
from .template_style import TemplateStyle, find_style
from .tokenizer import Tokenizer

Message = Mapping[str, Any]
"""A chat message: `{"role": ..., "content": ...}`, and what messages of its role may have besides."""

# Fields that only messages of these roles have.
_OF_ROLE = {
    "tool_calls": ("assistant",),
    "reasoning": ("assistant",),
    "reasoning_content": ("assistant",),
    "tool_call_id": ("tool",),
}
# Fields that are read here. Others, which some templates know, are handed on if they say anything.
_READ = {*_OF_ROLE, "role", "content", "name", "parsed", "provider_specific_fields"}


def is_ordinary(message: Message) -> bool:
    """Whether all templates take a message in the same form: text alone, of anyone but a tool."""
    return (
        message.get("content") is not None
        and message.get("role") != "tool"
        and all(not message.get(name) for name in _OF_ROLE)
    )


def template_messages(
    messages: Sequence[Message],
    style: TemplateStyle,
    parse: Callable[[str], object] = json.loads,
) -> list[dict[str, Any]]:
    """Messages as a template of this style expects them: content is text, and developers are the system.

    A message of a tool bears the name of the function whose call it answers.

    Args:
        messages: The conversation.
        style: What the template expects; it matters if not all messages are ordinary.
        parse: Reads the arguments of a call, a JSON text; raises `ValueError`.

    Raises:
        InvalidRequest: Naming the field that a message lacks or cannot have.
    """
    names: dict[str, str] = {}
    plain: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
        param = f"messages[{place}]"
        role = _check_fields(message, param)
        calls: Sequence[Mapping[str, Any]] = message.get("tool_calls") or []
        if (calls or role == "tool") and not style.shows_calls:
            raise InvalidRequest("the model's chat template has no form for calls of tools", param=param)
        turn = {name: value for name, value in message.items() if name not in _READ and value is not None}
        turn |= {
            "role": "system" if role == "developer" else role,
            "content": _content(message, param, style),
        }
        if message.get("name") is not None:
            turn["name"] = message["name"]
        if calls:
            turn["tool_calls"] = [
                _call(call, f"{param}.tool_calls[{index}]", style, parse) for index, call in enumerate(calls)
            ]
            names.update((call["id"], call["function"]["name"]) for call in turn["tool_calls"])
        if role == "tool":
            turn["tool_call_id"] = message["tool_call_id"]
            if message.get("name") is None and message["tool_call_id"] in names:
                turn["name"] = names[message["tool_call_id"]]
        _add_reasoning(turn, message, param, style)
        plain.append(turn)
    return plain


def template_tool(name: str, description: str | None, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """A tool as chat templates know it; they count on its description and its parameters."""
    schema = parameters or {"type": "object", "properties": {}}
    described = {"name": name, "description": description or ""}
    return {"type": "function", "function": {**described, "parameters": schema}}


def template_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tools in OpenAI's form as chat templates know them. Raises `InvalidRequest`."""
    plain: list[dict[str, Any]] = []
    for place, tool in enumerate(tools):
        function: object = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, Mapping) or "name" not in function:
            raise InvalidRequest(
                f"tools[{place}] must have type 'function' and a function with a name, got {tool!r:.80}",
                param=f"tools[{place}]",
            )
        definition = cast("Mapping[str, Any]", function)
        plain.append(
            template_tool(definition["name"], definition.get("description"), definition.get("parameters"))
        )
    return plain


def render_conversation(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
) -> str:
    """The prompt for a conversation, in which only the template's own special tokens are such.

    Args:
        template: Writes it.
        tokenizer: Knows the special tokens.
        messages: The conversation.
        tools: Functions that the model is offered, in OpenAI's form.
        add_generation_prompt: Whether to end with the mark that begins an assistant's turn.
        variables: Further variables of the template.

    Raises:
        InvalidRequest: Naming what the template cannot show.
    """
    offered = None if tools is None else template_tools(tools)
    if offered is not None and "tools" not in template.variables(with_tools=True):
        raise InvalidRequest("tools: the model's chat template has no place for it", param="tools")
    style = TemplateStyle()
    if not all(map(is_ordinary, messages)):
        style = find_style(template, with_tools=offered is not None)
    return template.render(
        tokenizer.defuse(template_messages(messages, style)),
        add_generation_prompt=add_generation_prompt,
        tools=tokenizer.defuse(offered),
        **variables,
    )


def _missing(param: str, why: str = "") -> InvalidRequest:
    return InvalidRequest(f"{param} is required{why}", param=param, code="missing_parameter")


def _check_fields(message: Message, param: str) -> str:
    """The message's role, if its fields are those of the role."""
    role = message.get("role")
    if not isinstance(role, str):
        raise _missing(f"{param}.role")
    for name, roles in _OF_ROLE.items():
        if message.get(name) is not None and role not in roles:
            raise InvalidRequest(
                f"{param}.{name}: a message of role {role!r} has none", param=f"{param}.{name}"
            )
    if role == "tool" and not message.get("tool_call_id"):
        raise _missing(f"{param}.tool_call_id", ": the id of the call that the message answers")
    return role


def _content(message: Message, param: str, style: TemplateStyle) -> str | None:
    content, param = message.get("content"), f"{param}.content"
    calls = message.get("tool_calls")
    if isinstance(content, str):
        return content if content or not calls else style.no_content
    if isinstance(content, Sequence):
        parts = cast("Sequence[object]", content)
        return "\n".join(_text(part, f"{param}[{place}]") for place, part in enumerate(parts))
    if content is not None:
        raise InvalidRequest(f"{param} must be a text or a list of parts, got {content!r:.80}", param=param)
    if message["role"] != "assistant":
        raise _missing(param)
    if calls:
        return style.no_content
    if message.get("reasoning") is None and message.get("reasoning_content") is None:
        raise _missing(param, " where there are no tool_calls")
    return ""


def _text(part: object, param: str) -> str:
    """The text of a part; fields that are null are not there."""
    if not isinstance(part, Mapping):
        raise InvalidRequest(f"{param} must be an object, got {part!r:.80}", param=param)
    fields = {name: value for name, value in cast("Mapping[str, Any]", part).items() if value is not None}
    if fields.get("type") != "text":
        raise InvalidRequest(
            f"{param}.type: {str(fields.get('type'))[:80]!r} is not supported; this model takes text alone",
            param=f"{param}.type",
        )
    for name in fields:
        if name not in ("type", "text"):
            raise InvalidRequest(f"{param}.{name}: a part of type 'text' has none", param=f"{param}.{name}")
    if not isinstance(fields.get("text"), str):
        raise _missing(f"{param}.text")
    return fields["text"]


def _call(
    call: Mapping[str, Any], param: str, style: TemplateStyle, parse: Callable[[str], object]
) -> dict[str, Any]:
    try:
        function = call["function"]
        name, arguments, call_id = function["name"], function["arguments"], call["id"]
    except (KeyError, TypeError):
        raise InvalidRequest(
            f"{param} must have an id and a function with a name and arguments, got {call!r:.80}", param=param
        ) from None
    if style.arguments_are_text:
        # `LLM.chat` takes them as objects, too, which is how transformers wants them.
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    elif isinstance(arguments, str):
        arguments = _arguments(arguments, f"{param}.function.arguments", parse)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _arguments(text: str, param: str, parse: Callable[[str], object]) -> object:
    """The arguments of a call; clients write none as an empty text."""
    if not text.strip():
        return {}
    try:
        value = parse(text)
    except ValueError as error:
        message = str(error).replace("the body", param, 1)
        raise InvalidRequest(message if param in message else f"{param}: {message}", param=param) from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{param} must be a JSON object", param=param)
    return cast("dict[str, Any]", value)


def _add_reasoning(turn: dict[str, Any], message: Message, param: str, style: TemplateStyle) -> None:
    """Puts the reasoning where the template looks for it; most drop that of earlier turns."""
    reasoning, older = message.get("reasoning"), message.get("reasoning_content")
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

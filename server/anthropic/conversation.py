"""A conversation in Anthropic's form as a chat in OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Literal

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
from ..openai.protocol import ChatCompletionRequest
from ..openai.structured import JsonSchema, JsonSchemaFormat
from .protocol import (
    Block,
    CountTokensRequest,
    InputMessage,
    TextBlock,
    ThinkingBlock,
    ToolChoice,
    ToolDefinition,
    ToolResultBlock,
    ToolUseBlock,
)


def read_conversation(body: CountTokensRequest) -> ChatCompletionRequest:
    """The conversation as a chat. Raises `InvalidRequest`."""
    messages = [message for role, blocks in _turns(body.messages) for message in _messages(role, blocks)]
    unfinished = bool(messages) and messages[-1].role == "assistant"
    if unfinished and (messages[-1].tool_calls or not _has_text(messages[-1])):
        raise InvalidRequest(
            "messages: the assistant's turn to go on with must have text, and no calls", param="messages"
        )
    if body.system is not None and messages:
        messages.insert(0, Message(role="system", content=_content(body.system)))
    chat = ChatCompletionRequest(
        model=body.model, messages=messages, continue_final_message=True if unfinished else None
    )
    if body.output_config is not None and body.output_config.format is not None:
        schema = JsonSchema(name="output", schema=body.output_config.format.schema)
        chat.response_format = JsonSchemaFormat(json_schema=schema)
    if body.tools:
        chat.tools = [_tool(tool) for tool in body.tools]
    if body.tool_choice is not None:
        chat.tool_choice = _choice(body.tool_choice)
        if body.tool_choice.disable_parallel_tool_use is not None:
            chat.parallel_tool_calls = not body.tool_choice.disable_parallel_tool_use
    return chat


def _turns(messages: Sequence[InputMessage]) -> list[tuple[str, list[Block]]]:
    """The turns, of which no two of the same role follow each other: many templates refuse those."""
    turns: list[tuple[str, list[Block]]] = []
    for message in messages:
        content = message.content
        blocks: list[Block] = [TextBlock(text=content)] if isinstance(content, str) else content
        if turns and turns[-1][0] == message.role:
            turns[-1] = (message.role, [*turns[-1][1], *blocks])
        else:
            turns.append((message.role, blocks))
    return turns


def _messages(role: str, blocks: Sequence[Block]) -> Iterator[Message]:
    """A turn as messages: the results of tools are messages of their own."""
    if role == "assistant":
        yield _assistant(blocks)
        return
    texts: list[ContentPart] = []
    for block in blocks:
        if isinstance(block, TextBlock):
            texts.append(_part(block))
        elif isinstance(block, ToolResultBlock):
            if texts:
                yield Message(role="user", content=texts)
                texts = []
            yield _result(block)
        else:
            raise InvalidRequest("messages: thinking and tool_use are the assistant's", param="messages")
    if texts or not blocks:
        yield Message(role="user", content=texts)


def _assistant(blocks: Sequence[Block]) -> Message:
    texts: list[ContentPart] = []
    calls: list[ToolCall] = []
    thoughts: list[str] = []
    for block in blocks:
        match block:
            case TextBlock():
                texts.append(_part(block))
            case ThinkingBlock():
                thoughts.append(block.thinking)
            case ToolUseBlock():
                call = FunctionCall(name=block.name, arguments=json.dumps(block.input, ensure_ascii=False))
                calls.append(ToolCall(id=block.id, type="function", function=call))
            case ToolResultBlock():
                raise InvalidRequest("messages: tool_result is the user's", param="messages")
    message = Message(role="assistant", content=texts if texts or not calls else None)
    message.tool_calls = calls or None
    message.reasoning = "".join(thoughts) or None
    return message


def _result(block: ToolResultBlock) -> Message:
    content = block.content or ""
    text = content if isinstance(content, str) else "\n".join(part.text for part in content)
    if block.is_error:
        text = f"Error: {text}"
    return Message(role="tool", tool_call_id=block.tool_use_id, content=text)


def _part(block: TextBlock) -> ContentPart:
    return ContentPart(type="text", text=block.text)


def _content(content: str | list[TextBlock]) -> str | list[ContentPart]:
    return content if isinstance(content, str) else [_part(block) for block in content]


def _has_text(message: Message) -> bool:
    parts = message.content
    return not isinstance(parts, str) and any((part.text or "").strip() for part in parts or ())


def _tool(tool: ToolDefinition) -> Tool:
    function = FunctionDefinition(
        name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict
    )
    return Tool(type="function", function=function)


def _choice(choice: ToolChoice) -> NamedToolChoice | Literal["none", "auto", "required"]:
    if (choice.name is None) == (choice.type == "tool"):
        raise InvalidRequest("tool_choice: name is for type 'tool', which needs it", param="tool_choice")
    if choice.name is not None:
        return NamedToolChoice(type="function", function=FunctionName(name=choice.name))
    return "none" if choice.type == "none" else "required" if choice.type == "any" else "auto"

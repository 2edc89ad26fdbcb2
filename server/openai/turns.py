"""The model's turn in OpenAI's shape, whole and in deltas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...engine.outputs import CompletionOutput
from ..answers import AnswerReader
from ..tool_parsers.base import CallArguments, CallStart, Content, Event, Reasoning
from .common import finish_reason
from .message_protocol import AnswerMessage, Delta, FunctionCall, FunctionDelta, ToolCall, ToolCallDelta


class Turn:
    """One of the n answers.

    Args:
        reader: Reads the model's format; None where all text is content.
        is_named: Whether the request demands a call of one function, which is no reason to finish.
    """

    def __init__(self, reader: AnswerReader | None, *, is_named: bool) -> None:
        self._reader = reader
        self._is_named = is_named

    @property
    def num_reasoning_tokens(self) -> int:
        """So far."""
        return 0 if self._reader is None else self._reader.num_reasoning_tokens

    def finish_reason(self, part: CompletionOutput) -> Literal["stop", "length", "tool_calls"] | None:
        """Why the answer ended; "tool_calls" says that the arguments of every call are whole."""
        reason = finish_reason(part)
        calls = self._reader is not None and self._reader.all_calls_are_complete
        return "tool_calls" if reason == "stop" and calls and not self._is_named else reason

    def message(self, part: CompletionOutput) -> AnswerMessage:
        """The message of a whole answer."""
        if self._reader is None:
            return AnswerMessage(content=part.text)
        events = self._reader.take(part)
        content = "".join(event.text for event in events if isinstance(event, Content))
        reasoning = "".join(event.text for event in events if isinstance(event, Reasoning))
        message = AnswerMessage(content=content)
        if reasoning:
            message.reasoning = message.reasoning_content = reasoning
        if calls := _calls(events):
            message.tool_calls = calls
        if not content and (reasoning or calls):
            message.content = None
        return message

    def deltas(self, part: CompletionOutput) -> list[Delta]:
        """What is new in the answer."""
        if self._reader is None:
            return [Delta(content=part.text)] if part.text else []
        return [_delta(event) for event in self._reader.take(part)]


def _calls(events: Sequence[Event]) -> list[ToolCall]:
    calls: list[ToolCall] = []
    for event in events:
        if isinstance(event, CallStart):
            calls.append(
                ToolCall(id=event.id, type="function", function=FunctionCall(name=event.name, arguments=""))
            )
        elif isinstance(event, CallArguments):
            calls[event.index].function.arguments += event.text
    return calls


def _delta(event: Event) -> Delta:
    match event:
        case Content(text):
            return Delta(content=text)
        case Reasoning(text):
            return Delta(reasoning=text, reasoning_content=text)
        case CallStart(index, id, name):
            start = FunctionDelta(name=name, arguments="")
            return Delta(tool_calls=[ToolCallDelta(index=index, id=id, type="function", function=start)])
        case CallArguments(index, text):
            return Delta(tool_calls=[ToolCallDelta(index=index, function=FunctionDelta(arguments=text))])

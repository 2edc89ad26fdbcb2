"""The items of an answer: what the model thinks, says and calls, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from ..openai.message_protocol import Delta
from ..openai.protocol import TokenLogprob
from .protocol import OutputCall, OutputItem, OutputMessage, OutputReasoning, OutputText, ReasoningText

Event = tuple[str, dict[str, object]]
"""An event's type without its "response.", and its fields, to be encoded at once: items change."""


class ItemWriter:
    """Builds the items from what is new in an answer, and tells of it in events.

    Attributes:
        items: All so far.
    """

    def __init__(self, id: str) -> None:
        self.items: list[OutputItem] = []
        self._id = id
        self._is_open = False

    def take(self, delta: Delta, logprobs: Sequence[TokenLogprob] = ()) -> Iterator[Event]:
        """Takes in what is new; `logprobs` are those of its content."""
        if delta.reasoning:
            yield from self._add_reasoning(delta.reasoning)
        if delta.content:
            yield from self._add_text(delta.content, logprobs)
        for call in delta.tool_calls or ():
            if call.id:
                yield from self._begin(
                    OutputCall(
                        id=self._new_id("fc"),
                        call_id=call.id,
                        name=call.function.name or "",
                        arguments="",
                        status="in_progress",
                    )
                )
            if call.function.arguments:
                yield from self._add_arguments(call.function.arguments)

    def end(self, status: Literal["completed", "incomplete"]) -> Iterator[Event]:
        """The end of the answer; one that says nothing has an empty message."""
        if not self.items:
            yield from self._begin_message()
        yield from self._close(status)

    def _add_reasoning(self, text: str) -> Iterator[Event]:
        item = self.items[-1] if self._is_open else None
        if not isinstance(item, OutputReasoning):
            part = ReasoningText(text="")
            item = OutputReasoning(id=self._new_id("rs"), content=[], status="in_progress")
            yield from self._begin(item)
            item.content.append(part)
            yield "content_part.added", self._at() | {"part": part}
        item.content[0].text += text
        yield "reasoning_text.delta", self._at() | {"delta": text}

    def _add_text(self, text: str, logprobs: Sequence[TokenLogprob]) -> Iterator[Event]:
        if not (self._is_open and isinstance(self.items[-1], OutputMessage)):
            yield from self._begin_message()
        item = self.items[-1]
        assert isinstance(item, OutputMessage)
        item.content[0].text += text
        item.content[0].logprobs += logprobs
        yield "output_text.delta", self._at() | {"delta": text, "logprobs": logprobs}

    def _add_arguments(self, text: str) -> Iterator[Event]:
        item = self.items[-1]
        assert isinstance(item, OutputCall), "the calls of an answer come one after the other"
        item.arguments += text
        yield "function_call_arguments.delta", self._of_item() | {"delta": text}

    def _begin_message(self) -> Iterator[Event]:
        item = OutputMessage(id=self._new_id("msg"), content=[], status="in_progress")
        yield from self._begin(item)
        item.content.append(OutputText(text=""))
        yield "content_part.added", self._at() | {"part": item.content[0]}

    def _begin(self, item: OutputItem) -> Iterator[Event]:
        yield from self._close("completed")
        self.items.append(item)
        self._is_open = True
        yield "output_item.added", {"output_index": len(self.items) - 1, "item": item}

    def _close(self, status: Literal["completed", "incomplete"]) -> Iterator[Event]:
        """The end of the item that is being made, if there is one."""
        if not self._is_open:
            return
        item = self.items[-1]
        item.status = status
        self._is_open = False
        match item:
            case OutputMessage(content=[part]):
                yield "output_text.done", self._at() | {"text": part.text, "logprobs": part.logprobs}
                yield "content_part.done", self._at() | {"part": part}
            case OutputReasoning(content=[part]):
                yield "reasoning_text.done", self._at() | {"text": part.text}
                yield "content_part.done", self._at() | {"part": part}
            case OutputCall():
                done = {"name": item.name, "arguments": item.arguments}
                yield "function_call_arguments.done", self._of_item() | done
            case _:
                raise AssertionError(f"{item.type} has no content")
        yield "output_item.done", {"output_index": len(self.items) - 1, "item": item}

    def _new_id(self, kind: str) -> str:
        return f"{kind}_{self._id}_{len(self.items)}"

    def _of_item(self) -> dict[str, object]:
        return {"item_id": self.items[-1].id, "output_index": len(self.items) - 1}

    def _at(self) -> dict[str, object]:
        return {**self._of_item(), "content_index": 0}

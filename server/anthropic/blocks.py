"""The model's turn in Anthropic's shape: blocks of thinking, text and calls, whole and in events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgspec

from ..openai.message_protocol import Delta
from .protocol import (
    AnswerBlock,
    AnswerText,
    AnswerThinking,
    AnswerToolUse,
    BlockDelta,
    BlockStart,
    BlockStop,
    Event,
    InputDelta,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
)


class BlockWriter:
    """Turns what is new in an answer into the events of its blocks, one block after the other."""

    def __init__(self) -> None:
        self._block: AnswerBlock | None = None
        self._num_blocks = 0

    def events(self, deltas: Sequence[Delta]) -> Iterator[Event]:
        """The events of what is new."""
        for delta in deltas:
            if delta.reasoning:
                yield from self._begin(AnswerThinking(thinking=""))
                yield self._delta(ThinkingDelta(delta.reasoning))
            if delta.content:
                yield from self._begin(AnswerText(text=""))
                yield self._delta(TextDelta(delta.content))
            for call in delta.tool_calls or ():
                if call.id:
                    yield from self.end()
                    yield from self._begin(AnswerToolUse(id=call.id, name=call.function.name or "", input={}))
                if call.function.arguments:
                    yield self._delta(InputDelta(call.function.arguments))

    def end(self) -> Iterator[Event]:
        """The end of the last block, if there is one."""
        if self._block is None:
            return
        if isinstance(self._block, AnswerThinking):
            yield self._delta(SignatureDelta())
        yield BlockStop(self._num_blocks - 1)
        self._block = None

    def _begin(self, block: AnswerBlock) -> Iterator[Event]:
        """Begins a block, unless one of its kind is going on."""
        if type(self._block) is type(block):
            return
        yield from self.end()
        self._block = block
        yield BlockStart(self._num_blocks, block)
        self._num_blocks += 1

    def _delta(self, delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta) -> Event:
        return BlockDelta(self._num_blocks - 1, delta)


def whole_blocks(deltas: Sequence[Delta]) -> list[AnswerBlock]:
    """The blocks of a whole answer. A call whose input was cut off by the limit is left out."""
    writer = BlockWriter()
    blocks: list[AnswerBlock] = []
    inputs: list[str] = []
    for event in (*writer.events(deltas), *writer.end()):
        if isinstance(event, BlockStart):
            blocks.append(event.content_block)
            inputs.append("")
        elif isinstance(event, BlockDelta):
            block, delta = blocks[-1], event.delta
            if isinstance(block, AnswerText) and isinstance(delta, TextDelta):
                block.text += delta.text
            elif isinstance(block, AnswerThinking) and isinstance(delta, ThinkingDelta):
                block.thinking += delta.thinking
            elif isinstance(delta, InputDelta):
                inputs[-1] += delta.partial_json
    whole: list[AnswerBlock] = []
    for block, text in zip(blocks, inputs, strict=True):
        if isinstance(block, AnswerToolUse):
            found = _object(text)
            if found is None:
                continue
            block = msgspec.structs.replace(block, input=found)
        whole.append(block)
    return whole


def _object(text: str) -> dict[str, Any] | None:
    try:
        value: object = json.loads(text)
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None

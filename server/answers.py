"""From the engine's output to content, reasoning and calls, in whatever format the model writes them.

The same reader takes an answer whole and in deltas, and what it gives, joined, is the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..engine.outputs import CompletionOutput
from ..models.tokenizer import Tokenizer
from .reasoning_parsers import REASONING_PARSERS
from .reasoning_parsers.base import ReasoningParser, ReasoningState
from .settings import ServerSettings
from .tool_parsers import TOOL_PARSERS
from .tool_parsers.base import (
    AnswerParser,
    CallArguments,
    Content,
    ContentParser,
    Event,
    ParserSetting,
    Piece,
    Reasoning,
    Special,
    ToolParser,
)


@dataclass(frozen=True, slots=True)
class ModelFormat:
    """The formats of a model, None where it has none that is known.

    Attributes:
        tools: How it writes calls.
        reasoning: How it marks reasoning, unless `tools` does that, too.
        separate_reasoning: Whether reasoning is kept apart from content at all.
    """

    tools: type[ToolParser] | None
    reasoning: type[ReasoningParser] | None
    separate_reasoning: bool


def find_format(settings: ServerSettings, sources: Mapping[str, str], tokenizer: Tokenizer) -> ModelFormat:
    """The formats that the settings name or, for "auto", that the model's files show.

    Args:
        settings: `tool_call_parser` and `reasoning_parser` count.
        sources: The model's chat templates by name.
        tokenizer: The model's tokenizer.
    """
    return _find_format(
        settings.tool_call_parser, settings.reasoning_parser, tuple(sources.values()), tokenizer
    )


@lru_cache(maxsize=8)
def _find_format(calls: str, thoughts: str, sources: tuple[str, ...], tokenizer: Tokenizer) -> ModelFormat:
    text = "\n".join(sources)
    if calls == "auto" and thoughts in TOOL_PARSERS:
        calls = thoughts
    tools = _find_tools(text, tokenizer) if calls == "auto" else TOOL_PARSERS.get(calls)
    separate = thoughts != "none"
    if tools is not None and tools.splits_reasoning:
        return ModelFormat(tools, None, separate)
    if thoughts != "auto":
        return ModelFormat(tools, REASONING_PARSERS.get(thoughts), separate)
    found = (parser for parser in REASONING_PARSERS.values() if all(sign in text for sign in parser.signs))
    return ModelFormat(tools, next(found, None), separate)


def _find_tools(text: str, tokenizer: Tokenizer) -> type[ToolParser] | None:
    """The first parser all of whose signs stand in the chat template, or else in the vocabulary.

    A template that shows another format with the same signs rules a parser out.
    """
    able = [each for each in TOOL_PARSERS.values() if not any(sign in text for sign in each.foreign_signs)]
    for parser in able:
        if all(sign in text for sign in parser.signs):
            return parser
    for parser in able:
        if all(map(tokenizer.has_token, parser.signs)):
            return parser
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormat:
    """How the answers to one request are read.

    Attributes:
        model: The model's formats.
        functions: The functions that the model may call; none for answers without calls.
        max_calls: Further calls are left out; None for no limit.
        special_tokens: The spellings of the tokenizer's special tokens.
        show_special_tokens: Whether special tokens that are no marks are part of the text.
        reasoning_state: Where the prompt leaves the reasoning.
        continues: Whether the answer goes on with a message that the prompt has begun.
    """

    model: ModelFormat
    functions: Collection[str] = ()
    max_calls: int | None = None
    special_tokens: Collection[str] = ()
    show_special_tokens: bool = False
    reasoning_state: ReasoningState = "possible"
    continues: bool = False

    @property
    def tools(self) -> type[ToolParser] | None:
        """The parser of calls, if there can be any or if it does more than that."""
        parser = self.model.tools
        return parser if parser is not None and (self.functions or parser.splits_reasoning) else None

    @property
    def is_plain(self) -> bool:
        """Whether all text is content, and there is nothing to read."""
        return self.tools is None and self.model.reasoning is None

    @property
    def needs_special_tokens(self) -> bool:
        """Whether special tokens are marks, so that the engine must show them."""
        parsers = (self.tools, self.model.reasoning)
        return any(mark in self.special_tokens for each in parsers if each for mark in each.marks)

    def reader(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int]) -> AnswerReader:
        """A reader for one answer."""
        setting = ParserSetting(
            functions=self.functions,
            special_tokens=self.special_tokens,
            show_special_tokens=self.show_special_tokens,
            max_calls=self.max_calls,
            separate_reasoning=self.model.separate_reasoning,
            continues=self.continues,
        )
        reasoning = None
        if self.model.reasoning is not None:
            reasoning = self.model.reasoning(
                self.special_tokens,
                show_special_tokens=self.show_special_tokens,
                is_open=self.reasoning_state == "open",
            )
        shown = self.show_special_tokens or self.needs_special_tokens
        pieces = _PieceReader(tokenizer, prompt_token_ids, special_tokens_are_shown=shown)
        return AnswerReader((self.tools or ContentParser)(setting), reasoning, pieces)


class AnswerReader:
    """Reads one answer, whole or as it comes.

    Attributes:
        num_reasoning_tokens: Tokens of the reasoning so far, its marks included.
    """

    def __init__(self, parser: AnswerParser, reasoning: ReasoningParser | None, pieces: _PieceReader) -> None:
        self._parser = parser
        self._reasoning = reasoning
        self._pieces = pieces
        self.num_reasoning_tokens = 0

    @property
    def all_calls_are_complete(self) -> bool:
        """Whether there are calls, and each has whole arguments."""
        return self._parser.all_calls_are_complete

    def take(self, part: CompletionOutput) -> list[Event]:
        """What the next part of the answer says; equal events are joined."""
        events: list[Event] = []
        for num_tokens, pieces in self._pieces.take(part):
            thinks = self._in_reasoning
            for piece in pieces:
                events += self._push(piece)
                thinks |= self._in_reasoning
            if thinks:
                self.num_reasoning_tokens += num_tokens
        if part.finish_reason is not None:
            events += self._finish()
        return _joined(events)

    @property
    def _in_reasoning(self) -> bool:
        return self._parser.in_reasoning or (self._reasoning is not None and self._reasoning.in_reasoning)

    def _push(self, piece: Piece) -> list[Event]:
        return (
            self._parser.push(piece) if self._reasoning is None else self._route(self._reasoning.push(piece))
        )

    def _finish(self) -> list[Event]:
        events = [] if self._reasoning is None else self._route(self._reasoning.finish())
        return events + self._parser.finish()

    def _route(self, items: Sequence[Reasoning | Piece]) -> list[Event]:
        events: list[Event] = []
        for item in items:
            if isinstance(item, Reasoning):
                events.append(item)
            else:
                events += self._parser.push(item)
        return events


class _PieceReader:
    """Tells the special tokens in an answer's text from text that reads like them.

    The engine gives text and tokens; a stop string makes the text lag behind, and may cut it. So the
    tokens are decoded once more, for the places where their texts begin and end.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int], *, special_tokens_are_shown: bool
    ) -> None:
        self._special = {token: spelling for spelling, token in tokenizer.special_tokens.items()}
        self._stream = tokenizer.stream(
            skip_special_tokens=not special_tokens_are_shown, after=prompt_token_ids
        )
        # Tokens whose text has not come: its length in characters, and how much of its end spells a
        # special token.
        self._waiting: deque[tuple[int, int]] = deque()
        self._text = ""

    def take(self, part: CompletionOutput) -> Iterator[tuple[int, list[Piece]]]:
        """Numbers of tokens with their pieces, as far as the text has come; at the end, all that is left."""
        self._waiting.extend(map(self._measure, part.token_ids))
        text = self._text + part.text
        place = 0
        while self._waiting and place + self._waiting[0][0] <= len(text):
            length, num_special = self._waiting.popleft()
            middle, place = place + length - num_special, place + length
            pieces: list[Piece] = [text[place - length : middle]] if length > num_special else []
            if num_special:
                pieces.append(Special(text[middle:place]))
            yield 1, pieces
        self._text = text[place:]
        if part.finish_reason is not None:
            # What a stop string has cut, and bytes that never became a character.
            yield len(self._waiting), [self._text] if self._text else []
            self._waiting.clear()

    def _measure(self, token: int) -> tuple[int, int]:
        text = self._stream.push([token])
        spelling = self._special.get(token, "")
        return len(text), len(spelling) if text.endswith(spelling) else 0


def _joined(events: Sequence[Event]) -> list[Event]:
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, Content) and isinstance(last, Content):
            joined[-1] = Content(last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            joined[-1] = Reasoning(last.text + event.text)
        elif (
            isinstance(event, CallArguments) and isinstance(last, CallArguments) and last.index == event.index
        ):
            joined[-1] = CallArguments(event.index, last.text + event.text)
        else:
            joined.append(event)
    return joined

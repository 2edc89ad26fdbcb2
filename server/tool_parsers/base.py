"""What every parser of answers shares: pieces in, events out, marks found however the text is cut.

An answer reaches a parser piece by piece: text, and special tokens apart from it. A parser turns
the pieces into events. It may hold text back until it is certain what it is, and what its events say,
joined, does not depend on where the pieces were cut.
"""

from __future__ import annotations

import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from .constraint import CallGrammar

WHITESPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Special:
    """A special token in an answer; text that merely reads like it is text."""

    spelling: str


Piece = str | Special


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark of a format, such as `<tool_call>`: `special` if it came as a special token."""

    spelling: str
    special: bool


@dataclass(frozen=True, slots=True)
class Content:
    """More text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins. `index` counts the calls of an answer."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments, a JSON text."""

    index: int
    text: str


Event = Content | Reasoning | CallStart | CallArguments

Rules = dict[str, str]
"""Rules of a grammar by name, see `constraint`."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the model may call.

    Attributes:
        name: Its name.
        parameters: A JSON schema of type object.
        strict: Whether the arguments of a call must fit the schema, also where no call is demanded.
    """

    name: str
    parameters: Mapping[str, Any]
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ParserSetting:
    """What a parser has to know of the request and of the model.

    Attributes:
        functions: The names that the model may call.
        special_tokens: The spellings of the tokenizer's special tokens.
        show_special_tokens: Whether special tokens that are no marks are part of the text.
        max_calls: Further calls are left out; None for no limit.
        separate_reasoning: For formats that mark reasoning themselves: whether it is kept apart.
        continues: Whether the answer goes on with a message that the prompt has begun.
    """

    functions: Collection[str] = ()
    special_tokens: Collection[str] = ()
    show_special_tokens: bool = False
    max_calls: int | None = None
    separate_reasoning: bool = True
    continues: bool = False


class MarkLexer:
    """Finds the marks of a format in pieces.

    A mark that is a special token of the tokenizer counts only as that token, so that text which
    a model quotes from its prompt has no power. Other marks count as text.
    """

    def __init__(self, marks: Sequence[str], special_tokens: Collection[str]) -> None:
        self._special = {mark for mark in marks if mark in special_tokens}
        self._spelled = [mark for mark in marks if mark not in self._special]
        spellings = "|".join(map(re.escape, self._spelled))
        self._pattern = re.compile(spellings if spellings else "(?!)")
        self._longest = max(map(len, self._spelled), default=0)
        self._text = ""

    def push(self, piece: Piece) -> list[Piece | Mark]:
        """The pieces and marks that have become certain."""
        if isinstance(piece, Special):
            known = piece.spelling in self._special
            return [*self.flush(), Mark(piece.spelling, True) if known else piece]
        items: list[Piece | Mark] = []
        text = self._text + piece
        while found := self._pattern.search(text):
            if found.start():
                items.append(text[: found.start()])
            items.append(Mark(found[0], False))
            text = text[found.end() :]
        certain = len(text) - self._num_uncertain(text)
        if certain:
            items.append(text[:certain])
        self._text = text[certain:]
        return items

    def flush(self) -> list[Piece | Mark]:
        """What was held back as the possible beginning of a mark, and is none."""
        text, self._text = self._text, ""
        return [text] if text else []

    def _num_uncertain(self, text: str) -> int:
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-size:]
            if any(mark.startswith(end) for mark in self._spelled):
                return size
        return 0


class CallSource(Protocol):
    """A call while it is read; see `json_calls`."""

    raw: str
    name: str
    announced: bool
    complete: bool

    def take_arguments(self) -> str:
        """The arguments since the last time."""
        ...


class AnswerParser(ABC):
    """Turns an answer into events.

    Attributes:
        marks: The spellings by which the format is known in an answer.
    """

    marks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, setting: ParserSetting) -> None:
        self._setting = setting
        self._lexer = MarkLexer(self.marks, setting.special_tokens)
        self._events: list[Event] = []
        self._held = ""  # white space, which belongs to the content if more of it follows
        self._after_call = False
        self._announced = False  # the call that is being read
        self._dropped = False
        self._num_calls = 0
        self._num_complete = 0

    @staticmethod
    def new_call_id() -> str:
        """A fresh id for a call."""
        return f"call_{secrets.token_hex(12)}"

    def push(self, piece: Piece) -> list[Event]:
        """Takes the next piece."""
        for item in self._lexer.push(piece):
            self._take(item)
        return self._drain()

    def finish(self) -> list[Event]:
        """Ends the answer: what was held back becomes what it can be."""
        for item in self._lexer.flush():
            self._take(item)
        self._end()
        if self._held and not self._after_call:
            self._events.append(Content(self._held))
        return self._drain()

    @property
    def in_reasoning(self) -> bool:
        """Whether what comes next is reasoning."""
        return False

    @property
    def all_calls_are_complete(self) -> bool:
        """Whether there are calls, and the arguments of each are a whole JSON object."""
        return 0 < self._num_calls == self._num_complete

    @abstractmethod
    def _on_text(self, text: str) -> None:
        """Takes text without marks."""

    @abstractmethod
    def _on_mark(self, mark: Mark) -> None:
        """Takes a mark."""

    def _end(self) -> None:  # noqa: B027 (most formats have nothing to end)
        """The answer has ended."""

    def _take(self, item: Piece | Mark) -> None:
        if isinstance(item, Mark):
            self._on_mark(item)
        elif isinstance(item, str):
            self._on_text(item)
        elif self._setting.show_special_tokens:
            self._on_text(item.spelling)

    def _drain(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _shown(self, mark: Mark) -> str:
        """The text of a mark that turned out to be none."""
        return mark.spelling if self._setting.show_special_tokens or not mark.special else ""

    def _content(self, text: str) -> None:
        """Adds content. White space around calls is none."""
        if self._after_call:
            text = text.lstrip(WHITESPACE)
            self._after_call = not text
        body = text.rstrip(WHITESPACE)
        if body:
            self._events.append(Content(self._held + body))
            self._held = ""
        self._held += text[len(body) :]

    def _report(self, call: CallSource) -> None:
        """Announces a call as soon as it is certain, and passes its arguments on."""
        if not call.announced:
            return
        if not self._announced:
            limit = self._setting.max_calls
            self._announced = True
            self._dropped = limit is not None and self._num_calls >= limit
            self._held, self._after_call = "", True
            if not self._dropped:
                self._events.append(CallStart(self._num_calls, self.new_call_id(), call.name))
                self._num_calls += 1
        if (text := call.take_arguments()) and not self._dropped:
            self._events.append(CallArguments(self._num_calls - 1, text))

    def _close(self, call: CallSource, before: str = "") -> None:
        """Ends a call; one that never became certain is content, with the text `before` it."""
        self._report(call)
        if not self._announced:
            self._content(before + call.raw)
        elif call.complete and not self._dropped:
            self._num_complete += 1
        self._announced = False


class ContentParser(AnswerParser):
    """For answers in no format: all text is content."""

    def _on_text(self, text: str) -> None:
        self._content(text)

    def _on_mark(self, mark: Mark) -> None:
        raise AssertionError(f"{mark.spelling!r} is no mark of plain text")


class ToolParser(AnswerParser):
    """Turns an answer into content and calls.

    Attributes:
        signs: What stands in the chat template, or else in the vocabulary, of a model that has the
            format.
        foreign_signs: What stands in the chat templates of other formats with the same signs.
        splits_reasoning: Whether the format marks reasoning too, and this parser splits it off.
        marks_calls: Whether calls are marked, so that other JSON cannot be taken for them.
    """

    signs: ClassVar[tuple[str, ...]] = ()
    foreign_signs: ClassVar[tuple[str, ...]] = ()
    splits_reasoning: ClassVar[bool] = False
    marks_calls: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def call_rules(cls, grammar: CallGrammar, *, many: bool) -> Rules:
        """The rule `calls`, and those that it needs: an answer that is calls alone, several if `many`."""

    @classmethod
    @abstractmethod
    def answer_rules(cls, grammar: CallGrammar, *, many: bool) -> Rules:
        """The rule `answer`, and those that it needs: words, calls, or words and calls.

        It leaves the model as free as it can, but for what would be read as a call.
        """

    @classmethod
    def form_rules(cls, grammar: CallGrammar) -> Rules:
        """The rule `formed`, and those that it needs: the form of an answer, as the format writes answers."""
        return {"formed": "@form"}

"""What the parsers of reasoning share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar, Literal

from ..tool_parsers.base import MarkLexer, Piece, Reasoning, Rules
from ..tool_parsers.constraint import CallGrammar

ReasoningState = Literal["possible", "open", "over"]
"""Where an answer begins: whether the model may still think, is about to, or has done so."""


class ReasoningParser(ABC):
    """Splits the reasoning off an answer and hands on the rest, for a tool parser to read.

    Args:
        special_tokens: The spellings of the tokenizer's special tokens.
        show_special_tokens: Whether special tokens that are no marks are part of the text.
        is_open: Whether the prompt has begun the reasoning.

    Attributes:
        marks: The spellings by which the format is known in an answer.
        signs: What stands in the chat template of a model that has the format.
        in_reasoning: Whether what comes next is reasoning.
    """

    marks: ClassVar[tuple[str, ...]] = ()
    signs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, special_tokens: Collection[str], *, show_special_tokens: bool, is_open: bool) -> None:
        self._lexer = MarkLexer(self.marks, special_tokens)
        self._show_special_tokens = show_special_tokens
        self.in_reasoning = is_open

    @classmethod
    @abstractmethod
    def state_after(cls, prompt: str, begun: str | None) -> ReasoningState:
        """Where a prompt leaves the reasoning; `begun` is what it holds of the answer, if any."""

    @classmethod
    @abstractmethod
    def rules(cls, grammar: CallGrammar, state: ReasoningState, *, optional: bool = True) -> Rules | None:
        """The rule `reasoning` of a grammar, and those that it needs; None if the reasoning is over.

        Args:
            grammar: See `tool_parsers.constraint`.
            state: Where the prompt leaves the reasoning.
            optional: Whether an answer need not think, where it is free to.
        """

    @abstractmethod
    def push(self, piece: Piece) -> list[Reasoning | Piece]:
        """Takes the next piece."""

    @abstractmethod
    def finish(self) -> list[Reasoning | Piece]:
        """Ends the answer."""

"""Reasoning between tags, as DeepSeek-R1, QwQ and Qwen3 write it; the prompt may hold the first one.

    <think>
    The user greets me.
    </think>

    Hello!

White space inside the tags and after them belongs to neither part. Format:
https://huggingface.co/deepseek-ai/DeepSeek-R1
"""

from __future__ import annotations

from collections.abc import Collection

from ..tool_parsers.base import WHITESPACE, Mark, Piece, Reasoning, Rules, Special
from ..tool_parsers.constraint import CallGrammar
from .base import ReasoningParser, ReasoningState

OPEN = "<think>"
CLOSE = "</think>"


class ThinkParser(ReasoningParser):
    """An answer thinks if it begins with the tag. Without the second tag, it is all reasoning."""

    marks = (OPEN, CLOSE)
    signs = (CLOSE,)

    def __init__(self, special_tokens: Collection[str], *, show_special_tokens: bool, is_open: bool) -> None:
        super().__init__(special_tokens, show_special_tokens=show_special_tokens, is_open=is_open)
        self._is_over = False
        self._has_thought = False
        self._held = ""  # white space that counts only if more follows it
        self._items: list[Reasoning | Piece] = []

    @classmethod
    def state_after(cls, prompt: str, begun: str | None) -> ReasoningState:
        if begun is not None:
            return "open" if begun.rfind(OPEN) > begun.rfind(CLOSE) else "over"
        # Anywhere but at its end the tags may be a user's words.
        end = prompt.rstrip(WHITESPACE)
        if end.endswith(OPEN):
            return "open"
        return "over" if end.endswith(CLOSE) else "possible"

    @classmethod
    def rules(cls, grammar: CallGrammar, state: ReasoningState, *, optional: bool = True) -> Rules | None:
        if state == "over":
            return None
        reasoning = r"thought /\n{0,2}/"
        if state == "possible":
            reasoning = f"({grammar.mark(OPEN)} {reasoning}){'?' if optional else ''}"
        return {"reasoning": reasoning, **grammar.thoughts_until("thought", CLOSE)}

    def push(self, piece: Piece) -> list[Reasoning | Piece]:
        if self._is_over:
            self._rest(piece)
        else:
            for item in self._lexer.push(piece):
                self._take(item)
            if self._is_over:
                for item in self._lexer.flush():
                    self._take(item)
        return self._drain()

    def finish(self) -> list[Reasoning | Piece]:
        for item in self._lexer.flush():
            self._take(item)
        if not self.in_reasoning and not self._is_over:
            self._be_over()
        return self._drain()

    def _take(self, item: Piece | Mark) -> None:
        if self._is_over:
            self._rest(_as_piece(item))
        elif isinstance(item, Mark) and item.spelling == CLOSE:
            self.in_reasoning, self._is_over, self._held = False, True, ""
            self._has_thought = True
        elif isinstance(item, Mark) and not self.in_reasoning:
            self.in_reasoning, self._held = True, ""
        elif self.in_reasoning:
            self._think(_as_piece(item))
        elif isinstance(item, str) and not item.strip(WHITESPACE):
            self._held += item
        else:
            self._be_over()
            self._rest(_as_piece(item))

    def _think(self, piece: Piece) -> None:
        if isinstance(piece, Special):
            piece = piece.spelling if self._show_special_tokens else ""
        text = piece
        body = text.rstrip(WHITESPACE)
        if body and not self._has_thought:
            self._held, body = "", body.lstrip(WHITESPACE)
        if body:
            self._has_thought = True
            self._items.append(Reasoning(self._held + body))
            self._held = ""
        self._held += text[len(text.rstrip(WHITESPACE)) :]

    def _be_over(self) -> None:
        """The answer does not think: what was held back is its beginning."""
        self._is_over = True
        if self._held:
            self._items.append(self._held)
        self._held = ""

    def _rest(self, piece: Piece) -> None:
        """Hands a piece on, without the white space behind the second tag."""
        if self._has_thought and isinstance(piece, str):
            piece = piece.lstrip(WHITESPACE)
            if not piece:
                return
        self._has_thought = False
        self._items.append(piece)

    def _drain(self) -> list[Reasoning | Piece]:
        items, self._items = self._items, []
        return items


def _as_piece(item: Piece | Mark) -> Piece:
    """A mark that has no meaning where it stands."""
    if not isinstance(item, Mark):
        return item
    return Special(item.spelling) if item.special else item.spelling

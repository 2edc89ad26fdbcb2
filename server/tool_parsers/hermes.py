"""Calls as Hermes 2 Pro and Qwen 2.5 and 3 write them, each a JSON object between tags.

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Bonn"}}
    </tool_call>

Format: https://github.com/NousResearch/Hermes-Function-Calling
"""

from __future__ import annotations

from .base import WHITESPACE, Mark, ParserSetting, Rules, ToolParser
from .constraint import ANY_TEXT, CallGrammar
from .json_calls import CallReader

OPEN = "<tool_call>"
CLOSE = "</tool_call>"


def _begun_call(grammar: CallGrammar) -> str:
    """What follows the first tag of a call."""
    return rf'"\n" {grammar.each_object("arguments")} "\n" {grammar.mark(CLOSE)}'


class HermesParser(ToolParser):
    """Text is content; what stands between the tags and is no call is content, too."""

    marks = (OPEN, CLOSE)
    signs = (OPEN,)
    foreign_signs = ("<function=", "<arg_key>")  # Qwen3-Coder and GLM, which write no JSON there

    @classmethod
    def call_rules(cls, grammar: CallGrammar, *, many: bool) -> Rules:
        more = r' ("\n" call)*' if many else ""
        return {
            "calls": f"call{more}",
            "call": f"{grammar.mark(OPEN)} begun_call",
            "begun_call": _begun_call(grammar),
        }

    @classmethod
    def answer_rules(cls, grammar: CallGrammar, *, many: bool) -> Rules:
        return {
            "answer": "(words_open begun_call)* words" if many else "words | words_open begun_call",
            **grammar.until("words_open", OPEN),
            "words": ANY_TEXT,
            "begun_call": _begun_call(grammar),
        }

    def __init__(self, setting: ParserSetting) -> None:
        super().__init__(setting)
        self._call: CallReader | None = None
        self._before = ""
        self._closing = False  # the object is read, its closing tag is not

    def _on_text(self, text: str) -> None:
        while text:
            if self._call is not None:
                text = text[self._call.push(text) :]
                self._report(self._call)
                if self._call.failed or self._call.finished:
                    self._end_call()
            elif self._closing:
                text = text.lstrip(WHITESPACE)
                self._closing = not text
            else:
                self._content(text)
                return

    def _on_mark(self, mark: Mark) -> None:
        if self._call is not None and self._call.in_string and not mark.special:
            self._on_text(mark.spelling)
            return
        if self._call is not None:
            self._end_call()
        if mark.spelling == OPEN:
            self._call, self._before, self._closing = CallReader(), self._shown(mark), False
        elif not self._closing:
            self._content(self._shown(mark))
        else:
            self._closing = False

    def _end_call(self) -> None:
        assert self._call is not None
        self._closing = self._call.announced and not self._call.failed
        self._close(self._call, self._before)
        self._call = None

    def _end(self) -> None:
        if self._call is not None:
            self._end_call()

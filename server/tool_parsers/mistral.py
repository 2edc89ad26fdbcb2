"""Calls as Mistral's models write them, behind `[TOOL_CALLS]`: an array, or later name by name.

    [TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Bonn"}, "id": "q7Hd0fW2x"}]
    [TOOL_CALLS]get_weather[CALL_ID]q7Hd0fW2x[ARGS]{"city": "Bonn"}

The second form is that of tokenizers from version 11 on; its `[CALL_ID]` is there in some versions,
and `[ARGS]` in most. Format: https://docs.mistral.ai/cookbooks/concept-deep-dive-tokenization-tool_calling
"""

from __future__ import annotations

import re
import secrets
import string

from .base import WHITESPACE, Mark, ParserSetting, Rules, ToolParser
from .constraint import ANY_TEXT, CallGrammar, quote
from .json_calls import ArgumentsReader, CallReader

TOOL_CALLS = "[TOOL_CALLS]"
ARGS = "[ARGS]"
CALL_ID = "[CALL_ID]"

_ID_LENGTH = 9  # the templates refuse other ids, so the models' own, which come late, are left out
_HEAD = re.compile(r"\s*(?:(?P<name>[A-Za-z0-9_.-]+)\s*(?:\[CALL_ID\]\s*[A-Za-z0-9]*\s*)?(?:\[ARGS\]\s*)?)?")
_MAX_HEAD = 200  # characters


def _begun_calls(grammar: CallGrammar, *, many: bool) -> Rules:
    """What follows the first mark."""
    if not grammar.is_token(ARGS):
        more = ' (", " call)*' if many else ""
        return {"begun_calls": f'"[" call{more} "]"', "call": grammar.each_object("arguments")}
    more = f" ({grammar.mark(TOOL_CALLS)} call)*" if many else ""
    each = grammar.each(lambda name: f"{quote(name)} {grammar.mark(ARGS)}")
    return {"begun_calls": f"call{more}", "call": each}


class MistralParser(ToolParser):
    """Text before the first mark, and what is no call behind a mark, is content."""

    marks = (TOOL_CALLS, ARGS, CALL_ID)
    signs = (TOOL_CALLS,)

    @staticmethod
    def new_call_id() -> str:
        return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(_ID_LENGTH))

    @classmethod
    def call_rules(cls, grammar: CallGrammar, *, many: bool) -> Rules:
        return {"calls": f"{grammar.mark(TOOL_CALLS)} begun_calls", **_begun_calls(grammar, many=many)}

    @classmethod
    def answer_rules(cls, grammar: CallGrammar, *, many: bool) -> Rules:
        return {
            "answer": "words | words_mark begun_calls",
            "words": ANY_TEXT,
            **grammar.until("words_mark", TOOL_CALLS),
            **_begun_calls(grammar, many=many),
        }

    def __init__(self, setting: ParserSetting) -> None:
        super().__init__(setting)
        self._call: ArgumentsReader | None = None
        self._state = "content"  # or "head", "array", "after": what text is that is in no call
        self._has_calls = False  # since the last mark
        self._head = ""  # what stands between the mark and the arguments
        self._before = ""  # the same as it is shown, should it be no call

    def _on_text(self, text: str) -> None:
        while text:
            if self._call is not None:
                text = text[self._call.push(text) :]
                self._report(self._call)
                if self._call.failed or self._call.finished:
                    self._end_call()
            elif self._state == "head":
                text = self._take_in_head(text)
            elif self._state == "array":
                text = self._take_in_array(text)
            elif self._state == "after" and not text.strip(WHITESPACE):
                return
            else:
                self._state = "content"
                self._content(text)
                return

    def _take_in_head(self, text: str) -> str:
        """Takes one character behind the mark; returns the rest."""
        character = text[0]
        named = _HEAD.fullmatch(self._head)
        if character == "{" and named is not None:
            name = named["name"]
            self._call = CallReader() if name is None else ArgumentsReader(name)
            return text
        if character == "[" and not self._head.strip(WHITESPACE):
            self._state = "array"
        elif len(self._head) >= _MAX_HEAD or not _HEAD.fullmatch(self._head + character):
            self._give_up()
            return text
        self._head += character
        self._before += character
        return text[1:]

    def _take_in_array(self, text: str) -> str:
        """Takes one character between the calls of an array; returns the rest."""
        character = text[0]
        if character == "{":
            self._call = CallReader()
            return text
        if character == "]":
            self._before += character
            self._give_up()
            self._state = "after"
        elif character in WHITESPACE or character == ",":
            self._before += character
        else:
            self._give_up()
            return text
        return text[1:]

    def _on_mark(self, mark: Mark) -> None:
        if self._call is not None and self._call.in_string and not mark.special:
            self._on_text(mark.spelling)
            return
        if self._call is not None:
            self._end_call()
        if mark.spelling == TOOL_CALLS:
            self._give_up()
            self._state, self._head, self._before = "head", "", self._shown(mark)
            self._has_calls = False
        elif self._state == "head" and _HEAD.fullmatch(self._head + mark.spelling):
            self._head += mark.spelling
            self._before += self._shown(mark)
        else:
            self._give_up()
            self._content(self._shown(mark))

    def _give_up(self) -> None:
        """What was taken for the beginning of calls is content; what stands between calls is nothing."""
        if not self._has_calls:
            self._content(self._before)
        self._state, self._before = "content", ""

    def _end_call(self) -> None:
        assert self._call is not None
        self._has_calls |= self._call.announced
        ended_well = self._call.announced and not self._call.failed
        self._close(self._call, self._before)
        self._call, self._before = None, ""
        if not ended_well:
            self._state = "content"
        elif self._state == "head":
            self._state = "after"

    def _end(self) -> None:
        if self._call is not None:
            self._end_call()
        self._give_up()

"""Calls as Llama 3.1 to 3.3 write them: bare JSON, at times behind `<|python_tag|>`.

    {"name": "get_weather", "parameters": {"city": "Bonn"}}; {"name": "get_time", "parameters": {}}

Format: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/
"""

from __future__ import annotations

from .base import WHITESPACE, Mark, ParserSetting, Rules, ToolParser
from .constraint import CallGrammar
from .json_calls import CallReader

PYTHON_TAG = "<|python_tag|>"
SEPARATORS = WHITESPACE + ";,"

_WORDS = r"[ \t\r\n]*([^ \t\r\n{](?s:.*))?"


class Llama3JsonParser(ToolParser):
    """Calls stand at the beginning of an answer or behind the tag, one after another.

    As nothing else tells them from other JSON, they must name functions of the request.
    """

    marks = (PYTHON_TAG,)
    signs = ("<|start_header_id|>", '"parameters": ')
    marks_calls = False

    @classmethod
    def call_rules(cls, grammar: CallGrammar, *, many: bool) -> Rules:
        more = ' ("; " call)*' if many else ""
        return {"calls": f"call{more}", "call": grammar.each_object("parameters")}

    @classmethod
    def answer_rules(cls, grammar: CallGrammar, *, many: bool) -> Rules:
        """Words that begin like a call, with a brace, are not allowed."""
        return {
            "answer": "words | calls | words_tag calls",
            "words": f"/{_WORDS}/",
            **grammar.until("words_tag", PYTHON_TAG, _WORDS),
            **cls.call_rules(grammar, many=many),
        }

    def __init__(self, setting: ParserSetting) -> None:
        super().__init__(setting)
        self._call: CallReader | None = None
        self._may_call = True  # a call may begin here
        self._before = ""  # what came since the last call, or before the first

    def _on_text(self, text: str) -> None:
        while text:
            if self._call is not None:
                text = text[self._call.push(text) :]
                self._report(self._call)
                if self._call.failed or self._call.finished:
                    self._end_call()
            elif self._may_call:
                following = text.lstrip(SEPARATORS if self._num_calls else WHITESPACE)
                self._before += text[: len(text) - len(following)]
                text = following
                if text.startswith("{"):
                    self._call = CallReader(self._setting.functions)
                elif text:
                    self._be_content()
            else:
                self._content(text)
                return

    def _on_mark(self, mark: Mark) -> None:
        if self._call is not None and self._call.in_string and not mark.special:
            self._on_text(mark.spelling)
            return
        self._end()
        self._may_call, self._before = True, self._shown(mark)

    def _end_call(self) -> None:
        assert self._call is not None
        self._may_call = self._call.announced and not self._call.failed
        self._close(self._call, self._before)
        self._call, self._before = None, ""

    def _be_content(self) -> None:
        self._may_call = False
        self._content(self._before)
        self._before = ""

    def _end(self) -> None:
        if self._call is not None:
            self._end_call()
        if self._may_call and not self._num_calls:
            self._be_content()

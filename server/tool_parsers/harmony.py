"""Harmony, the format of gpt-oss: an answer is a row of messages, each in a channel.

    <|channel|>analysis<|message|>I need the weather.<|end|><|start|>assistant<|channel|>commentary
    to=functions.get_weather <|constrain|>json<|message|>{"city": "Bonn"}<|call|>

(in one line). Analysis is reasoning; what is addressed to a function is a call; commentary that is
addressed to nobody, and the final channel, are content. Format:
https://cookbook.openai.com/articles/openai-harmony
"""

from __future__ import annotations

import re

from .base import WHITESPACE, Mark, ParserSetting, Reasoning, Rules, ToolParser
from .constraint import ANY_TEXT, CallGrammar, quote
from .json_calls import ArgumentsReader

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"

_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=functions\.([^\s<]+)")
_MAX_HEADER = 500  # characters
_UNMARKED = r"/([^<]|<[^|])*<?/"  # a text without marks, where marks are text


def _message(grammar: CallGrammar, channel: str, text: str) -> str:
    """A message; `text` is the term for what it says."""
    return f"{grammar.mark(CHANNEL)} {quote(channel)} {grammar.mark(MESSAGE)} {text}"


def _next(grammar: CallGrammar) -> str:
    return f" {grammar.mark(START)} {quote('assistant')}"


def _end(grammar: CallGrammar, spelling: str) -> str:
    """The mark at the end of an answer, which the model may leave out."""
    mark = grammar.last_mark(spelling)
    return f" {mark}?" if mark else ""


def _messages(grammar: CallGrammar) -> Rules:
    """The rules `thoughts`, a message of the analysis channel, and `thought`, its text up to its end."""
    thoughts = _message(grammar, "analysis", "thought") + _next(grammar)
    return {"thoughts": thoughts, **grammar.thoughts_until("thought", END)}


def _call(grammar: CallGrammar) -> str:
    def head(name: str) -> str:
        to = quote(f"commentary to=functions.{name} ")
        return (
            f"{grammar.mark(CHANNEL)} {to} {grammar.mark(CONSTRAIN)} {quote('json')} {grammar.mark(MESSAGE)}"
        )

    return grammar.each(head, grammar.last_mark(CALL))


class HarmonyParser(ToolParser):
    """The prompt ends with `<|start|>assistant`, so that an answer begins within a header."""

    marks = (START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN)
    signs = (CHANNEL, MESSAGE)
    splits_reasoning = True

    @classmethod
    def call_rules(cls, grammar: CallGrammar, *, many: bool) -> Rules:
        """One call, as the token behind it ends the answer; thoughts may come before it."""
        return {"calls": "thoughts? call", "call": _call(grammar), **_messages(grammar)}

    @classmethod
    def answer_rules(cls, grammar: CallGrammar, *, many: bool) -> Rules:
        """Messages, of which the last one is a call or has the final channel; of calls, one."""
        text = ANY_TEXT if grammar.is_token(MESSAGE) else _UNMARKED
        rules = {
            "answer": "(thoughts | preamble)* final",
            "preamble": _message(grammar, "commentary", "said") + _next(grammar),
            **grammar.until("said", END),
            "final": _message(grammar, "final", text) + _end(grammar, RETURN),
            **_messages(grammar),
        }
        if grammar.has_functions:
            rules |= {"answer": "(thoughts | preamble)* (final | call)", "call": _call(grammar)}
        return rules

    @classmethod
    def form_rules(cls, grammar: CallGrammar) -> Rules:
        final = _message(grammar, "final", "@form") + _end(grammar, RETURN)
        return {"formed": f"thoughts? {final}", **_messages(grammar)}

    def __init__(self, setting: ParserSetting) -> None:
        super().__init__(setting)
        self._header: str | None = None if setting.continues else ""  # of the message that begins
        self._kind = "content"  # or "reasoning", "call", "nothing": what the text of a message is
        self._call: ArgumentsReader | None = None
        self._is_first = True  # whether it is the header that the prompt has begun
        self._begins = True  # whether the message has said nothing yet
        self._leading = ""  # the white space with which it begins
        self._said: set[str] = set()  # the kinds that earlier messages had

    @property
    def in_reasoning(self) -> bool:
        return self._header is None and self._kind == "reasoning"

    def _on_text(self, text: str) -> None:
        if self._header is not None:
            self._header += text
            if len(self._header) > _MAX_HEADER:
                self._be_content(self._header)
        elif self._call is not None:
            rest = text[self._call.push(text) :]
            self._report(self._call)
            if self._call.failed or self._call.finished:
                self._end_call()
                self._begin_message("nothing")
                self._on_text(rest)
        elif self._kind != "nothing":
            self._say(text)
        elif text := text.lstrip(WHITESPACE):
            self._kind = "content"
            self._say(text)

    def _say(self, text: str) -> None:
        if self._begins:
            text = self._leading = self._leading + text
            if not text.strip(WHITESPACE):
                return  # a message of white space says nothing
            self._begins, self._leading = False, ""
            if self._kind in self._said:
                text = "\n" + text  # between two messages, also if there are calls between them
                self._after_call = False
        self._said.add(self._kind)
        if self._kind == "content":
            self._content(text)
        else:
            self._events.append(Reasoning(text))

    def _on_mark(self, mark: Mark) -> None:
        spelling = mark.spelling
        if self._call is not None and self._call.in_string and not mark.special:
            self._on_text(spelling)
            return
        if spelling in (END, CALL, RETURN):
            if self._call is not None and not self._call.raw.strip(WHITESPACE):
                self._call.be_empty()
            self._end()
            self._header = None
            self._begin_message("nothing")
        elif spelling == MESSAGE:
            self._read_header()
        elif spelling == CHANNEL and self._header is not None:
            self._header += spelling
        elif spelling in (START, CHANNEL):
            self._end()
            self._header, self._is_first = "" if spelling == START else spelling, False

    def _read_header(self) -> None:
        if self._header is None:
            return
        channel, recipient = _CHANNEL.search(self._header), _RECIPIENT.search(self._header)
        self._header = None
        if recipient is not None and self._setting.functions:
            self._begin_message("call")
            self._call = ArgumentsReader(recipient[1])
        elif channel is not None and channel[1] == "analysis" and self._setting.separate_reasoning:
            self._begin_message("reasoning")
        else:
            self._begin_message("content")

    def _begin_message(self, kind: str) -> None:
        self._kind, self._begins, self._leading = kind, True, ""

    def _be_content(self, text: str) -> None:
        """What was taken for a header is none."""
        self._header = None
        self._begin_message("content")
        self._say(text)

    def _end_call(self) -> None:
        assert self._call is not None
        self._close(self._call)
        self._call = None

    def _end(self) -> None:
        if self._call is not None:
            self._end_call()
        header = self._header
        if header is not None and self._is_first and CHANNEL not in header and header.strip(WHITESPACE):
            self._be_content(header)  # the model does not keep to the format

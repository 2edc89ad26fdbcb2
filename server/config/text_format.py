"""Protocol Buffers' text format, as far as configuration files use it: `name: value`, messages and lists.

https://protobuf.dev/reference/protobuf/textformat-spec/ describes it all; extensions and `Any` are refused.
What a field means, its type included, is for the reader of the message to say.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Union

from .plan import ConfigError

MAX_CHARACTERS = 1 << 20
MAX_DEPTH = 32

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n\f\v]+|\#[^\n]*)
  | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
  | (?P<number>-?\s*(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fF]?))
  | (?P<name>[A-Za-z_]\w*)
  | (?P<mark>[{}<>\[\]:,;])
    """,
    re.VERBOSE,
)

_ESCAPED = re.compile(
    r"""(?:[^\\]|\\(?:[abfnrtv\\'"]|[0-3][0-7]{2}|[0-7]{1,2}(?![0-7])|x[0-9a-fA-F]{2}))*""", re.DOTALL
)
"""A string whose escapes are those of the format that Python reads alike."""

CLOSERS = {"{": "}", "<": ">"}


@dataclass(frozen=True, slots=True)
class Word:
    """An enumeration's value, or true or false."""

    text: str


Value = Union[str, int, float, Word, "Message"]
Message = dict[str, list[Value]]
"""Every field with all its values, in their order."""


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    line: int


def parse_text(text: str, where: str) -> Message:
    """A message. Raises `ConfigError`, which begins with `where` and the line."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{where} has more than {MAX_CHARACTERS} characters")
    return _Parser(_tokens(text, where), where).message(None, 0)


def _tokens(text: str, where: str) -> list[_Token]:
    tokens: list[_Token] = []
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ConfigError(f"{where}, line {line}: {text[position : position + 20]!r} is not understood")
        kind = str(match.lastgroup)
        if kind != "space":
            tokens.append(_Token(kind, match[0], line))
        line += match[0].count("\n")
        position = match.end()
    return tokens


class _Parser:
    def __init__(self, tokens: list[_Token], where: str) -> None:
        self._tokens = tokens
        self._where = where
        self._place = 0

    def message(self, closer: str | None, depth: int) -> Message:
        """The fields up to the closing mark, or to the end."""
        if depth > MAX_DEPTH:
            raise self._error("messages are nested too deeply")
        message: Message = {}
        while True:
            token = self._peek()
            if token is None or token.text == closer:
                if (token is None) != (closer is None):
                    raise self._error(f"{closer} is missing")
                self._place += closer is not None
                return message
            name = self._take("name", "the name of a field")
            message.setdefault(name.text, []).extend(self._values(depth))
            if (token := self._peek()) is not None and token.text in (",", ";"):
                self._place += 1

    def _values(self, depth: int) -> list[Value]:
        token = self._peek()
        has_colon = token is not None and token.text == ":"
        self._place += has_colon
        token = self._peek()
        if token is not None and token.text == "[":
            self._place += 1
            return self._list(depth)
        if not has_colon and (token is None or token.text not in CLOSERS):
            raise self._error("a field's name must be followed by a colon or a message")
        return [self._value(depth)]

    def _list(self, depth: int) -> list[Value]:
        values: list[Value] = []
        while True:
            token = self._peek()
            if token is not None and token.text == "]":
                self._place += 1
                return values
            if values:
                if token is None or token.text != ",":
                    raise self._error("a list's values must be separated by commas")
                self._place += 1
            values.append(self._value(depth))

    def _value(self, depth: int) -> Value:
        token = self._peek()
        if token is None:
            raise self._error("a value is missing")
        if token.kind == "string":
            return self._string()
        self._place += 1
        if token.text in CLOSERS:
            return self.message(CLOSERS[token.text], depth + 1)
        if token.kind == "number":
            try:
                return _number(token.text)
            except ValueError:
                raise self._error(f"{token.text[:40]} is no number") from None
        if token.kind == "name":
            return Word(token.text)
        self._place -= 1
        raise self._error(f"{token.text} is no value")

    def _string(self) -> str:
        """Strings that stand one after another are one."""
        parts: list[bytes] = []
        while (token := self._peek()) is not None and token.kind == "string":
            if _ESCAPED.fullmatch(token.text[1:-1]) is None:
                raise self._error(f"{token.text[:40]} holds an escape that is none")
            self._place += 1
            try:
                part, _ = codecs.escape_decode(token.text[1:-1].encode())
            except ValueError as error:
                raise self._error(f"{token.text[:40]} is no text: {error}") from None
            parts.append(part)
        try:
            return b"".join(parts).decode()
        except UnicodeDecodeError:
            raise self._error("a text is not UTF-8") from None

    def _peek(self) -> _Token | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _take(self, kind: str, what: str) -> _Token:
        token = self._peek()
        if token is None or token.kind != kind:
            raise self._error(f"{what} is expected" + ("" if token is None else f", not {token.text[:40]!r}"))
        self._place += 1
        return token

    def _error(self, text: str) -> ConfigError:
        place = min(self._place, len(self._tokens) - 1)
        line = self._tokens[place].line if self._tokens else 1
        return ConfigError(f"{self._where}, line {line}: {text}")


def _number(text: str) -> int | float:
    text = re.sub(r"\s", "", text)
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    if digits[:2].lower() == "0x":
        return sign * int(digits, 16)
    if digits.isdecimal():
        return sign * int(digits, 8 if digits.startswith("0") else 10)  # a leading zero means octal
    return sign * float(digits.rstrip("fF"))

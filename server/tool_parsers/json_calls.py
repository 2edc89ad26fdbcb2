"""Calls written in JSON, read character by character: what is certain can be passed on at once."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import NoReturn

from .base import WHITESPACE

CALL_KEYS = ("name", "arguments", "parameters")
OTHER_KEYS = ("id", "type")  # models write them beside the others; they say nothing new

_CLASSES = dict.fromkeys("123456789", "9") | {"0": "0", "-": "-", "+": "+", ".": ".", "e": "e", "E": "e"}
_DIGITS = {"0": "integer", "9": "integer"}
# RFC 8259, section 6: from where in a number which character leads where.
_NUMBER: dict[str, dict[str, str]] = {
    "start": {"-": "minus", "0": "zero", "9": "integer"},
    "minus": {"0": "zero", "9": "integer"},
    "zero": {".": "point", "e": "e"},
    "integer": _DIGITS | {".": "point", "e": "e"},
    "point": {"0": "fraction", "9": "fraction"},
    "fraction": {"0": "fraction", "9": "fraction", "e": "e"},
    "e": {"+": "sign", "-": "sign", "0": "exponent", "9": "exponent"},
    "sign": {"0": "exponent", "9": "exponent"},
    "exponent": {"0": "exponent", "9": "exponent"},
}
_NUMBER_ENDS = ("zero", "integer", "fraction", "exponent")
_LITERALS = {"t": "true", "f": "false", "n": "null"}
_HEX = frozenset("0123456789abcdefABCDEF")
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


class JsonError(ValueError):
    """The next character cannot stand where it does."""


class JsonScanner:
    """Checks one JSON object as its characters come, without recursion.

    Of control characters within strings, which JSON forbids and models write, it makes escapes.

    Attributes:
        finished: Whether the object is closed.
        key: The member of the object whose value begins, goes on, or has just ended.
        in_value: Whether the last character belongs to that value.
        value_started: Whether it is the value's first one.
        value_ended: Whether the value has ended with it or, a number, right before it.
    """

    def __init__(self) -> None:
        self.finished = False
        self.key = ""
        self.in_value = False
        self.value_started = False
        self.value_ended = False
        self._state = "object"
        self._open: list[str] = []
        self._in_value = False
        self._is_key = False
        self._key: list[str] = []
        self._number = ""
        self._literal = ""
        self._num_hex = 0

    @property
    def in_string(self) -> bool:
        """Whether a string is open."""
        return self._state in ("string", "escape", "hex")

    def push(self, character: str) -> str:
        """Takes the next character; returns it as it stands in valid JSON. Raises `JsonError`."""
        self.value_started = self.value_ended = False
        if self._state == "number" and character not in _CLASSES:
            if self._number not in _NUMBER_ENDS:
                raise JsonError
            self._end_value()
        was_in_value = self._in_value
        shown = self._take(character)
        self.in_value = was_in_value or self._in_value
        return shown

    def _take(self, character: str) -> str:
        match self._state:
            case "string" | "escape" | "hex":
                return self._take_in_string(character)
            case "number":
                self._number = _step(self._number, character)
            case "literal":
                if not self._literal.startswith(character):
                    raise JsonError
                self._literal = self._literal[1:]
                if not self._literal:
                    self._end_value()
            case _:
                if character not in WHITESPACE:
                    self._take_between(character)
        return character

    def _take_in_string(self, character: str) -> str:
        shown = character
        if self._state == "string":
            if character == '"':
                self._end_string()
                return shown
            if character == "\\":
                self._state = "escape"
            elif character < " ":
                shown = _ESCAPES.get(character) or f"\\u{ord(character):04x}"
        elif self._state == "escape":
            if character not in '"\\/bfnrtu':
                raise JsonError
            self._num_hex = 4
            self._state = "hex" if character == "u" else "string"
        else:
            if character not in _HEX:
                raise JsonError
            self._num_hex -= 1
            if not self._num_hex:
                self._state = "string"
        if self._is_key and len(self._open) == 1:
            self._key.append(shown)
        return shown

    def _end_string(self) -> None:
        if not self._is_key:
            self._end_value()
            return
        self._state = "colon"
        if len(self._open) == 1:
            self.key = json.loads(f'"{"".join(self._key)}"')

    def _take_between(self, character: str) -> None:
        """A character outside of strings, numbers and literals."""
        state = self._state
        if state == "object" and character == "{":
            self._begin_container(character)
        elif state in ("key", "key or end") and character == '"':
            self._is_key, self._state = True, "string"
            self._key.clear()
        elif state == "colon" and character == ":":
            self._state = "value"
        elif state == "after" and character == ",":
            self._state = "key" if self._open[-1] == "{" else "value"
        elif state in ("after", "key or end", "value or end") and self._open[-1] + character in ("{}", "[]"):
            self._open.pop()
            self._end_value()
        elif state in ("value", "value or end"):
            self._begin_value(character)
        else:
            raise JsonError

    def _begin_value(self, character: str) -> None:
        if len(self._open) == 1:
            self._in_value = self.value_started = True
        if character in "{[":
            self._begin_container(character)
        elif character == '"':
            self._is_key, self._state = False, "string"
        elif character in _LITERALS:
            self._literal, self._state = _LITERALS[character][1:], "literal"
        else:
            self._number, self._state = _step("start", character), "number"

    def _begin_container(self, character: str) -> None:
        self._open.append(character)
        self._state = "key or end" if character == "{" else "value or end"

    def _end_value(self) -> None:
        self._state = "after" if self._open else "end"
        self.finished = not self._open
        if len(self._open) == 1:
            self._in_value = False
            self.value_ended = True


def _step(state: str, character: str) -> str:
    following = _NUMBER[state].get(_CLASSES.get(character, ""))
    if following is None:
        raise JsonError
    return following


class ArgumentsReader:
    """Reads the arguments of a call whose name is known: one JSON object, and nothing else.

    Attributes:
        raw: The text so far.
        name: The function's name; empty until it is known.
        announced: Whether this is certain to be a call.
        complete: Whether the arguments are whole.
        finished: Whether the object is closed, so that no more text is taken.
        failed: Whether the text is no such object, so that no more text is taken.
    """

    def __init__(self, name: str) -> None:
        self.raw = ""
        self.name = name
        self.announced = False
        self.complete = False
        self.finished = False
        self.failed = False
        self._scanner = JsonScanner()
        self._new: list[str] = []

    @property
    def in_string(self) -> bool:
        """Whether a string is open, in which marks are text."""
        return self._scanner.in_string

    def push(self, text: str) -> int:
        """Takes text as far as it belongs to the object; returns how many characters."""
        num_taken = 0
        try:
            for character in text:
                shown = self._scanner.push(character)
                num_taken += 1
                self._take(character, shown)
                if self._scanner.finished:
                    self.finished = True
                    self._finish()
                    break
        except JsonError:
            self.failed = True
        self.raw += text[:num_taken]
        return num_taken

    def take_arguments(self) -> str:
        """The arguments since the last time."""
        text = "".join(self._new)
        self._new.clear()
        return text

    def be_empty(self) -> None:
        """Nothing has come, and nothing will: a call without arguments."""
        self._new = ["{}"]
        self.announced = self.complete = True

    def _take(self, character: str, shown: str) -> None:
        if self.announced or character not in WHITESPACE:
            self.announced = True
            self._new.append(shown)

    def _finish(self) -> None:
        self.complete = True


class CallReader(ArgumentsReader):
    """Reads a call as one object, `{"name": ..., "arguments": {...}}`, in whatever order.

    Args:
        functions: If given, an object that names no such function, or has further keys, is no
            call. For formats that do not mark their calls.
    """

    def __init__(self, functions: Collection[str] | None = None) -> None:
        super().__init__("")
        self._functions = functions
        self._seen: set[str] = set()
        self._kind = ""
        self._value: list[str] = []
        self._has_object = False

    def _take(self, character: str, shown: str) -> None:
        scanner = self._scanner
        if scanner.value_started:
            self._begin_member(scanner.key, character)
        if scanner.in_value and self._kind:
            (self._value if self._kind == "name" else self._new).append(shown)
        if scanner.value_ended:
            self._end_member()

    def _begin_member(self, key: str, character: str) -> None:
        kind = "arguments" if key == "parameters" else key
        self._kind = kind if key in CALL_KEYS else ""
        if key not in CALL_KEYS and self._functions is not None and key not in OTHER_KEYS:
            _refuse()
        if kind in self._seen and self._kind:
            _refuse()
        self._seen.add(kind)
        if kind == "name" and character != '"':
            _refuse()
        if kind == "arguments":
            if character == "n":
                self._kind = "null"
            elif character != "{":
                _refuse()
            else:
                self._has_object = True
                self.announced = bool(self.name)

    def _end_member(self) -> None:
        if self._kind == "name":
            self.name = json.loads("".join(self._value))
            if not self.name or (self._functions is not None and self.name not in self._functions):
                _refuse()
            self.announced = self._has_object
        elif self._kind == "arguments":
            self.complete = True
        elif self._kind == "null":
            self._new = ["{}"]
        self._kind = ""

    def _finish(self) -> None:
        """At the end, a name alone is a call of a function that takes nothing."""
        if self.announced:
            return
        if not self.name or (self._functions is not None and "arguments" not in self._seen):
            self.failed = True
            return
        self.be_empty()


def _refuse() -> NoReturn:
    raise JsonError

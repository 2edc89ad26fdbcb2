"""Reading the fields of a message in text format: each with its type, and none that is not asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from .plan import ConfigError
from .text_format import Message, Value, Word

T = TypeVar("T", str, int, float)


class Fields:
    """A message whose fields are taken one by one; `done` refuses what is left.

    Args:
        message: The fields.
        where: Its place, for messages.
    """

    def __init__(self, message: Message, where: str) -> None:
        self._left = dict(message)
        self._where = where

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        return self._one(name, str, default, "a string")

    def integer(self, name: str, default: int = 0) -> int:
        """A whole number."""
        return self._one(name, int, default, "a whole number")

    def flag(self, name: str) -> bool:
        """true or false; false if it is not there."""
        values = self._left.pop(name, [])
        words = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
        if len(values) > 1:
            raise self.error(f"{name} stands there {len(values)} times")
        if not values:
            return False
        value = values[0]
        if isinstance(value, Word) and value.text in words:
            return words[value.text]
        if isinstance(value, int) and value in (0, 1):
            return bool(value)
        raise self.error(f"{name} must be true or false")

    def word(self, name: str, known: Sequence[str], default: str) -> str:
        """One of an enumeration's values."""
        values = self._left.pop(name, [])
        if not values:
            return default
        value = values[-1]
        shown = value.text if isinstance(value, Word) else repr(value)[:80]
        if len(values) > 1 or not isinstance(value, Word) or value.text not in known:
            raise self.error(f"{name} {shown} cannot be honoured; there are {', '.join(known)}")
        return value.text

    def integers(self, name: str) -> tuple[int, ...]:
        """Whole numbers."""
        values = self._left.pop(name, [])
        found = tuple(value for value in values if isinstance(value, int))
        if len(found) < len(values):
            raise self.error(f"{name} must be whole numbers")
        return found

    def message(self, name: str) -> Fields | None:
        """A message, if it is there."""
        found = self.messages(name)
        if len(found) > 1:
            raise self.error(f"{name} stands there {len(found)} times")
        return found[0] if found else None

    def messages(self, name: str) -> list[Fields]:
        """Messages."""
        found: list[Fields] = []
        for number, value in enumerate(self._left.pop(name, [])):
            if not isinstance(value, dict):
                raise self.error(f"{name} must be a message")
            found.append(Fields(value, f"{self._where}: {name}[{number}]"))
        return found

    def pairs(self, name: str) -> dict[str, Fields]:
        """A map from texts to messages."""
        found: dict[str, Fields] = {}
        for entry in self.messages(name):
            key, value = entry.text("key"), entry.message("value")
            entry.done()
            if value is None:
                raise self.error(f"{name}[{key!r}] has no value")
            if key in found:
                raise self.error(f"{name}[{key!r}] stands there twice")
            value._where = f"{self._where}: {name}[{key!r}]"
            found[key] = value
        return found

    def done(self) -> None:
        """Refuses what nobody has taken, as it cannot be honoured; empty texts and false ask for nothing."""
        for name, values in self._left.items():
            if any(not _asks_for_nothing(value) for value in values):
                raise self.error(f"{name} cannot be honoured")

    def error(self, text: str) -> ConfigError:
        """What is wrong, with its place."""
        return ConfigError(f"{self._where}: {text}")

    def _one(self, name: str, kind: type[T], default: T, what: str) -> T:
        values = self._left.pop(name, [])
        if not values:
            return default
        value = values[0]
        if len(values) > 1:
            raise self.error(f"{name} stands there {len(values)} times")
        if not isinstance(value, kind):
            raise self.error(f"{name} must be {what}")
        return value


def _asks_for_nothing(value: Value) -> bool:
    return value == "" or (isinstance(value, Word) and value.text in ("false", "False", "f"))

"""Stop strings across token boundaries."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Lets text through up to the first stop string.

    Text that may turn out to be the beginning of a stop string is held back until it is decided.

    Args:
        stops: Non-empty strings; may be none.
        include: Whether the stop string itself is let through.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str, *, check: bool = True) -> str:
        """Takes new text; returns what can be given out. Sets `matched` at a stop string.

        With `check` False the text, and what was held back, goes through unseen.
        """
        if not self._stops:
            return text
        held, self._held = self._held + text, ""
        if not check:
            return held
        found = [(place, stop) for stop in self._stops if (place := held.find(stop)) >= 0]
        if found:
            place, self.matched = min(found, key=lambda match: match[0])
            return held[: place + len(self.matched)] if self._include else held[:place]
        keep = max(_overlap(held, stop) for stop in self._stops)
        if keep:
            held, self._held = held[:-keep], held[-keep:]
        return held

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0

"""The chunks of a stream: only what is new is encoded for each of them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..sse import event
from .protocol import Usage


class ChunkEncoder:
    """Encodes choices as events of their own, around an envelope that is encoded once."""

    def __init__(self, chunk: msgspec.Struct, usage: Callable[[], Usage] | None = None) -> None:
        """Takes a chunk without choices and, if each chunk shall have the usage so far, where to get it.

        (Within JSON strings, quotes bear a backslash.)
        """
        self._chunk, self._usage = chunk, usage
        head, _, tail = msgspec.json.encode(chunk).rpartition(b'"choices":[]')
        self._head = b"data: " + head + b'"choices":['
        self._tail = b"]" + tail + b"\n\n"
        self._encoder = msgspec.json.Encoder()

    def __call__(self, choice: msgspec.Struct) -> bytes:
        """The event that carries one choice."""
        if self._usage is not None:
            chunk = msgspec.structs.replace(self._chunk, choices=[choice], usage=self._usage())
            return event(self._encoder.encode(chunk))
        return self._head + self._encoder.encode(choice) + self._tail

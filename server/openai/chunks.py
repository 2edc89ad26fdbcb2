"""The chunks of a stream: only what is new is encoded for each of them."""

from __future__ import annotations

import msgspec


class ChunkEncoder:
    """Encodes choices as events of their own, around an envelope that is encoded once."""

    def __init__(self, chunk: msgspec.Struct) -> None:
        """Takes a chunk without choices. (Within JSON strings, quotes bear a backslash.)"""
        head, _, tail = msgspec.json.encode(chunk).rpartition(b'"choices":[]')
        self._head = b"data: " + head + b'"choices":['
        self._tail = b"]" + tail + b"\n\n"
        self._encoder = msgspec.json.Encoder()

    def __call__(self, choice: msgspec.Struct) -> bytes:
        """The event that carries one choice."""
        return self._head + self._encoder.encode(choice) + self._tail

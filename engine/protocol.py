"""What the API process and the engine process say to each other: msgpack frames over a socket pair.

A frame is a length (uint32, little-endian) and one message. The engine sends one message per step,
not per token. Nothing is pickled.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from .. import errors
from ..errors import EngineError, QuireError
from .config import EngineConfig
from .engine import EngineRequest
from .scheduler import TokenDelta
from .stats import EngineStats

HEADER = struct.Struct("<I")
MAX_FRAME = 1 << 30


class Start(msgspec.Struct, tag="start"):
    """To the engine, once: build yourself."""

    config: EngineConfig


class Add(msgspec.Struct, tag="add"):
    """To the engine: one request, all of its choices."""

    requests: list[EngineRequest]


class Abort(msgspec.Struct, tag="abort"):
    """To the engine: end these requests."""

    request_ids: list[str]


class ResetPrefixCache(msgspec.Struct, tag="reset_prefix_cache"):
    """To the engine: forget cached prefixes."""


class Ready(msgspec.Struct, tag="ready"):
    """From the engine, once: the model is loaded."""


class Failed(msgspec.Struct, tag="failed"):
    """From the engine, last: it cannot start."""

    error: str
    message: str
    param: str | None = None

    def to_error(self) -> Exception:
        """The error as it was raised, if it is one of quire's, else an EngineError."""
        kind: Any = getattr(errors, self.error, None)
        if isinstance(kind, type) and issubclass(kind, QuireError):
            return kind(self.message, param=self.param)
        if self.error == "ValueError":
            return ValueError(self.message)
        return EngineError(f"the engine could not start: {self.message}")


class Refused(msgspec.Struct, tag="refused"):
    """From the engine: the queue is full."""

    request_ids: list[str]
    message: str


class Step(msgspec.Struct, tag="step"):
    """From the engine: what one step gave. Without deltas: a sign of life."""

    deltas: list[TokenDelta]
    stats: EngineStats


ToEngine = Start | Add | Abort | ResetPrefixCache
FromEngine = Ready | Failed | Refused | Step

_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_from_engine = msgspec.msgpack.Decoder(FromEngine)


def frame(message: ToEngine | FromEngine) -> bytes:
    """A message as it goes over the wire."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def decode_to_engine(body: bytes) -> ToEngine:
    """A frame's body, at the engine."""
    return _to_engine.decode(body)


def decode_from_engine(body: bytes) -> FromEngine:
    """A frame's body, at the API process."""
    return _from_engine.decode(body)

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
from .block_map import Run
from .config import EngineConfig
from .outputs import FinishReason
from .request import FinishedRequest
from .sampling_params import SamplingParams
from .stats import EngineStats
from .step_data import TokenDelta

HEADER = struct.Struct("<I")


class Start(msgspec.Struct, tag="start"):
    """To the engine, once: build yourself."""

    config: EngineConfig


class Add(msgspec.Struct, tag="add"):
    """To the engine: one request, all of its choices.

    Attributes:
        choice_ids: One id per choice.
        timeout: Seconds after `arrival_time` at which the engine ends it; None for never.
        tenant, weight: Whose it is, and the tenant's share of the engine: see `fair_queue`.
    """

    choice_ids: list[str]
    prompt_token_ids: list[int]
    params: SamplingParams
    priority: int
    cache_salt: str | None
    arrival_time: float
    tenant: str = ""
    weight: float = 1.0
    timeout: float | None = None


class Abort(msgspec.Struct, tag="abort"):
    """To the engine: end these requests.

    Attributes:
        reason: "stop" if a stop string was found in their text, "abort" if nobody wants them.
    """

    request_ids: list[str]
    reason: FinishReason


class ResetPrefixCache(msgspec.Struct, tag="reset_prefix_cache"):
    """To the engine: forget cached prefixes."""


class Watch(msgspec.Struct, tag="watch"):
    """To the engine: report what each block is doing, and from then on what changes."""


class Unwatch(msgspec.Struct, tag="unwatch"):
    """To the engine: report no more on blocks."""


class Ready(msgspec.Struct, tag="ready"):
    """From the engine, once: the model is loaded, and on a GPU all kernels are compiled and graphs captured.

    Attributes:
        max_model_len: Tokens of a request, which may be less than the model's own context.
    """

    max_model_len: int


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
    """From the engine: what one step gave.

    Attributes:
        finished: The figures of all requests that ended since the last step, aborted ones included.
    """

    deltas: list[TokenDelta]
    stats: EngineStats
    finished: list[FinishedRequest]


class Blocks(msgspec.Struct, tag="blocks"):
    """From the engine, a few times a second while it is watched: blocks that changed.

    Attributes:
        runs: Of neighbouring blocks; see `block_map.Run`.
        is_whole: Whether these are all blocks, as in a watch's first report.
    """

    runs: list[Run]
    is_whole: bool


class Alive(msgspec.Struct, tag="alive"):
    """From the engine, every second, also in the middle of a long step."""


ToEngine = Start | Add | Abort | ResetPrefixCache | Watch | Unwatch
FromEngine = Ready | Failed | Refused | Step | Blocks | Alive

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

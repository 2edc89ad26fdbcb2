"""What ranks of tensor parallelism say to each other.

While they start, rank 0 and each worker exchange small JSON objects over a socket pair, whose end is also
how a worker notices that rank 0 is gone. Then steps go as tensors over `torch.distributed`: a header of
fixed size says what comes next, and how large. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import struct
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..errors import EngineError, QuireError
from ..kernels.types import AttentionMetadata
from ..models.parallel import Ranks
from .config import EngineConfig

HEADER_FIELDS = 8
_LENGTH = struct.Struct("<I")

JsonObject = dict[str, Any]


def frame(message: JsonObject) -> bytes:
    """A message as it goes over the socket: its length (uint32, little-endian) and JSON."""
    body = json.dumps(message).encode()
    return _LENGTH.pack(len(body)) + body


def receive(sock: socket.socket) -> JsonObject | None:
    """The next message; None if the other end is closed."""
    header = _read_exactly(sock, _LENGTH.size)
    body = None if header is None else _read_exactly(sock, _LENGTH.unpack(header)[0])
    return None if body is None else json.loads(body)


def _read_exactly(sock: socket.socket, num_bytes: int) -> bytes | None:
    parts: list[bytes] = []
    while num_bytes:
        try:
            part = sock.recv(num_bytes)
        except ConnectionError:
            return None
        if not part:
            return None
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)


@dataclasses.dataclass(frozen=True, slots=True)
class StartWorker:
    """To a worker, first: which part of which model to load.

    Attributes:
        config: The engine's settings; `model` is a folder.
        rank: The worker's.
        rendezvous: The file over which ranks find each other.
        log_level: Of Python's logging.
    """

    config: EngineConfig
    rank: int
    rendezvous: str
    log_level: int

    def to_json(self) -> JsonObject:
        """As it goes over the socket."""
        return {**dataclasses.asdict(self), "config": dataclasses.asdict(self.config)}

    @classmethod
    def from_json(cls, message: JsonObject) -> StartWorker:
        """The inverse of `to_json`."""
        config = EngineConfig(**message["config"])
        return cls(config, message["rank"], message["rendezvous"], message["log_level"])


def failure(error: Exception) -> JsonObject:
    """From a worker, last: it cannot start."""
    return {"error": type(error).__name__, "message": str(error), "param": getattr(error, "param", None)}


def to_error(rank: int, message: JsonObject) -> Exception:
    """The error that a worker's failure is about: as it was raised, if it is one of quire's."""
    kind: Any = getattr(errors, message["error"], None)
    if isinstance(kind, type) and issubclass(kind, QuireError):
        return kind(message["message"], param=message["param"])
    if message["error"] == "ValueError":
        return ValueError(message["message"])
    return EngineError(f"rank {rank} could not start: {message['message']}")


class Command(IntEnum):
    """What all ranks do next."""

    FORWARD = 1
    LOGITS = 2


def send_forward(ranks: Ranks, input_ids: Tensor, meta: AttentionMetadata) -> None:
    """Announces a forward pass, and gives its inputs to the other ranks."""
    num_seqs, max_blocks = meta.block_tables.shape
    sizes = (input_ids.shape[0], num_seqs, max_blocks, meta.block_size, meta.max_query_len, meta.max_seq_len)
    ranks.announce(torch.tensor([Command.FORWARD, *sizes, 0]))
    ranks.broadcast(torch.cat((input_ids, meta.positions, meta.slot_mapping)))
    ranks.broadcast(torch.cat((meta.query_start, meta.seq_lens, meta.block_tables.flatten())))


def receive_forward(
    ranks: Ranks, header: list[int], device: torch.device
) -> tuple[Tensor, AttentionMetadata]:
    """The inputs that rank 0 sends after a header."""
    num_tokens, num_seqs, max_blocks, block_size, max_query_len, max_seq_len = header[1:7]
    longs = torch.empty(3 * num_tokens, dtype=torch.int64, device=device)
    ints = torch.empty(2 * num_seqs + 1 + num_seqs * max_blocks, dtype=torch.int32, device=device)
    ranks.broadcast(longs)
    ranks.broadcast(ints)
    input_ids, positions, slots = longs.split(num_tokens)
    query_start, seq_lens, tables = ints.split([num_seqs + 1, num_seqs, num_seqs * max_blocks])
    return input_ids, AttentionMetadata(
        positions=positions,
        slot_mapping=slots,
        query_start=query_start,
        seq_lens=seq_lens,
        block_tables=tables.view(num_seqs, max_blocks),
        block_size=block_size,
        max_query_len=max_query_len,
        max_seq_len=max_seq_len,
    )


def send_hidden(ranks: Ranks, hidden: Tensor) -> None:
    """Announces an output projection, and gives its rows to the other ranks."""
    ranks.announce(torch.tensor([Command.LOGITS, hidden.shape[0], *([0] * (HEADER_FIELDS - 2))]))
    ranks.broadcast(hidden)


def receive_hidden(
    ranks: Ranks, header: list[int], hidden_size: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The rows that rank 0 sends after a header."""
    hidden = torch.empty(header[1], hidden_size, dtype=dtype, device=device)
    ranks.broadcast(hidden)
    return hidden

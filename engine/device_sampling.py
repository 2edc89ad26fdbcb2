"""Sampling without the host: the requests whose next token needs nothing but their logits and a few numbers.

Greedy tokens are an argmax; others are drawn by an op with the signature of `Draw`, whose noise is a
function of seed and position. Neither waits for the device, and both may be part of a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels import ops
from .request import Request

Draw = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""`draw(logits, temperature, top_k, top_p, min_p, seeds, positions)`: int64 `[R]` from fp32 `[R, vocab]`.

All but the logits are `[R]`: fp32, int32 (0 for no limit), fp32, fp32, int64, int64. A temperature of 0
takes the most likely token.
"""

NUM_DRAW_INPUTS = 6


def device_draw(device: torch.device) -> Draw | None:
    """The op that draws on a device; None where the host takes part in drawing, as it does on a CPU."""
    if device.type == "cpu":
        return None
    return ops.sample


def needs_host(request: Request) -> bool:
    """Whether the host takes part in sampling for a request, or wants more than its token."""
    return request.adjusts_logits or request.params.logprobs is not None


def pack_draw_inputs(requests: Sequence[Request], num_rows: int) -> NDArray[np.int64]:
    """What `Draw` takes besides logits, as int64 `[6, num_rows]`; rows past the requests are greedy."""
    packed = np.zeros((NUM_DRAW_INPUTS, num_rows), dtype=np.int64)
    num = len(requests)
    params = [request.params for request in requests]
    packed[0, :num] = _bits([0.0 if p.greedy else p.temperature for p in params])
    packed[1, :num] = [p.top_k for p in params]
    packed[2, :num] = _bits([p.top_p for p in params])
    packed[3, :num] = _bits([p.min_p for p in params])
    seeds = np.array([request.seed & 0xFFFFFFFFFFFFFFFF for request in requests], dtype=np.uint64)
    packed[4, :num] = seeds.view(np.int64)
    packed[5, :num] = [request.num_tokens for request in requests]
    return packed


def draw_packed(draw: Draw, logits: Tensor, packed: Tensor) -> Tensor:
    """Draws with packed inputs; int64 `[R]`."""
    temperature, top_k, top_p, min_p = packed[:4].to(torch.int32)
    floats = torch.float32
    return draw(
        logits,
        temperature.view(floats),
        top_k,
        top_p.view(floats),
        min_p.view(floats),
        packed[4],
        packed[5],
    )


def _bits(values: Sequence[float]) -> NDArray[np.int32]:
    """The values as fp32, read as integers."""
    return np.array(values, dtype=np.float32).view(np.int32)

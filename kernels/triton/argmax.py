"""Each row's largest logit and its place, in two steps: of each piece of the vocabulary, then of the pieces.

Values are compared as integers, in which NaN can be made the largest of all, and the smallest place of
equals is taken: no order of evaluation can change the result.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from .support import CompileCase, next_power_of_2

BLOCK = 4096
"""Tokens of a piece: 16 for each of 256 threads, four loads of 16 bytes in flight."""

NUM_WARPS = 8

NO_PLACE = tl.constexpr(0x7FFFFFFF)


@triton.jit
def to_key(x):
    """Integers in the order of fp32 values: both zeros are equal, and every NaN is the largest."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return tl.where(x != x, 0x7FFFFFFF, tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits))


@triton.jit
def piece_kernel(logits_ptr, keys_ptr, places_ptr, stride, vocab, num_pieces, BLOCK: tl.constexpr):
    """The largest of one piece of one row."""
    row, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    tokens = piece * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + row * stride + tokens, mask=tokens < vocab, other=float("-inf"))
    key = to_key(x)
    best = tl.max(key, 0)
    tl.store(keys_ptr + row * num_pieces + piece, best)
    place = tl.min(tl.where((key == best) & (tokens < vocab), tokens, NO_PLACE), 0)
    tl.store(places_ptr + row * num_pieces + piece, place)


@triton.jit
def row_kernel(
    logits_ptr, keys_ptr, places_ptr, values_ptr, indices_ptr, stride, num_pieces, PIECES: tl.constexpr
):
    """The largest of the pieces of one row."""
    row = tl.program_id(0).to(tl.int64)
    piece = tl.arange(0, PIECES)
    inside = piece < num_pieces
    key = tl.load(keys_ptr + row * num_pieces + piece, mask=inside, other=-0x80000000)
    place = tl.load(places_ptr + row * num_pieces + piece, mask=inside, other=NO_PLACE)
    best = tl.min(tl.where(key == tl.max(key, 0), place, NO_PLACE), 0)
    tl.store(values_ptr + row, tl.load(logits_ptr + row * stride + best))
    tl.store(indices_ptr + row, best.to(tl.int64))


def argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """See `reference.argmax`."""
    rows, vocab = logits.shape
    num_pieces = triton.cdiv(vocab, BLOCK)
    keys, places = torch.empty(2, rows, num_pieces, dtype=torch.int32, device=logits.device)
    values = torch.empty(rows, dtype=torch.float32, device=logits.device)
    indices = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        stride = logits.stride(0)
        block = min(BLOCK, next_power_of_2(vocab))
        piece_kernel[(rows, num_pieces)](
            logits, keys, places, stride, vocab, num_pieces, BLOCK=block, num_warps=NUM_WARPS
        )
        pieces = next_power_of_2(num_pieces)
        row_kernel[(rows,)](
            logits, keys, places, values, indices, stride, num_pieces, PIECES=pieces, num_warps=1
        )
    return values, indices


def compile_cases() -> Iterator[CompileCase]:
    """Vocabularies up to a quarter of a million."""
    integers = {"stride": "i32", "num_pieces": "i32"}
    pointers = {"logits_ptr": "*fp32", "keys_ptr": "*i32", "places_ptr": "*i32"}
    yield CompileCase(
        "pieces",
        piece_kernel,
        {**pointers, **integers, "vocab": "i32"},
        {"BLOCK": BLOCK},
        num_warps=NUM_WARPS,
        aligned=(*pointers, "stride", "vocab"),
    )
    yield CompileCase(
        "rows of 64 pieces",
        row_kernel,
        {**pointers, "values_ptr": "*fp32", "indices_ptr": "*i64", **integers},
        {"PIECES": 64},
        num_warps=1,
        aligned=(*pointers, "stride"),
    )

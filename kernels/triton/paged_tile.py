"""The arithmetic of paged attention: one tile of keys, and how partial results are put together.

All kernels of paged attention call these functions, so that a row (one head of one query) is computed by the
same operations in the same order, whichever kernel computes it. A sequence's keys are divided into tiles of
BLOCK_N keys and chunks of CHUNK keys, both counted from position 0. Within a chunk a row's softmax runs over
the tiles from left to right (online softmax, Milakov & Gimelshein, 2018); each chunk starts afresh:

    top' = max(top, max(s))                  s: the tile's scores, -inf where the row must not look
    p    = 2^((s - top') * unit)
    sum' = sum * 2^((top - top') * unit) + p @ 1
    acc' = acc * 2^((top - top') * unit) + p @ V

and chunks are merged from left to right in the same way. `unit` is `scale * log2(e)`, so that scores stay as
the tensor cores give them. What decides about the bits of a result:

- A tile that a row does not see at all leaves its `(top, sum, acc)` as they are, so it makes no difference
  whether it is computed, because another row of the program needs it, or skipped.
- The sum of p is a matrix product like that with V: `tl.sum` would add in an order that depends on how the
  program's warps share the tile.
- Products and sums are not contracted to fused multiply-adds (`enable_fp_fusion=False` at every launch),
  which the compiler would do here and not there.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def cache_rows(table_ptr, keys, valid, head, BLOCK_SIZE: tl.constexpr, KV_HEADS: tl.constexpr):
    """The row of each key in a cache `[num_blocks, KV_HEADS, BLOCK_SIZE, ...]`; int64."""
    block = tl.load(table_ptr + keys // BLOCK_SIZE, mask=valid, other=0).to(tl.int64)
    return (block * KV_HEADS + head) * BLOCK_SIZE + keys % BLOCK_SIZE


@triton.jit
def widen(x, FP8_BITS: tl.constexpr, dtype: tl.constexpr):
    """Cache values in the dtype of the products, which holds them exactly.

    FP8_BITS: x is uint8, the bits of e4m3 numbers, for GPUs that do not convert them. With its exponent and
    mantissa moved to where float16 has them, such a number is 2^-8 of its value, subnormal ones included.
    """
    if FP8_BITS:
        magnitude = (x & 0x7F).to(tl.uint16)
        bits = (magnitude << 7) | ((x & 0x80).to(tl.uint16) << 8)
        bits = tl.where(magnitude == 0x7F, 0x7E00, bits).to(tl.uint16)  # NaN
        x = bits.to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    return x.to(dtype)


@triton.jit
def attend_tile(
    q,
    top,
    total,
    acc,
    position,
    keys,
    valid,
    masked,
    cache_ptr,
    scales_ptr,
    table_ptr,
    values_offset,
    head,
    window,
    unit,
    cap,
    BLOCK_SIZE: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    ROW: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    INT8: tl.constexpr,
    FP8_BITS: tl.constexpr,
):
    """Takes a tile of keys into the state of M rows.

    Args:
        q: `[M, D]`, D being HEAD_SIZE or the next power of two, where q is zero.
        top: fp32 `[M]`, the largest score so far.
        total: fp32 `[M, 16]`, the sum of weights, 16 times (the narrowest matrix product).
        acc: fp32 `[M, D]`, the weighted sum of values.
        position: int32 `[M]` of the queries.
        keys: int32 `[N]`, positions of the tile.
        valid: `[N]`, which of them any row of the program may read.
        masked: Whether some row must not see some key of the tile.
        cache_ptr: Keys, and `values_offset` elements further, values.
        scales_ptr: The same memory as fp32, for the scales of int8 caches.
        table_ptr: The sequence's block table.
        head: KV head.
        unit: Takes differences of scores to exponents of two.
        cap: With SOFTCAP, what takes a score to the argument of tanh, doubled, as an exponent of two.
        ROW: Elements between the heads of neighbouring tokens.
    """
    channels = tl.arange(0, q.shape[1])
    rows = cache_rows(table_ptr, keys, valid, head, BLOCK_SIZE, KV_HEADS)
    where = rows[:, None] * ROW + channels[None, :]
    inside = valid[:, None] & (channels[None, :] < HEAD_SIZE)

    k = widen(tl.load(cache_ptr + where, mask=inside, other=0.0), FP8_BITS, q.dtype)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    at = rows * (ROW // 4) + HEAD_SIZE // 4  # of scales
    if INT8:
        scores = scores * tl.load(scales_ptr + at, mask=valid, other=0.0)[None, :]
    if SOFTCAP:
        scores = 1.0 - 2.0 / (1.0 + tl.exp2(scores * cap))  # tanh
    if masked:
        visible = keys[None, :] <= position[:, None]
        if WINDOW:
            visible = visible & (keys[None, :] > position[:, None] - window)
        scores = tl.where(visible, scores, float("-inf"))

    new_top = tl.maximum(top, tl.max(scores, 1))
    pivot = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp2((scores - pivot[:, None]) * unit)
    shrink = tl.exp2((top - pivot) * unit)[:, None]
    ones = tl.full([keys.shape[0], 16], 1.0, q.dtype)
    total = tl.dot(weights.to(q.dtype), ones, total * shrink, input_precision="ieee")
    if INT8:
        # Times the largest value that the key's row may hold, not times its 127th part, which float16
        # might hold as a subnormal number only.
        scale = tl.load(scales_ptr + (at + values_offset // 4), mask=valid, other=0.0)
        weights = weights * (scale * 127.0)[None, :]
    v = widen(tl.load(cache_ptr + values_offset + where, mask=inside, other=0.0), FP8_BITS, q.dtype)
    acc = tl.dot(weights.to(q.dtype), v, acc * shrink, input_precision="ieee")
    return new_top, total, acc


@triton.jit
def merge(top, total, acc, next_top, next_total, next_acc, unit):
    """The state of M rows with that of their next chunk: `[M]`, `[M]` and `[M, D]`, all fp32."""
    new_top = tl.maximum(top, next_top)
    pivot = tl.where(new_top == float("-inf"), 0.0, new_top)
    left = tl.exp2((top - pivot) * unit)
    right = tl.exp2((next_top - pivot) * unit)
    return new_top, total * left + next_total * right, acc * left[:, None] + next_acc * right[:, None]


@triton.jit
def finish(top, total, acc, sink, unit, SINKS: tl.constexpr, INT8: tl.constexpr):
    """The results of rows, `[M, D]`, from their whole sums; `top`, `total` and `sink` are `[M]`."""
    if INT8:
        acc = acc / 127.0
    if SINKS:
        top = top * unit
        sink = sink * 1.4426950408889634
        pivot = tl.maximum(top, sink)
        share = tl.exp2(top - pivot)
        total = total * share + tl.exp2(sink - pivot)
        acc = acc * share[:, None]
    # Rows that are none saw no key: they are never stored, and must not divide zero by zero.
    return acc / tl.where(total == 0.0, 1.0, total)[:, None]

"""The heads of a step made ready for attention: q and k normalised and turned, k and v written to the cache.

    x = x / sqrt(mean(x^2) + eps) * weight                       (per head, as Qwen3 does; optional)
    x[i], x[i + half] = x[i] cos - x[i + half] sin, x[i + half] cos + x[i] sin  (RoFormer, Su et al., 2021)

One program has some heads of q, k or v of one token in registers: they are read once, and written once, to
where they stay. Sums are those of a head by itself.

What is rounded, is rounded as the reference does, step by step, and multiplications and additions are not
fused: so the bytes in the cache are the reference's, except where a norm's sum has another order.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..types import CACHE_SCALE_BYTES, AttentionMetadata
from .support import CompileCase, next_power_of_2

TILE = 1024
"""Channels of a program, 8 for each thread: enough to read 16 bytes at a time."""

NUM_WARPS = 4

SMALLEST_BITS = tl.constexpr(0x02FE0001)
"""Of the smallest fp32 x for which 127 / x is finite."""

ONE_BITS = tl.constexpr(0x3F800000)
NAN_BITS = tl.constexpr(0x7FC00000)

CACHES = {
    torch.float32: "float",
    torch.bfloat16: "float",
    torch.float16: "float",
    torch.int8: "int8",
    torch.float8_e4m3fn: "fp8",
}
"""How each dtype of cache is written."""


@triton.jit
def load_heads(x_ptr, head_stride, heads, inside, SIZE, HALF, HALF_BLOCK: tl.constexpr, REST: tl.constexpr):
    """Three parts of each head: the channels that turn, those that they turn with, and the rest."""
    low, rest = tl.arange(0, HALF_BLOCK)[None, :], tl.arange(0, REST)[None, :] + 2 * HALF
    rows = x_ptr + heads * head_stride
    first = tl.load(rows + low, mask=inside & (low < HALF), other=0.0)
    second = tl.load(rows + HALF + low, mask=inside & (low < HALF), other=0.0)
    return first, second, tl.load(rows + rest, mask=inside & (rest < SIZE), other=0.0)


@triton.jit
def normalize(
    first, second, third, weight_ptr, eps, SIZE, HALF, HALF_BLOCK: tl.constexpr, REST: tl.constexpr
):
    """Each head's RMS norm; channels that are not there are zeros."""
    a, b, c = first.to(tl.float32), second.to(tl.float32), third.to(tl.float32)
    total = tl.sum(a * a, 1) + tl.sum(b * b, 1) + tl.sum(c * c, 1)
    scale = tl.rsqrt(total / SIZE + eps)[:, None]
    low, rest = tl.arange(0, HALF_BLOCK)[None, :], tl.arange(0, REST)[None, :] + 2 * HALF
    first = (a * scale).to(first.dtype) * tl.load(weight_ptr + low, mask=low < HALF, other=0.0)
    second = (b * scale).to(first.dtype) * tl.load(weight_ptr + HALF + low, mask=low < HALF, other=0.0)
    third = (c * scale).to(first.dtype) * tl.load(weight_ptr + rest, mask=rest < SIZE, other=0.0)
    return first, second, third


@triton.jit
def turn(first, second, cos_sin_ptr, HALF, HALF_BLOCK: tl.constexpr):
    """Rotates pairs of channels by the angles of a position."""
    low = tl.arange(0, HALF_BLOCK)[None, :]
    cos = tl.load(cos_sin_ptr + low, mask=low < HALF, other=0.0)
    sin = tl.load(cos_sin_ptr + HALF + low, mask=low < HALF, other=0.0)
    a, b = first.to(tl.float32), second.to(tl.float32)
    return (a * cos - b * sin).to(first.dtype), (b * cos + a * sin).to(first.dtype)


@triton.jit
def to_int8(x, inverse, keeps):
    """fp32 rounded to the nearest of -127 to 127, ties to even, which adding 1.5 * 2^23 does."""
    rounded = (tl.where(keeps, x, 0.0) * inverse + 12582912.0) - 12582912.0
    return tl.minimum(tl.maximum(rounded, -127.0), 127.0).to(tl.int8)


@triton.jit
def to_fp8(x):
    """fp32 as the byte of an e4m3, to nearest, ties to even; what is larger than 448 becomes 448.

    So do the GPU's own instruction, which Ampere lacks, and torch's cast (before 2.12 it made NaN of what is
    too large). In integers it is the same on all of them: the exponent gets another bias, and what falls off
    the mantissa rounds it.
    """
    bits = x.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    normal = (magnitude - (120 << 23) + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20
    # Below 2^-6 steps are of 2^-9, which is the last place of a sum with 2^14.
    small = (magnitude.to(tl.float32, bitcast=True) + 16384.0).to(tl.int32, bitcast=True) - (141 << 23)
    byte = tl.where(magnitude < (121 << 23), small, tl.minimum(normal, 0x7E))
    byte = tl.where(magnitude > 0x7F800000, 0x7F, byte)  # NaN
    return (byte | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def largest_bits(x):
    """The largest magnitude of each row of an fp32 tile, as an integer: NaN is above all numbers."""
    return tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1)


@triton.jit
def write_heads(
    cache_ptr,
    heads_stride,
    heads,
    inside,
    first,
    second,
    third,
    CACHE: tl.constexpr,
    SIZE,
    HALF,
    HALF_BLOCK: tl.constexpr,
    REST: tl.constexpr,
):
    """Heads, in their three parts, as `reference.to_cache` has them."""
    low, rest = tl.arange(0, HALF_BLOCK)[None, :], tl.arange(0, REST)[None, :] + 2 * HALF
    rows = cache_ptr + heads * heads_stride
    in_low, in_rest = inside & (low < HALF), inside & (rest < SIZE)
    if CACHE == "int8":
        a, b, c = first.to(tl.float32), second.to(tl.float32), third.to(tl.float32)
        bits = tl.maximum(tl.maximum(largest_bits(a), largest_bits(b)), largest_bits(c))[:, None]
        finite = bits < 0x7F800000
        keeps = finite & (bits >= SMALLEST_BITS)
        one_twenty_seven = tl.full(bits.shape, 127.0, tl.float32)
        inverse = tl.div_rn(one_twenty_seven, tl.where(keeps, bits, ONE_BITS).to(tl.float32, bitcast=True))
        tl.store(rows + low, to_int8(a, inverse, keeps), mask=in_low)
        tl.store(rows + HALF + low, to_int8(b, inverse, keeps), mask=in_low)
        tl.store(rows + rest, to_int8(c, inverse, keeps), mask=in_rest)
        largest = tl.where(finite, bits, 0).to(tl.float32, bitcast=True)
        scale = tl.div_rn(largest, one_twenty_seven).to(tl.int32, bitcast=True)
        scale = tl.where(finite, scale, NAN_BITS)
        byte = tl.arange(0, 4)[None, :]
        tl.store(rows + SIZE + byte, (scale >> 8 * byte).to(tl.int8), mask=inside)
    elif CACHE == "fp8":
        tl.store(rows + low, to_fp8(first.to(tl.float32)), mask=in_low)
        tl.store(rows + HALF + low, to_fp8(second.to(tl.float32)), mask=in_low)
        tl.store(rows + rest, to_fp8(third.to(tl.float32)), mask=in_rest)
    else:
        dtype = cache_ptr.dtype.element_ty
        tl.store(rows + low, first.to(dtype), mask=in_low)
        tl.store(rows + HALF + low, second.to(dtype), mask=in_low)
        tl.store(rows + rest, third.to(dtype), mask=in_rest)


@triton.jit
def rope_and_cache_write_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    cos_sin_ptr,
    positions_ptr,
    slots_ptr,
    cache_ptr,
    q_norm_ptr,
    k_norm_ptr,
    out_ptr,
    q_stride,
    q_head_stride,
    k_stride,
    k_head_stride,
    v_stride,
    v_head_stride,
    cos_sin_stride,
    values_stride,
    block_stride,
    cache_head_stride,
    slot_stride,
    num_heads,
    num_kv_heads,
    block_size,
    eps,
    HAS_Q_NORM: tl.constexpr,
    HAS_K_NORM: tl.constexpr,
    CACHE: tl.constexpr,
    SIZE: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST: tl.constexpr,
    HEADS: tl.constexpr,
):
    """HEADS heads of one token, which the second grid dimension counts through q, then k, then v."""
    token, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    q_pieces, kv_pieces = tl.cdiv(num_heads, HEADS), tl.cdiv(num_kv_heads, HEADS)
    low, rest = tl.arange(0, HALF_BLOCK)[None, :], tl.arange(0, REST)[None, :] + 2 * HALF
    cos_sin_ptr += tl.load(positions_ptr + token) * cos_sin_stride
    if piece < q_pieces:
        heads = (piece * HEADS + tl.arange(0, HEADS))[:, None]
        inside = heads < num_heads
        first, second, third = load_heads(
            q_ptr + token * q_stride, q_head_stride, heads, inside, SIZE, HALF, HALF_BLOCK, REST
        )
        if HAS_Q_NORM:
            first, second, third = normalize(
                first, second, third, q_norm_ptr, eps, SIZE, HALF, HALF_BLOCK, REST
            )
        first, second = turn(first, second, cos_sin_ptr, HALF, HALF_BLOCK)
        rows = out_ptr + token * num_heads * SIZE + heads * SIZE
        tl.store(rows + low, first, mask=inside & (low < HALF))
        tl.store(rows + HALF + low, second, mask=inside & (low < HALF))
        tl.store(rows + rest, third, mask=inside & (rest < SIZE))
        return
    slot = tl.load(slots_ptr + token)
    cache_ptr += slot // block_size * block_stride + slot % block_size * slot_stride
    if piece < q_pieces + kv_pieces:
        heads = ((piece - q_pieces) * HEADS + tl.arange(0, HEADS))[:, None]
        inside = heads < num_kv_heads
        first, second, third = load_heads(
            k_ptr + token * k_stride, k_head_stride, heads, inside, SIZE, HALF, HALF_BLOCK, REST
        )
        if HAS_K_NORM:
            first, second, third = normalize(
                first, second, third, k_norm_ptr, eps, SIZE, HALF, HALF_BLOCK, REST
            )
        first, second = turn(first, second, cos_sin_ptr, HALF, HALF_BLOCK)
    else:
        heads = ((piece - q_pieces - kv_pieces) * HEADS + tl.arange(0, HEADS))[:, None]
        inside = heads < num_kv_heads
        first, second, third = load_heads(
            v_ptr + token * v_stride, v_head_stride, heads, inside, SIZE, HALF, HALF_BLOCK, REST
        )
        cache_ptr += values_stride
    write_heads(
        cache_ptr,
        cache_head_stride,
        heads,
        inside,
        first,
        second,
        third,
        CACHE,
        SIZE,
        HALF,
        HALF_BLOCK,
        REST,
    )


def rope_and_cache_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos_sin: Tensor,
    kv_cache: Tensor,
    meta: AttentionMetadata,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    norm_eps: float = 1e-6,
) -> Tensor:
    """See `reference.rope_and_cache_write`."""
    tokens, num_heads, size = q.shape
    cache = CACHES.get(kv_cache.dtype)
    if cache is None:
        raise ValueError(f"a KV cache of {kv_cache.dtype} cannot be written")
    if kv_cache.shape[-1] != size + (CACHE_SCALE_BYTES if cache == "int8" else 0):
        raise ValueError(f"rows of {kv_cache.shape[-1]} in the cache do not fit heads of {size} channels")
    for x in (q, k, v, q_norm, k_norm):
        if x is not None and (x.dtype != q.dtype or x.stride(-1) != 1):
            raise ValueError("q, k, v and their norms must be of one dtype, and channels lie side by side")
    out = torch.empty(tokens, num_heads, size, dtype=q.dtype, device=q.device)
    if not tokens:
        return out
    half = cos_sin.shape[-1] // 2
    shape = tile(size, half, max(num_heads, k.shape[1]))
    pieces = triton.cdiv(num_heads, shape["HEADS"]) + 2 * triton.cdiv(k.shape[1], shape["HEADS"])
    rope_and_cache_write_kernel[(tokens, pieces)](
        q,
        k,
        v,
        cos_sin,
        meta.positions,
        meta.slot_mapping,
        kv_cache.view(torch.uint8) if cache == "fp8" else kv_cache,
        cos_sin if q_norm is None else q_norm,
        cos_sin if k_norm is None else k_norm,
        out,
        q.stride(0),
        q.stride(1),
        k.stride(0),
        k.stride(1),
        v.stride(0),
        v.stride(1),
        cos_sin.stride(0),
        *kv_cache.stride()[:4],
        num_heads,
        k.shape[1],
        meta.block_size,
        norm_eps,
        HAS_Q_NORM=q_norm is not None,
        HAS_K_NORM=k_norm is not None,
        CACHE=cache,
        **shape,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
    )
    return out


def tile(size: int, half: int, num_heads: int) -> dict[str, int]:
    """The kernel's sizes for heads of `size` channels, of which twice `half` turn."""
    half_block, rest = next_power_of_2(half), next_power_of_2(size - 2 * half)
    channels = 2 * half_block + (rest if size > 2 * half else 0)
    heads = min(next_power_of_2(num_heads), max(1, TILE // next_power_of_2(channels)))
    return {"SIZE": size, "HALF": half, "HALF_BLOCK": half_block, "REST": rest, "HEADS": heads}


def compile_cases() -> Iterator[CompileCase]:
    """Llama and Qwen3 with every cache, and heads of 64, 80 (of which 32 turn), 96 and 256 channels."""
    forms = [(128, 64, True, cache) for cache in ("*bf16", "*i8", "*u8")]
    forms += [(128, 64, False, "*bf16"), (64, 32, False, "*bf16"), (80, 16, False, "*i8")]
    forms += [(96, 48, False, "*bf16"), (256, 128, True, "*i8")]
    kinds = {"*bf16": "float", "*i8": "int8", "*u8": "fp8"}
    pointers = ("q_ptr", "k_ptr", "v_ptr", "q_norm_ptr", "k_norm_ptr", "out_ptr")
    strides = [f"{x}{part}_stride" for x in "qkv" for part in ("", "_head")]
    strides += ["cos_sin_stride", "block_stride", "cache_head_stride", "slot_stride"]
    for size, half, has_norm, cache in forms:
        yield CompileCase(
            f"heads of {size}, cache {cache}{' with norms' if has_norm else ''}",
            rope_and_cache_write_kernel,
            {
                **dict.fromkeys(pointers, "*bf16"),
                "cos_sin_ptr": "*fp32",
                "positions_ptr": "*i64",
                "slots_ptr": "*i64",
                "cache_ptr": cache,
                **dict.fromkeys(strides, "i32"),
                "values_stride": "i64",
                "num_heads": "i32",
                "num_kv_heads": "i32",
                "block_size": "i32",
                "eps": "fp32",
            },
            {
                "HAS_Q_NORM": has_norm,
                "HAS_K_NORM": has_norm,
                "CACHE": kinds[cache],
                **tile(size, half, 32),
            },
            num_warps=NUM_WARPS,
            aligned=(*pointers, "cos_sin_ptr", "cache_ptr", "values_stride"),
        )

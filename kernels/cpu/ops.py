"""Norms, gates, RoPE and attention in C++; the products are in `linear`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..types import CACHE_SCALE_BYTES, AttentionMetadata, PackedSequences
from .extension import _C, as_rows, dtype_code
from .recorder import empty


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `reference.rms_norm`."""
    if weight.dtype != x.dtype:  # the result's dtype is then torch's promotion of both
        return reference.rms_norm(x, weight, eps)
    size = x.shape[-1]
    _check_channels(weight, size)
    rows, num_rows, stride = as_rows(x)
    y = empty(x.shape, x.dtype)
    weight = weight.contiguous()
    addresses = rows.data_ptr(), weight.data_ptr(), y.data_ptr()
    _C.rms_norm(addresses[0], stride, 0, 0, addresses[1], addresses[2], 0, dtype_code(x), num_rows, size, eps)
    return y


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `reference.add_rms_norm`."""
    if weight.dtype != x.dtype or residual.dtype != x.dtype or residual.shape != x.shape:
        return reference.add_rms_norm(x, residual, weight, eps)
    size = x.shape[-1]
    _check_channels(weight, size)
    rows, num_rows, stride = as_rows(x)
    others, _, other_stride = as_rows(residual)
    y = empty(x.shape, x.dtype)
    total = empty(x.shape, x.dtype)
    weight = weight.contiguous()
    _C.rms_norm(
        rows.data_ptr(),
        stride,
        others.data_ptr(),
        other_stride,
        weight.data_ptr(),
        y.data_ptr(),
        total.data_ptr(),
        dtype_code(x),
        num_rows,
        size,
        eps,
    )
    return y, total


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """See `reference.layer_norm`."""
    if weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        return reference.layer_norm(x, weight, bias, eps)
    return _layer_norm(x, None, weight, bias, eps)[0]


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """See `reference.add_layer_norm`."""
    others = (residual, weight) if bias is None else (residual, weight, bias)
    if any(other.dtype != x.dtype for other in others) or residual.shape != x.shape:
        return reference.add_layer_norm(x, residual, weight, bias, eps)
    return _layer_norm(x, residual, weight, bias, eps)


def _layer_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """The norm, and what it is of."""
    size = x.shape[-1]
    rows, num_rows, stride = as_rows(x)
    y, total, others, other_stride = empty(x.shape, x.dtype), x, rows, 0
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    for channels in (weight, bias):
        if channels is not None:
            _check_channels(channels, size)
    if residual is not None:
        others, _, other_stride = as_rows(residual)
        total = empty(x.shape, x.dtype)
    _C.layer_norm(
        rows.data_ptr(),
        stride,
        0 if residual is None else others.data_ptr(),
        other_stride,
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        y.data_ptr(),
        0 if residual is None else total.data_ptr(),
        dtype_code(x),
        num_rows,
        size,
        eps,
    )
    return y, total


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """See `reference.gelu`."""
    rows, num_rows, stride = as_rows(x)
    y, size = empty(x.shape, x.dtype), x.shape[-1]
    _C.gelu(rows.data_ptr(), stride, y.data_ptr(), dtype_code(x), num_rows, size, approximate != "tanh")
    return y


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, sequences: PackedSequences, scale: float, window: int = 0
) -> Tensor:
    """See `reference.packed_attention`. Raises IndexError if the sequences are not those of the tokens."""
    tokens, num_heads, head_size = q.shape
    num_kv_heads, starts = k.shape[1], sequences.starts
    if k.shape != v.shape or k.shape != (tokens, num_kv_heads, head_size) or num_heads % num_kv_heads:
        raise ValueError(f"q, k and v do not fit: {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}")
    if k.dtype != q.dtype or v.dtype != q.dtype or starts.dtype != torch.int32:
        raise TypeError(f"q, k and v must have one dtype, got {q.dtype}, {k.dtype} and {v.dtype}")
    q, q_stride = _heads(q, head_size)
    k, k_stride = _heads(k, head_size)
    v, v_stride = _heads(v, head_size)
    between = v.data_ptr() - k.data_ptr()
    if k_stride != v_stride or k_stride < 1 or between % k.element_size() or not _share_memory(k, v):
        k, v = torch.stack((k, v))
        k_stride, between = k.stride(0), v.data_ptr() - k.data_ptr()
    starts = starts.contiguous()
    out = empty(q.shape, q.dtype)
    _C.packed_attention(
        q.data_ptr(),
        q_stride,
        k.data_ptr(),
        k_stride,
        between // k.element_size(),
        out.data_ptr(),
        dtype_code(q),
        tokens,
        starts.data_ptr(),
        starts.shape[0] - 1,
        num_heads,
        num_kv_heads,
        head_size,
        scale,
        window,
    )
    return out


def _share_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _check_channels(weight: Tensor, size: int) -> None:
    if weight.numel() != size:
        raise ValueError(f"a weight of {size} channels is needed, got shape {tuple(weight.shape)}")


def silu_and_mul(x: Tensor) -> Tensor:
    """See `reference.silu_and_mul`."""
    return _gate(x, _C.silu_and_mul)


def gelu_and_mul(x: Tensor, approximate: str = "tanh") -> Tensor:
    """See `reference.gelu_and_mul`."""
    return _gate(x, _C.gelu_and_mul if approximate == "tanh" else _C.exact_gelu_and_mul)


def _gate(x: Tensor, kernel: Any) -> Tensor:
    shape = x.shape
    size, odd = divmod(shape[-1], 2)
    if odd:
        raise ValueError(f"gate and up need an even last dimension, got shape {tuple(shape)}")
    rows, num_rows, stride = as_rows(x)
    y = empty((*shape[:-1], size), x.dtype)
    kernel(rows.data_ptr(), stride, y.data_ptr(), dtype_code(x), num_rows, size)
    return y


def _heads(x: Tensor, head_size: int) -> tuple[Tensor, int]:
    """`[T, heads, head_size]` with contiguous heads, copied only if it must be; the step between tokens."""
    token, head, channel = x.stride()
    if channel == 1 and head == head_size:
        return x, token
    x = x.contiguous()
    return x, x.stride(0)


def _check_cache(kv_cache: Tensor, heads: int, head_size: int, block_size: int) -> tuple[int, int]:
    """Returns the numbers of blocks and of KV heads; raises ValueError if `heads` heads do not fit."""
    shape = kv_cache.shape
    if len(shape) != 5 or not kv_cache.is_contiguous():
        raise ValueError("kv_cache must be a contiguous [2, num_blocks, num_kv_heads, block_size, head_size]")
    _, num_blocks, num_kv_heads, cache_block_size, cache_head_size = shape
    if kv_cache.dtype == torch.int8:
        cache_head_size -= CACHE_SCALE_BYTES
    if cache_block_size != block_size or cache_head_size != head_size or heads % num_kv_heads:
        raise ValueError(
            f"a cache of shape {tuple(shape)} does not fit {heads} heads of {head_size} channels "
            f"in blocks of {block_size}"
        )
    return num_blocks, num_kv_heads


def _cache_code(kv_cache: Tensor) -> int:
    return 2 if kv_cache.dtype == torch.int8 else dtype_code(kv_cache)


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
    """See `reference.rope_and_cache_write`. Raises IndexError for a position or slot out of range."""
    tokens, num_heads, head_size = q.shape
    block_size, dtype = meta.block_size, q.dtype
    num_blocks, num_kv_heads = _check_cache(kv_cache, num_heads, head_size, block_size)
    if k.shape != v.shape or k.shape != (tokens, num_kv_heads, head_size):
        raise ValueError(f"q, k and v do not fit: {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}")
    if k.dtype != dtype or v.dtype != dtype:
        raise TypeError(f"q, k and v must have one dtype, got {dtype}, {k.dtype} and {v.dtype}")
    num_positions, rotary_size = _check_table(cos_sin, head_size)
    positions, slots = meta.positions.contiguous(), meta.slot_mapping.contiguous()
    if positions.dtype != torch.int64 or slots.dtype != torch.int64:
        raise TypeError("positions and slot_mapping must be int64")
    if positions.shape[0] < tokens or slots.shape[0] < tokens:
        raise ValueError(f"{tokens} tokens need as many positions and slots")
    q, q_stride = _heads(q, head_size)
    k, k_stride = _heads(k, head_size)
    v, v_stride = _heads(v, head_size)
    q_norm = _head_norm(q_norm, dtype, head_size)
    k_norm = _head_norm(k_norm, dtype, head_size)
    out = empty((tokens, num_heads, head_size), q.dtype)
    _C.rope_and_cache_write(
        q.data_ptr(),
        q_stride,
        k.data_ptr(),
        k_stride,
        v.data_ptr(),
        v_stride,
        out.data_ptr(),
        dtype_code(q),
        cos_sin.data_ptr(),
        rotary_size,
        num_positions,
        rotary_size // 2,
        kv_cache.data_ptr(),
        _cache_code(kv_cache),
        kv_cache.stride(0),
        num_blocks * block_size,
        positions.data_ptr(),
        slots.data_ptr(),
        tokens,
        num_heads,
        num_kv_heads,
        head_size,
        block_size,
        0 if q_norm is None else q_norm.data_ptr(),
        0 if k_norm is None else k_norm.data_ptr(),
        norm_eps,
    )
    return out


def _check_table(cos_sin: Tensor, head_size: int) -> tuple[int, int]:
    num_positions, rotary_size = cos_sin.shape
    fits = rotary_size <= head_size and rotary_size % 2 == 0
    if not fits or cos_sin.dtype != torch.float32 or not cos_sin.is_contiguous():
        raise ValueError(
            "cos_sin must be contiguous float32 [positions, rotary_dim], even and at most head_size"
        )
    return num_positions, rotary_size


def _head_norm(weight: Tensor | None, dtype: torch.dtype, head_size: int) -> Tensor | None:
    if weight is None:
        return None
    _check_channels(weight, head_size)
    if weight.dtype != dtype:
        raise TypeError(f"the head norm's weight must be {dtype}, got {weight.dtype}")
    return weight.contiguous()


def paged_attention(
    q: Tensor,
    kv_cache: Tensor,
    meta: AttentionMetadata,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    """See `reference.paged_attention`. Raises IndexError if a block table leaves the cache."""
    shape = q.shape
    _, num_heads, head_size = shape
    num_blocks, num_kv_heads = _check_cache(kv_cache, num_heads, head_size, meta.block_size)
    q, q_stride = _heads(q, head_size)
    starts, lengths, tables = meta.query_start, meta.seq_lens, meta.block_tables
    if starts.dtype != torch.int32 or lengths.dtype != torch.int32 or tables.dtype != torch.int32:
        raise TypeError("query_start, seq_lens and block_tables must be int32")
    num_seqs, (table_rows, table_width) = lengths.shape[0], tables.shape
    if starts.shape[0] != num_seqs + 1 or table_rows < num_seqs:
        raise ValueError(f"{num_seqs} sequences need {num_seqs + 1} starts and {num_seqs} block tables")
    starts, lengths, tables = starts.contiguous(), lengths.contiguous(), tables.contiguous()
    if sinks is not None:
        sinks = sinks.float().contiguous()
    out = empty(shape, q.dtype)
    _C.paged_attention(
        q.data_ptr(),
        q_stride,
        out.data_ptr(),
        dtype_code(q),
        shape[0],
        kv_cache.data_ptr(),
        _cache_code(kv_cache),
        kv_cache.stride(0),
        num_blocks,
        starts.data_ptr(),
        lengths.data_ptr(),
        tables.data_ptr(),
        table_width,
        num_seqs,
        num_heads,
        num_kv_heads,
        head_size,
        meta.block_size,
        scale,
        window,
        softcap,
        0 if sinks is None else sinks.data_ptr(),
    )
    return out


def argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """See `reference.argmax`."""
    logits = logits.contiguous()
    rows, columns = logits.shape
    if columns == 0:
        raise ValueError("argmax needs at least one column")
    values = torch.empty(rows, dtype=torch.float32)
    indices = torch.empty(rows, dtype=torch.int64)
    _C.argmax(logits.data_ptr(), rows, columns, values.data_ptr(), indices.data_ptr())
    return values, indices

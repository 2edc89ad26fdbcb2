"""The `cpp` column: every op on the CPU, in C++ (`csrc/`), with the signatures of `reference`.

This module owns the tensors: it checks dtypes, shapes and strides and hands addresses to `_C`, which
imports no torch. Rows may be strided (q, k and v are views of one fused projection); what is not
contiguous within a row is copied first.

A result never depends on what shares its batch, nor on the number of threads: each row of each op is
computed in an order of its own, bit for bit (see `csrc/kernels.h`).

The instruction set is chosen when the first op runs; `QUIRE_ISA=plain`, `avx2` or `avx512` forces it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import reference
from .types import AttentionMetadata, LinearWeight

if TYPE_CHECKING:
    from . import _C

_import_error: str | None = None
try:
    from . import _C
except ImportError as error:
    _import_error = str(error)

_CODES: dict[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1}

PANEL = 32
"""Rows of a weight that lie side by side in its packed form."""


def unavailable() -> str | None:
    """The reason why no op of this module can run here, or None."""
    if _import_error is not None:
        return f"the C++ extension is not built ({_import_error})"
    try:
        _C.isa()
    except RuntimeError as error:
        return str(error)
    return None


def cpu_features() -> dict[str, bool]:
    """What the CPU offers to these kernels, for `quire doctor`."""
    return _C.cpu_features()


def isa() -> str:
    """The instruction set in use: plain, avx2, avx512 or avx512+bf16."""
    name, bf16 = _C.isa()
    return f"{name}+bf16" if bf16 else name


def num_threads() -> int:
    """Threads that an op uses; by default the cores this process may run on."""
    return _C.num_threads()


def set_num_threads(count: int) -> None:
    """Sets the number of threads, the calling one included. Raises ValueError below 1."""
    _C.set_num_threads(count)


@dataclass(frozen=True, slots=True)
class PackedDense:
    """A float weight in the order in which the kernels read it.

    Attributes:
        data: `[N / 32, ceil(K / w), 32, w]`, where w is 1 for float32 and 2 for bfloat16 (neighbouring
            columns that one dot-product instruction takes). Rows and columns past N and K are zeros.
        out_features: N.
        in_features: K.
    """

    data: Tensor
    out_features: int
    in_features: int

    def unpack(self) -> Tensor:
        """The weight as `[N, K]`, bit for bit what was packed; a copy."""
        panels, steps, _, word = self.data.shape
        rows = self.data.permute(0, 2, 1, 3).reshape(panels * PANEL, steps * word)
        return rows[: self.out_features, : self.in_features]

    def rows(self, index: Tensor) -> Tensor:
        """Rows `index` of the weight, `[len(index), K]`: an embedding that is tied to an `lm_head`."""
        taken = self.data[index // PANEL, :, index % PANEL]
        return taken.flatten(-2)[..., : self.in_features]


def prepare(weight: LinearWeight, *, release: bool = False) -> PackedDense:
    """Packs a float weight for `linear`, which otherwise does so on first use; does nothing twice.

    Args:
        weight: Its `packed` is set.
        release: Replaces `weight.data` by an empty tensor, so that the weight is in memory once. A loader
            does this weight by weight. `reference.dequantize` then unpacks.
    """
    packed = weight.packed
    if packed is None:
        data = weight.data
        if data.dtype not in _CODES:
            raise TypeError(f"no packed form of {data.dtype} weights")
        if data.stride(-1) != 1:
            data = data.contiguous()
        n, k = weight.out_features, weight.in_features
        word = 1 if data.dtype == torch.float32 else 2
        target = torch.empty(-(-n // PANEL), -(-k // word), PANEL, word, dtype=data.dtype)
        _C.pack_weight(data.data_ptr(), _CODES[data.dtype], data.stride(0), n, k, target.data_ptr())
        packed = weight.packed = PackedDense(target, n, k)
    if release:
        weight.data = packed.data.new_empty(0)
    return packed


def _rows(x: Tensor) -> tuple[Tensor, int, int]:
    """x as a matrix with contiguous rows, copied only if it must be; how many rows; the step between them."""
    if x.dim() != 2:
        x = x.reshape(-1, x.shape[-1])
    stride, inner = x.stride()
    if inner != 1:
        x = x.contiguous()
        stride = x.stride(0)
    return x, x.shape[0], stride


def _code(x: Tensor) -> int:
    code = _CODES.get(x.dtype)
    if code is None:
        raise TypeError(f"the C++ kernels take float32 and bfloat16, not {x.dtype}")
    return code


def linear(x: Tensor, weight: LinearWeight, bias: Tensor | None = None) -> Tensor:
    """`reference.linear` for float weights. fp32 sums; a weight is not rounded to the dtype of x first."""
    packed = weight.packed
    if packed is None:
        packed = prepare(weight)
    n, k = packed.out_features, packed.in_features
    shape = x.shape
    if shape[-1] != k:
        raise ValueError(f"linear takes {k} input features, got x of shape {tuple(shape)}")
    rows, num_rows, stride = _rows(x)
    y = torch.empty((*shape[:-1], n), dtype=x.dtype)
    bias_address = bias_code = 0
    if bias is not None:
        if bias.numel() != n:
            raise ValueError(f"a bias of {n} values is needed, got shape {tuple(bias.shape)}")
        bias = bias.contiguous()
        bias_address, bias_code = bias.data_ptr(), _code(bias)
    _C.linear(
        rows.data_ptr(),
        _code(x),
        stride,
        num_rows,
        packed.data.data_ptr(),
        _CODES[packed.data.dtype],
        n,
        k,
        bias_address,
        bias_code,
        y.data_ptr(),
    )
    return y


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `reference.rms_norm`."""
    if weight.dtype != x.dtype:  # the result's dtype is then torch's promotion of both
        return reference.rms_norm(x, weight, eps)
    size = x.shape[-1]
    _check_channels(weight, size)
    rows, num_rows, stride = _rows(x)
    y = torch.empty(x.shape, dtype=x.dtype)
    weight = weight.contiguous()
    addresses = rows.data_ptr(), weight.data_ptr(), y.data_ptr()
    _C.rms_norm(addresses[0], stride, 0, 0, addresses[1], addresses[2], 0, _code(x), num_rows, size, eps)
    return y


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `reference.add_rms_norm`."""
    if weight.dtype != x.dtype or residual.dtype != x.dtype or residual.shape != x.shape:
        return reference.add_rms_norm(x, residual, weight, eps)
    size = x.shape[-1]
    _check_channels(weight, size)
    rows, num_rows, stride = _rows(x)
    others, _, other_stride = _rows(residual)
    y = torch.empty(x.shape, dtype=x.dtype)
    total = torch.empty(x.shape, dtype=x.dtype)
    weight = weight.contiguous()
    _C.rms_norm(
        rows.data_ptr(),
        stride,
        others.data_ptr(),
        other_stride,
        weight.data_ptr(),
        y.data_ptr(),
        total.data_ptr(),
        _code(x),
        num_rows,
        size,
        eps,
    )
    return y, total


def _check_channels(weight: Tensor, size: int) -> None:
    if weight.numel() != size:
        raise ValueError(f"a weight of {size} channels is needed, got shape {tuple(weight.shape)}")


def silu_and_mul(x: Tensor) -> Tensor:
    """See `reference.silu_and_mul`."""
    return _gate(x, _C.silu_and_mul)


def gelu_and_mul(x: Tensor, approximate: str = "tanh") -> Tensor:
    """See `reference.gelu_and_mul`; `approximate` other than "tanh" is computed there."""
    if approximate != "tanh":
        return reference.gelu_and_mul(x, approximate)
    return _gate(x, _C.gelu_and_mul)


def _gate(x: Tensor, kernel: Any) -> Tensor:
    shape = x.shape
    size, odd = divmod(shape[-1], 2)
    if odd:
        raise ValueError(f"gate and up need an even last dimension, got shape {tuple(shape)}")
    rows, num_rows, stride = _rows(x)
    y = torch.empty((*shape[:-1], size), dtype=x.dtype)
    kernel(rows.data_ptr(), stride, y.data_ptr(), _code(x), num_rows, size)
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
    if cache_block_size != block_size or cache_head_size != head_size or heads % num_kv_heads:
        raise ValueError(
            f"a cache of shape {tuple(shape)} does not fit {heads} heads of {head_size} channels "
            f"in blocks of {block_size}"
        )
    return num_blocks, num_kv_heads


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
    out = torch.empty((tokens, num_heads, head_size), dtype=q.dtype)
    _C.rope_and_cache_write(
        q.data_ptr(),
        q_stride,
        k.data_ptr(),
        k_stride,
        v.data_ptr(),
        v_stride,
        out.data_ptr(),
        _code(q),
        cos_sin.data_ptr(),
        rotary_size,
        num_positions,
        rotary_size // 2,
        kv_cache.data_ptr(),
        _code(kv_cache),
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
    out = torch.empty(shape, dtype=q.dtype)
    _C.paged_attention(
        q.data_ptr(),
        q_stride,
        out.data_ptr(),
        _code(q),
        kv_cache.data_ptr(),
        _code(kv_cache),
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

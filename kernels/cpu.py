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


def _rows(x: Tensor) -> Tensor:
    """x as a matrix with contiguous rows, copied only if it must be."""
    if x.dim() != 2:
        x = x.reshape(-1, x.shape[-1])
    return x if x.stride(1) == 1 else x.contiguous()


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
    rows = _rows(x)
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
        rows.stride(0),
        rows.shape[0],
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
    rows = _rows(x)
    y = torch.empty(x.shape, dtype=x.dtype)
    address = y.data_ptr()
    weight = weight.contiguous()
    _C.rms_norm(
        rows.data_ptr(),
        rows.stride(0),
        0,
        0,
        weight.data_ptr(),
        address,
        0,
        _code(x),
        rows.shape[0],
        size,
        eps,
    )
    return y


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `reference.add_rms_norm`."""
    if weight.dtype != x.dtype or residual.dtype != x.dtype or residual.shape != x.shape:
        return reference.add_rms_norm(x, residual, weight, eps)
    size = x.shape[-1]
    _check_channels(weight, size)
    rows, others = _rows(x), _rows(residual)
    y, total = torch.empty(x.shape, dtype=x.dtype), torch.empty(x.shape, dtype=x.dtype)
    weight = weight.contiguous()
    _C.rms_norm(
        rows.data_ptr(),
        rows.stride(0),
        others.data_ptr(),
        others.stride(0),
        weight.data_ptr(),
        y.data_ptr(),
        total.data_ptr(),
        _code(x),
        rows.shape[0],
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
    rows = _rows(x)
    y = torch.empty((*shape[:-1], size), dtype=x.dtype)
    kernel(rows.data_ptr(), rows.stride(0), y.data_ptr(), _code(x), rows.shape[0], size)
    return y


def _heads(x: Tensor) -> Tensor:
    """`[T, heads, head_size]` with contiguous heads, T at any stride; copied only if it must be."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def _check_cache(kv_cache: Tensor, heads: int, head_size: int, block_size: int) -> None:
    if kv_cache.dim() != 5 or not kv_cache.is_contiguous():
        raise ValueError("kv_cache must be a contiguous [2, num_blocks, num_kv_heads, block_size, head_size]")
    if kv_cache.shape[3] != block_size or kv_cache.shape[4] != head_size or heads % kv_cache.shape[2]:
        raise ValueError(
            f"a cache of shape {tuple(kv_cache.shape)} does not fit {heads} heads of {head_size} channels "
            f"in blocks of {block_size}"
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
    """See `reference.rope_and_cache_write`. Raises IndexError for a position or slot out of range."""
    tokens, num_heads, head_size = q.shape
    num_kv_heads = k.shape[1]
    _check_cache(kv_cache, num_kv_heads, head_size, meta.block_size)
    if k.shape != v.shape or k.shape != (tokens, kv_cache.shape[2], head_size):
        raise ValueError(f"q, k and v do not fit: {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}")
    if meta.positions.numel() < tokens or meta.slot_mapping.numel() < tokens:
        raise ValueError(f"{tokens} tokens need as many positions and slots")
    half = cos_sin.shape[1] // 2
    if 2 * half > head_size or cos_sin.dtype != torch.float32 or cos_sin.stride(1) != 1:
        raise ValueError("cos_sin must be float32 [positions, rotary_dim] with rotary_dim at most head_size")
    if k.dtype != q.dtype or v.dtype != q.dtype:
        raise TypeError(f"q, k and v must have one dtype, got {q.dtype}, {k.dtype} and {v.dtype}")
    q, k, v = _heads(q), _heads(k), _heads(v)
    norms = [_head_norm(norm, q.dtype, head_size) for norm in (q_norm, k_norm)]
    positions, slots = meta.positions.contiguous(), meta.slot_mapping.contiguous()
    if positions.dtype != torch.int64 or slots.dtype != torch.int64:
        raise TypeError("positions and slot_mapping must be int64")
    out = torch.empty((tokens, num_heads, head_size), dtype=q.dtype)
    _C.rope_and_cache_write(
        q.data_ptr(),
        q.stride(0),
        k.data_ptr(),
        k.stride(0),
        v.data_ptr(),
        v.stride(0),
        out.data_ptr(),
        _code(q),
        cos_sin.data_ptr(),
        cos_sin.stride(0),
        cos_sin.shape[0],
        half,
        kv_cache.data_ptr(),
        _code(kv_cache),
        kv_cache.stride(0),
        kv_cache.shape[1] * meta.block_size,
        positions.data_ptr(),
        slots.data_ptr(),
        tokens,
        num_heads,
        num_kv_heads,
        head_size,
        meta.block_size,
        0 if norms[0] is None else norms[0].data_ptr(),
        0 if norms[1] is None else norms[1].data_ptr(),
        norm_eps,
    )
    return out


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
    num_heads, head_size = q.shape[1], q.shape[2]
    _check_cache(kv_cache, num_heads, head_size, meta.block_size)
    q = _heads(q)
    starts, lengths, tables = meta.query_start, meta.seq_lens, meta.block_tables
    num_seqs = lengths.shape[0]
    if starts.dtype != torch.int32 or lengths.dtype != torch.int32 or tables.dtype != torch.int32:
        raise TypeError("query_start, seq_lens and block_tables must be int32")
    if starts.shape[0] != num_seqs + 1 or tables.shape[0] < num_seqs:
        raise ValueError(f"{num_seqs} sequences need {num_seqs + 1} starts and {num_seqs} block tables")
    if tables.stride(1) != 1:
        tables = tables.contiguous()
    if sinks is not None:
        sinks = sinks.float().contiguous()
    out = torch.empty(q.shape, dtype=q.dtype)
    _C.paged_attention(
        q.data_ptr(),
        q.stride(0),
        out.data_ptr(),
        _code(q),
        kv_cache.data_ptr(),
        _code(kv_cache),
        kv_cache.stride(0),
        kv_cache.shape[1],
        starts.data_ptr(),
        lengths.data_ptr(),
        tables.data_ptr(),
        tables.stride(0),
        tables.shape[1],
        num_seqs,
        num_heads,
        kv_cache.shape[2],
        head_size,
        meta.block_size,
        scale,
        window,
        softcap,
        0 if sinks is None else sinks.data_ptr(),
    )
    return out

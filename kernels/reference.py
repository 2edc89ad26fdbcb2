"""Every op in plain torch: the specification that all other implementations are tested against.

Values are computed in fp32 and rounded to the dtype of the result. These functions say *what* an op
computes; only the native columns also promise *in which order* (so that a token's result is the same
bit for bit whatever shares its batch).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .types import AttentionMetadata, LinearWeight


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension (Zhang & Sennrich, 2019)."""
    x32 = x.float()
    normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Returns `(rms_norm(x + residual), x + residual)`; the sum is rounded to the dtype of x."""
    total = x + residual
    return rms_norm(total, weight, eps), total


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (RoFormer, Su et al., 2021) in the half-split layout of Llama.

    Args:
        x: `[T, heads, head_size]`; only the first `2 * cos.shape[-1]` channels are rotated.
        cos: fp32 `[T, rotary_dim / 2]`.
        sin: fp32, same shape.
    """
    half = cos.shape[-1]
    x32 = x.float()
    first, second, rest = x32[..., :half], x32[..., half : 2 * half], x32[..., 2 * half :]
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), -1).to(x.dtype)


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
    """Optionally RMS-normalises each head of q and k, rotates both, and writes k and v to the cache.

    Args:
        q: `[T, num_heads, head_size]`.
        k: `[T, num_kv_heads, head_size]`.
        v: `[T, num_kv_heads, head_size]`.
        cos_sin: fp32 `[positions, rotary_dim]`: cosines, then sines.
        kv_cache: `[2, num_blocks, num_kv_heads, block_size, head_size]`, written in place.
        meta: Gives positions and slots.
        q_norm: `[head_size]`, the per-head norm of Qwen3, or None.
        k_norm: Likewise for k.
        norm_eps: Epsilon of both norms.

    Returns:
        The rotated q, in the shape and dtype of q.
    """
    if q_norm is not None:
        q = rms_norm(q, q_norm, norm_eps)
    if k_norm is not None:
        k = rms_norm(k, k_norm, norm_eps)
    cos, sin = cos_sin[meta.positions].chunk(2, -1)
    block, offset = meta.slot_mapping // meta.block_size, meta.slot_mapping % meta.block_size
    kv_cache[0, block, :, offset] = rotate(k, cos, sin).to(kv_cache.dtype)
    kv_cache[1, block, :, offset] = v.to(kv_cache.dtype)
    return rotate(q, cos, sin)


def paged_attention(
    q: Tensor,
    kv_cache: Tensor,
    meta: AttentionMetadata,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention of packed queries over a paged KV cache (PagedAttention, Kwon et al., 2023).

    `softmax(mask(cap(q @ k.T * scale))) @ v`, where query head h reads KV head
    `h // (num_heads / num_kv_heads)` and a query at position p sees keys `max(0, p - window + 1)..p`.

    Args:
        q: `[T, num_heads, head_size]`.
        kv_cache: `[2, num_blocks, num_kv_heads, block_size, head_size]`.
        meta: Gives each sequence's rows, length and block table.
        scale: Usually `head_size ** -0.5`.
        window: Sliding window in tokens, 0 for none.
        softcap: `cap(s) = softcap * tanh(s / softcap)`, 0 for none (Gemma 2).
        sinks: `[num_heads]`, a logit per head that takes part in the softmax's sum only (gpt-oss).

    Returns:
        `[T, num_heads, head_size]` in the dtype of q.
    """
    out = torch.empty_like(q)
    starts, lengths = meta.query_start.tolist(), meta.seq_lens.tolist()
    groups = q.shape[1] // kv_cache.shape[2]
    for s, length in enumerate(lengths):
        begin, end = starts[s], starts[s + 1]
        if begin == end:
            continue
        blocks = meta.block_tables[s, : -(-length // meta.block_size)].long()
        # [2, blocks, heads, block_size, size] -> [2, heads, length, size]
        kv = kv_cache[:, blocks].transpose(1, 2).flatten(2, 3)[:, :, :length].float()
        k, v = kv.repeat_interleave(groups, dim=1)
        scores = q[begin:end].float().transpose(0, 1) @ k.transpose(1, 2) * scale
        if softcap > 0:
            scores = softcap * torch.tanh(scores / softcap)
        query = torch.arange(length - (end - begin), length, device=q.device)[:, None]
        key = torch.arange(length, device=q.device)[None, :]
        hidden = key > query
        if window > 0:
            hidden |= key <= query - window
        scores = scores.masked_fill(hidden, float("-inf"))
        if sinks is not None:
            sink = sinks.float()[:, None, None].expand(-1, scores.shape[1], 1)
            weights = torch.softmax(torch.cat((scores, sink), -1), -1)[..., :-1]
        else:
            weights = torch.softmax(scores, -1)
        out[begin:end] = (weights @ v).transpose(0, 1).to(q.dtype)
    return out


def dequantize(weight: LinearWeight) -> Tensor:
    """The weight as an fp32 matrix `[N, K]` (for float formats: in its own dtype)."""
    if weight.scales is None:
        if weight.data.numel() == 0 and weight.packed is not None:  # the loader kept only the packed form
            return weight.packed.unpack()
        return weight.data
    if weight.format == "int4":
        q = torch.stack((weight.data & 15, weight.data >> 4), -1).flatten(1).float()
        default_zero = 8.0
    else:
        q = weight.data.float()
        default_zero = 0.0
    groups = q.view(weight.out_features, -1, weight.group_size)
    zeros = default_zero if weight.zeros is None else weight.zeros.float()[..., None]
    return ((groups - zeros) * weight.scales.float()[..., None]).view(weight.out_features, weight.in_features)


def linear(x: Tensor, weight: LinearWeight, bias: Tensor | None = None) -> Tensor:
    """`x @ W.T + bias` over the last dimension, for every weight format; result in the dtype of x."""
    return F.linear(x, dequantize(weight).to(x.dtype), bias)


def silu_and_mul(x: Tensor) -> Tensor:
    """SwiGLU's gate (Shazeer, 2020): `silu(gate) * up`, where x is `[..., gate | up]`."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def gelu_and_mul(x: Tensor, approximate: str = "tanh") -> Tensor:
    """GEGLU's gate: `gelu(gate) * up`, where x is `[..., gate | up]`."""
    gate, up = x.chunk(2, -1)
    return F.gelu(gate, approximate=approximate) * up


def moe(
    x: Tensor, router_logits: Tensor, gate_up: Tensor, down: Tensor, top_k: int, renormalize: bool = True
) -> Tensor:
    """Mixture of gated experts: each token's `top_k` experts, weighted by the router's softmax.

    Args:
        x: `[T, hidden]`.
        router_logits: `[T, experts]`.
        gate_up: `[experts, 2 * intermediate, hidden]`.
        down: `[experts, hidden, intermediate]`.
        top_k: Experts per token.
        renormalize: Whether the chosen weights are rescaled to sum to one (Mixtral does).
    """
    weights, chosen = torch.softmax(router_logits.float(), -1).topk(top_k, -1)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    out = torch.zeros_like(x, dtype=torch.float32)
    for expert in chosen.unique().tolist():
        row, place = (chosen == expert).nonzero(as_tuple=True)
        y = F.linear(silu_and_mul(F.linear(x[row], gate_up[expert])), down[expert])
        out.index_add_(0, row, y.float() * weights[row, place, None])
    return out.to(x.dtype)

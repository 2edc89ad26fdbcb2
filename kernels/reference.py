"""Every op in plain torch: the specification that all other implementations are tested against.

Values are computed in fp32 and rounded to the dtype of the result. These functions say *what* an op
computes; only the native columns also promise *in which order* (so that a token's result is the same
bit for bit whatever shares its batch).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .philox import exponential, token_words
from .types import CACHE_SCALE_BYTES, AttentionMetadata, LinearWeight, PackedSequences, WeightFormat

MIN_TEMPERATURE = 1e-6
"""Below it, all but the best token have probability 0 in fp32 anyway."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension (Zhang & Sennrich, 2019)."""
    x32 = x.float()
    normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Returns `(rms_norm(x + residual), x + residual)`; the sum is rounded to the dtype of x."""
    total = x + residual
    return rms_norm(total, weight, eps), total


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """`(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last dimension (Ba et al., 2016)."""
    bias32 = None if bias is None else bias.float()
    return F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias32, eps).to(x.dtype)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Returns `(layer_norm(x + residual), x + residual)`; the sum is rounded to the dtype of x."""
    total = x + residual
    return layer_norm(total, weight, bias, eps), total


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


def rope(x: Tensor, cos_sin: Tensor, positions: Tensor) -> Tensor:
    """Rotates heads `[T, heads, head_size]` by their positions, int64 `[T]`; see `rotate`.

    `cos_sin` is the table that `rope_and_cache_write` reads.
    """
    cos, sin = cos_sin[positions].chunk(2, -1)
    return rotate(x, cos, sin)


def to_cache(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Heads `[..., head_size]` as a KV cache of a dtype holds them.

    An int8 cache rounds each head by itself (`quantize_rows`) and keeps its scale, an fp32, in the four
    bytes behind it: its rows have `head_size + 4` elements. A float8_e4m3fn cache has no scales: what lies
    beyond its range, which ends at 448, becomes its end.
    """
    if dtype == torch.float8_e4m3fn:
        largest = torch.finfo(dtype).max
        return x.float().clamp(-largest, largest).to(dtype)
    if dtype != torch.int8:
        return x.to(dtype)
    q, scale = quantize_rows(x)
    return torch.cat((q, scale.contiguous().view(torch.int8)), -1)


def from_cache(rows: Tensor) -> Tensor:
    """The inverse of `to_cache`, as fp32."""
    if rows.dtype != torch.int8:
        return rows.float()
    scale = rows[..., -CACHE_SCALE_BYTES:].contiguous().view(torch.float32)
    return rows[..., :-CACHE_SCALE_BYTES].float() * scale


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
        kv_cache: `[2, num_blocks, num_kv_heads, block_size, head_size]` (int8: `head_size + 4`, see
            `to_cache`), written in place.
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
    kv_cache[0, block, :, offset] = to_cache(rotate(k, cos, sin), kv_cache.dtype)
    kv_cache[1, block, :, offset] = to_cache(v, kv_cache.dtype)
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
        kv_cache: `[2, num_blocks, num_kv_heads, block_size, head_size]` (int8: `head_size + 4`).
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
        kv = from_cache(kv_cache[:, blocks].transpose(1, 2).flatten(2, 3)[:, :, :length])
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


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, sequences: PackedSequences, scale: float, window: int = 0
) -> Tensor:
    """Attention in both directions, of each sequence to itself.

    `softmax(mask(q @ k.T * scale)) @ v`, where query head h reads KV head `h // (num_heads / num_kv_heads)`
    and a query at position p sees the keys `p - window..p + window` of its sequence, or all of them.

    Args:
        q: `[T, num_heads, head_size]`.
        k: `[T, num_kv_heads, head_size]`.
        v: `[T, num_kv_heads, head_size]`.
        sequences: Whose rows are whose.
        scale: Usually `head_size ** -0.5`.
        window: How far a query sees to each side, 0 for the whole sequence.

    Returns:
        `[T, num_heads, head_size]` in the dtype of q.
    """
    out = torch.empty_like(q)
    groups = q.shape[1] // k.shape[1]
    starts = sequences.starts.tolist()
    for begin, end in pairwise(starts):
        queries = q[begin:end].float().transpose(0, 1)
        keys, values = (x[begin:end].float().transpose(0, 1).repeat_interleave(groups, dim=0) for x in (k, v))
        scores = queries @ keys.transpose(1, 2) * scale
        if window > 0:
            position = torch.arange(end - begin, device=q.device)
            hidden = (position[:, None] - position[None, :]).abs() > window
            scores = scores.masked_fill(hidden, float("-inf"))
        out[begin:end] = (torch.softmax(scores, -1) @ values).transpose(0, 1).to(q.dtype)
    return out


def dequantize(weight: LinearWeight) -> Tensor:
    """The weight as an fp32 matrix `[N, K]` (for float formats: in its own dtype)."""
    if weight.data.numel() == 0 and weight.packed is not None:  # the loader kept only the packed form
        return weight.packed.unpack()
    if weight.scales is None:
        return weight.data
    k = weight.in_features
    q, zero = weight.data, 0.0
    if weight.format == "int4":
        q = torch.stack((weight.data & 15, weight.data >> 4), -1).flatten(1)[:, :k]
        zero = 8.0
    zeros = zero if weight.zeros is None else _per_column(weight.zeros, weight)
    values = (q.float() - zeros) * _per_column(weight.scales, weight)
    if weight.order is None:
        return values
    return torch.empty_like(values).index_copy_(1, weight.order.long(), values)


def _per_column(values: Tensor, weight: LinearWeight) -> Tensor:
    """One value per group, `[N, groups]`, as one value per column, fp32 `[N, K]`."""
    return values.float().repeat_interleave(weight.group_size, dim=1)[:, : weight.in_features]


def quantize_weight(
    dense: Tensor, format: WeightFormat, group_size: int, scale_dtype: torch.dtype = torch.float16
) -> LinearWeight:
    """Rounds a float matrix to the symmetric int8 or int4 form, to the nearest value (RTN).

    In each group the value of largest magnitude, m, decides the scale (of two, the negative one). int8
    takes `|m| / 127`. int4 has one more value below zero than above, and takes `m / -8`, so that m itself
    is met exactly (llama.cpp's Q4_0). The scale is rounded to its dtype first, and the values are rounded
    in its terms; where its inverse is not finite, they are zeros. A group with a value that is not finite
    gets the scale NaN.

    Args:
        dense: `[N, K]`, float.
        format: "int8" or "int4".
        group_size: Columns that share a scale; K or more for one scale per row.
        scale_dtype: Of the scales.
    """
    n, k = dense.shape
    group_size = min(group_size, -(-k // 8) * 8)
    groups = -(-k // group_size)
    values = F.pad(dense.float(), (0, groups * group_size - k)).view(n, groups, group_size)
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    largest = torch.where(-low >= high, low, high)
    largest = torch.where(torch.isfinite(largest), largest, torch.nan)
    scales = largest / -8 if format == "int4" else largest.abs() / 127
    scales = (scales + 0.0).to(scale_dtype)  # the sum makes the scale of zeros +0
    inverse = 1.0 / scales.float()
    q = torch.where(torch.isfinite(inverse), torch.round(values * inverse), 0.0)
    q = q.clamp(-8, 7) + 8 if format == "int4" else q.clamp(-127, 127)
    q = q.view(n, -1)[:, :k]
    if format == "int4":
        q = F.pad(q.to(torch.uint8), (0, k % 2), value=8)
        data = q[:, ::2] | q[:, 1::2] << 4
    else:
        data = q.to(torch.int8)
    return LinearWeight(format, n, k, data.contiguous(), scales[..., 0].contiguous(), None, group_size)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each row to int8, symmetrically: `x ~ q * scale`, where scale is `max|x| / 127`.

    Returns:
        int8 in the shape of x, and the scales, fp32 `[..., 1]`. A row with a value that is not finite
        becomes zeros with the scale NaN, so that it poisons its own results and no others. A row so small
        that `127 / max|x|` is not finite becomes zeros.
    """
    x32 = x.float()
    largest = x32.abs().amax(-1, keepdim=True)
    finite = torch.isfinite(largest)
    # A quotient, not `127.0 / largest`, which torch computes as a reciprocal times 127.
    inverse = torch.full_like(largest, 127.0) / largest
    q = torch.where(finite & torch.isfinite(inverse), torch.round(x32 * inverse), 0.0).clamp(-127, 127)
    return q.to(torch.int8), torch.where(finite, largest / 127.0, torch.nan)


def linear(x: Tensor, weight: LinearWeight, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """`x @ W.T + bias` over the last dimension, for every weight format.

    The result is written to `out` and has its dtype, or is a new tensor in the dtype of x.

    Where the weight asks for int8 activations, x is first rounded as by `quantize_rows`. That rounding
    is an error of at most half of `max|x| / 127` in each value of x, and the only one: integer products
    are exact, scales and sums are fp32.
    """
    if weight.scales is None:
        y = F.linear(x, dequantize(weight).to(x.dtype), bias)
        return y if out is None else out.copy_(y)
    if weight.int8_activations:
        q, scale = quantize_rows(x)
        y = F.linear(q.float(), dequantize(weight)) * scale
    else:
        y = F.linear(x.float(), dequantize(weight))
    y = y if bias is None else y + bias.float()
    return y.to(x.dtype) if out is None else out.copy_(y)


def embedding(ids: Tensor, weight: LinearWeight, dtype: torch.dtype) -> Tensor:
    """Rows `ids` of W as `[len(ids), K]` in a dtype; the matrix may also be an output projection's."""
    if weight.data.numel() == 0 and weight.packed is not None:
        return weight.packed.rows_as(ids, dtype)
    return dequantize(weight)[ids].to(dtype)


def silu_and_mul(x: Tensor) -> Tensor:
    """SwiGLU's gate (Shazeer, 2020): `silu(gate) * up`, where x is `[..., gate | up]`."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def gelu_and_mul(x: Tensor, approximate: str = "tanh") -> Tensor:
    """GEGLU's gate: `gelu(gate) * up`, where x is `[..., gate | up]`."""
    gate, up = x.chunk(2, -1)
    return F.gelu(gate, approximate=approximate) * up


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit (Hendrycks & Gimpel, 2016): `x * Phi(x)`; "tanh" approximates Phi."""
    return F.gelu(x, approximate=approximate)


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


def argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's largest value and where it is, the first of equals; the value is NaN if the row has one.

    Args:
        logits: fp32 `[R, vocab]`.

    Returns:
        fp32 `[R]` and int64 `[R]`.
    """
    values, indices = logits.max(dim=-1)
    return values, indices


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
) -> Tensor:
    """Draws a token of each row by Gumbel-max, with noise that seed, position and token alone decide.

    In this order: temperature; the `top_k` most likely tokens; of these the fewest, from the most likely
    down, whose probabilities sum up to `top_p` of theirs; of these all with `min_p` of the probability of
    the most likely one. Tokens that tie with the least likely token kept are kept too. A row with a NaN gets
    any token.

    Args:
        logits: fp32 `[R, vocab]`.
        temperature: fp32 `[R]`; 0 is greedy, the first of equals.
        top_k: int32 `[R]`; 0 for all.
        top_p: fp32 `[R]`; 1 for all.
        min_p: fp32 `[R]`; 0 for all.
        seeds: int64 `[R]`, any bits.
        positions: int64 `[R]`.

    Returns:
        int64 `[R]`.
    """
    vocab = logits.shape[1]
    best, greedy = argmax(logits)
    weights = torch.exp((logits - best[:, None]) / temperature.clamp(min=MIN_TEMPERATURE)[:, None])
    ordered = weights.sort(-1, descending=True).values
    k = torch.where((top_k > 0) & (top_k < vocab), top_k, vocab).long()[:, None]
    inside = torch.arange(vocab, device=logits.device) < k
    sums = torch.where(inside, ordered, 0.0).double().cumsum(-1)
    count = (sums < top_p.double()[:, None] * sums[:, -1:]).sum(-1, keepdim=True)
    last = torch.where(top_p[:, None] < 1.0, count.minimum(k - 1), k - 1)
    threshold = torch.maximum(ordered.gather(1, last), min_p[:, None])
    noise = exponential(token_words(seeds, positions, vocab))
    # The largest of log(w) - log(e), as -log(e) is Gumbel noise.
    race = torch.where(weights >= threshold, weights / noise, -1.0)
    return torch.where(temperature > 0.0, argmax(race)[1], greedy)

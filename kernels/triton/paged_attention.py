"""Paged attention: sequences with one query by `paged_decode`, all others by `paged_prefill`.

Each kernel leaves at once where a sequence is the other's, so that a step may mix both kinds, and the host
needs to know nothing of them but shapes and `meta.max_query_len`.

What holds bit for bit, because both kernels do the same operations in the same order (see `paged_tile`) over
tiles and chunks of keys counted from position 0:

- A sequence's rows do not depend on the other sequences of the step, on padding, on where its blocks lie or
  on their size, or on how many programs share its keys.
- A token's row does not depend on how its prompt is cut into chunks, on what the prefix cache had of it, or
  on whether it is decoded or, after a preemption, computed again as part of a prompt.

The first is so on every GPU. The second takes for granted that an element of a matrix product does not depend
on the size of the tile that it is computed in. That is so in the interpreter, and where both kernels run on
the same instruction: mma.sync on Ampere and Ada, and the multiply-adds of fp32 everywhere. On Hopper prompts
run on wgmma and single queries on mma.sync: a prompt's rows then do not depend on its chunks as long as no
chunk is a single token, and whether the two instructions round alike has not been tried.

A NaN or an infinity among the values of a token reaches the earlier tokens of its own sequence that share a
tile of queries with it, as it does in the reference; it reaches no other sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import AttentionMetadata
from .paged_decode import launch_decode
from .paged_launch import CacheKind, Problem, converts_float8
from .paged_prefill import launch_prefill
from .support import MAX_GROUP


def paged_attention(
    q: Tensor,
    kv_cache: Tensor,
    meta: AttentionMetadata,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    """See `reference.paged_attention`. The scale must be above zero."""
    num_tokens, num_heads, head_size = q.shape
    kind: CacheKind = "float"
    if kv_cache.dtype == torch.int8:
        kind = "int8"
    elif kv_cache.dtype == torch.float8_e4m3fn:
        kind = "fp8" if converts_float8(q) else "fp8_bits"
    problem = Problem(
        num_heads,
        kv_cache.shape[2],
        head_size,
        meta.block_size,
        q.dtype,
        kind,
        kv_cache.dtype,
        scale,
        window,
        softcap,
    )
    _check(problem, kv_cache, meta, sinks)
    out = torch.empty((num_tokens, num_heads, head_size), dtype=q.dtype, device=q.device)
    if num_tokens == 0:
        return out
    if q.stride(2) != 1 or q.stride(1) != head_size:
        q = q.contiguous()
    scales = kv_cache.view(torch.float32) if kind == "int8" else kv_cache
    if kind == "fp8_bits":
        kv_cache = scales = kv_cache.view(torch.uint8)
    if meta.max_query_len > 1:
        launch_prefill(out, q, kv_cache, scales, meta, problem, sinks)
    if meta.max_query_len == 1 or meta.seq_lens.shape[0] > 1:
        launch_decode(out, q, kv_cache, scales, meta, problem, sinks)
    return out


def _check(problem: Problem, kv_cache: Tensor, meta: AttentionMetadata, sinks: Tensor | None) -> None:
    """Raises ValueError for what the kernels would read wrongly."""
    num_kv_heads, heads = problem.num_kv_heads, problem.num_heads
    expected = (2, kv_cache.shape[1], num_kv_heads, problem.block_size, problem.row)
    if tuple(kv_cache.shape) != expected or not kv_cache.is_contiguous() or heads % num_kv_heads:
        raise ValueError(
            f"a cache of shape {tuple(kv_cache.shape)}, which must be contiguous, does not fit {heads} heads "
            f"of {problem.head_size} channels in blocks of {problem.block_size}"
        )
    if not problem.scale > 0:
        raise ValueError(f"scale must be above zero, got {problem.scale!r}")
    if problem.group > MAX_GROUP:
        raise ValueError(f"{problem.group} heads for each KV head are more than {MAX_GROUP}")
    if meta.block_tables.stride(1) != 1:
        raise ValueError("a sequence's row of block_tables must be contiguous")
    if sinks is not None and (sinks.shape != (heads,) or not sinks.is_contiguous()):
        raise ValueError(f"sinks must be contiguous, [{heads}], got shape {tuple(sinks.shape)}")

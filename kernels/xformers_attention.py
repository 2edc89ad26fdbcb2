"""Paged attention by xformers' memory-efficient attention, for GPUs on which Triton cannot run.

Its ops for paged masks ask for pages of 64 tokens and more, and for equally many queries in each sequence. So
each call copies the keys and values that it needs, a packed run per sequence, and uses the mask for packed
sequences (`BlockDiagonalCausalFromBottomRightMask`), which all its ops for NVIDIA GPUs take. The mask wants
lengths on the host: a call waits for the device and cannot be part of a CUDA graph. What a sequence gets may
depend on the batch.

xformers: Lefaudeux et al., 2022, https://github.com/facebookresearch/xformers
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .types import AttentionMetadata

DTYPES = (torch.float16, torch.bfloat16)
MAX_HEAD_SIZE = 256


@cache
def unavailable() -> str | None:
    """Why xformers cannot run here, or None."""
    if importlib.util.find_spec("xformers") is None:
        return "xformers is not installed"
    if not torch.cuda.is_available():
        return "torch finds no usable GPU"
    fmha: Any = importlib.import_module("xformers.ops.fmha")
    if not (fmha.flash.FwOp.is_available() or fmha.cutlass.FwOp.is_available()):
        return "xformers was built without an attention op for this GPU"
    return None


def accepts(
    q: Tensor,
    kv_cache: Tensor,
    _meta: AttentionMetadata,
    _scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
) -> str | None:
    """None, or what of a call xformers cannot do."""
    if q.dtype not in DTYPES:
        return f"no kernel for {q.dtype}"
    if kv_cache.dtype != q.dtype:
        return f"no kernel for {q.dtype} over a cache in {kv_cache.dtype}"
    if q.shape[2] % 8 or q.shape[2] > MAX_HEAD_SIZE:
        return f"no kernel for heads of {q.shape[2]} channels"
    for name, given in (("windows", window > 0), ("soft-caps", softcap > 0), ("sinks", sinks is not None)):
        if given:
            return f"no {name}"
    return None


def paged_attention(
    q: Tensor,
    kv_cache: Tensor,
    meta: AttentionMetadata,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    """See `reference.paged_attention`. Raises ValueError for what `accepts` refuses."""
    reason = accepts(q, kv_cache, meta, scale, window, softcap, sinks)
    if reason is not None:
        raise ValueError(f"xformers: {reason}")
    num_tokens, num_heads, head_size = q.shape
    num_kv_heads = kv_cache.shape[2]
    starts, lengths = meta.query_start.tolist(), meta.seq_lens.tolist()
    seqs = [s for s in range(len(lengths)) if starts[s + 1] > starts[s]]
    if not seqs:
        return torch.empty_like(q, memory_format=torch.contiguous_format)
    queries = [starts[s + 1] - starts[s] for s in seqs]
    lengths = [lengths[s] for s in seqs]
    keys, values = _gather(kv_cache, meta, seqs, lengths)

    fmha: Any = importlib.import_module("xformers.ops.fmha")
    masks: Any = importlib.import_module("xformers.ops.fmha.attn_bias")
    mask = masks.BlockDiagonalCausalFromBottomRightMask.from_seqlens(queries, lengths, device=q.device)
    group = num_heads // num_kv_heads
    # [1, tokens, KV heads, heads of each, channels]; the heads of a group share one key by a stride of zero.
    shared = (1, -1, num_kv_heads, group, head_size)
    out: Tensor = fmha.memory_efficient_attention_forward(
        q.reshape(1, num_tokens, num_kv_heads, group, head_size),
        keys[None, :, :, None].expand(shared),
        values[None, :, :, None].expand(shared),
        attn_bias=mask,
        scale=scale,
    )
    return out.reshape(num_tokens, num_heads, head_size)


def _gather(
    kv_cache: Tensor, meta: AttentionMetadata, seqs: list[int], lengths: list[int]
) -> tuple[Tensor, Tensor]:
    """Keys and values of some sequences, one after the other: each `[sum(lengths), kv_heads, head_size]`."""
    counts = torch.tensor(lengths, device=kv_cache.device)
    first = counts.cumsum(0) - counts
    position = torch.arange(sum(lengths), device=kv_cache.device) - first.repeat_interleave(counts)
    seq = torch.tensor(seqs, device=kv_cache.device).repeat_interleave(counts)
    block = meta.block_tables[seq, position // meta.block_size].long()
    keys, values = kv_cache[:, block, :, position % meta.block_size].transpose(0, 1)
    return keys, values

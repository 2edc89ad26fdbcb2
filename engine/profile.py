"""How much memory a step takes besides weights and cache: by running the largest one."""

from __future__ import annotations

import itertools

import torch

from ..kernels.types import AttentionMetadata
from .memory import KVCacheShape
from .model_runner import Model


@torch.inference_mode()
def run_largest_step(
    model: Model,
    shape: KVCacheShape,
    *,
    device: torch.device,
    dtype: torch.dtype,
    num_tokens: int,
    num_seqs: int,
    max_model_len: int,
) -> None:
    """Runs a step of `num_tokens` prompt tokens and samples `num_seqs` rows, over a throw-away cache.

    Args:
        model: The loaded model.
        shape: Of the cache.
        device: Of model and cache.
        dtype: Of the cache.
        num_tokens: The step's token budget.
        num_seqs: Most requests that sample in one step.
        max_model_len: No sequence of the step is longer.
    """
    length = min(num_tokens, max_model_len)
    num_blocks = -(-length // shape.block_size)
    dims = (2, num_blocks, shape.num_kv_heads, shape.block_size, shape.bytes_per_head // dtype.itemsize)
    caches = [torch.zeros(dims, dtype=dtype, device=device) for _ in range(shape.num_layers)]
    # All sequences may share the cache: what the step computes is of no interest.
    starts = [*range(0, num_tokens, length), num_tokens]
    lengths = [end - start for start, end in itertools.pairwise(starts)]
    positions = torch.cat([torch.arange(n, device=device) for n in lengths])
    meta = AttentionMetadata(
        positions=positions,
        slot_mapping=positions,
        query_start=torch.tensor(starts, dtype=torch.int32, device=device),
        seq_lens=torch.tensor(lengths, dtype=torch.int32, device=device),
        block_tables=torch.arange(num_blocks, dtype=torch.int32, device=device).repeat(len(lengths), 1),
        block_size=shape.block_size,
        max_query_len=length,
        max_seq_len=length,
    )
    hidden = model.forward(torch.zeros(num_tokens, dtype=torch.int64, device=device), caches, meta)
    logits = model.compute_logits(hidden[:1].expand(num_seqs, -1).contiguous())
    torch.softmax(logits, dim=-1).argmax(dim=-1)

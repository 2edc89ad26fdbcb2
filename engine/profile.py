"""How much memory a step takes besides weights and cache, and what to do when that was not all."""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from ..errors import ModelTooLarge
from ..kernels.types import AttentionMetadata
from .decode_graphs import Model
from .memory import KVCacheShape, MemoryPlan, format_bytes

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_ATTEMPTS = 4
"""Sizes of the pool that are tried before the model counts as too large."""

SHRINK = 0.85
"""Each next size is this part of the one before."""


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


def with_smaller_pools(
    plan_within: Callable[[int | None], MemoryPlan], start: Callable[[MemoryPlan], T], *, may_shrink: bool
) -> T:
    """Starts with a pool of the planned size; if the memory does not suffice, with smaller ones.

    The profile does not see everything: what compiling and capturing take, and other processes.

    Args:
        plan_within: Plans a pool of at most so many bytes; None for no such limit.
        start: Allocates the pool and does all that needs memory.
        may_shrink: Whether the pool may be smaller than planned at first.

    Raises:
        ModelTooLarge: If it never suffices.
    """
    plan = plan_within(None)
    for attempt in itertools.count(1):
        size = plan.num_blocks * plan.shape.bytes_per_block
        try:
            return start(plan)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0] or type(error).__name__
        # What the attempt held went with its exception.
        gc.collect()
        torch.cuda.empty_cache()
        if not may_shrink or attempt == MAX_ATTEMPTS:
            raise ModelTooLarge(
                f"the memory does not suffice for a KV cache of {plan.num_blocks} blocks "
                f"({format_bytes(size)}) beside what the model needs to run ({reason}); a smaller "
                "num_blocks, memory_fraction, max_num_seqs or max_num_batched_tokens would need less"
            )
        limit = int(size * SHRINK)
        logger.warning(
            "out of memory with a KV cache of %s (%s); trying again with at most %s",
            format_bytes(size),
            reason,
            format_bytes(limit),
        )
        plan = plan_within(limit)
    raise AssertionError("the loop ends by itself")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it followed, is that a GPU has no memory left."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False

"""The KV cache of a model that is going to run: what a block costs, how many fit, and their tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelTooLarge
from ..kernels.types import CACHE_SCALE_BYTES
from ..models.causal_lm import CausalLM
from ..models.sharding import kv_heads_of
from .config import EngineConfig
from .decode_graphs import GraphMaker
from .memory import (
    CPU_MEMORY_FRACTION,
    GPU_MEMORY_FRACTION,
    KVCacheShape,
    MemoryPlan,
    available_ram,
    plan_pool,
)
from .model_choice import ModelChoice
from .profile import run_largest_step

CPU_BATCHED_TOKENS = 512
CPU_PREFILL_TOKENS = 64
GPU_BATCHED_TOKENS = 8192


def kv_cache_shape(choice: ModelChoice, block_size: int) -> KVCacheShape:
    """What a cache block of this model costs, at one of its ranks."""
    model, dtype = choice.config, choice.cache_dtype
    return KVCacheShape(
        num_layers=model.num_layers,
        num_kv_heads=kv_heads_of(model, choice.tensor_parallel_size),
        head_size=model.head_size,
        block_size=block_size,
        dtype_size=dtype.itemsize,
        scale_size=CACHE_SCALE_BYTES if dtype == torch.int8 else 0,
        num_ranks=choice.tensor_parallel_size,
    )


def cache_blocks(choice: ModelChoice, plan: MemoryPlan, maker: GraphMaker | None) -> int:
    """Blocks of the cache: those of the pool and, where decoding steps are padded, one for the padding."""
    return plan.num_blocks + (0 if choice.device.type == "cpu" and maker is None else 1)


def step_tokens(config: EngineConfig, choice: ModelChoice) -> int:
    """The most tokens of a step."""
    default = CPU_BATCHED_TOKENS if choice.device.type == "cpu" else GPU_BATCHED_TOKENS
    return config.max_num_batched_tokens or default


def prefill_tokens(config: EngineConfig, choice: ModelChoice) -> int | None:
    """The most tokens of prompts in a step in which others decode, or None."""
    default = CPU_PREFILL_TOKENS if choice.device.type == "cpu" else None
    return config.max_num_prefill_tokens or default


def to_come(config: EngineConfig, choice: ModelChoice, model: CausalLM) -> int:
    """Bytes that are free once the model is loaded, but not for the cache. All ranks call it at once."""
    # Pages of mapped weights count as free memory, which they are only until they are needed again.
    taken = _activation_bytes(config, choice, model, step_tokens(config, choice)) + model.num_mapped_bytes
    if choice.device.type != "cpu":
        taken += kv_cache_shape(choice, config.block_size).bytes_per_block  # the padding's
    return taken


def _activation_bytes(config: EngineConfig, choice: ModelChoice, model: CausalLM, num_tokens: int) -> int:
    """What the largest step takes on a GPU besides weights and cache, measured by running it.

    On a CPU the fraction of memory that the pool leaves is for this too, and nothing is run.
    """
    if choice.device.type == "cpu":
        return 0
    torch.cuda.reset_peak_memory_stats(choice.device)
    try:
        run_largest_step(
            model,
            kv_cache_shape(choice, config.block_size),
            device=choice.device,
            dtype=choice.cache_dtype,
            num_tokens=num_tokens,
            num_seqs=config.max_num_seqs,
            max_model_len=choice.max_model_len,
        )
    except torch.OutOfMemoryError as error:
        raise ModelTooLarge(
            f"a step of {num_tokens} tokens does not fit the memory beside the weights "
            f"({str(error).splitlines()[0]}); a smaller max_num_batched_tokens would need less",
            param="max_num_batched_tokens",
        ) from error
    torch.cuda.synchronize(choice.device)
    peak = torch.cuda.max_memory_reserved(choice.device)
    torch.cuda.empty_cache()
    return peak - torch.cuda.memory_reserved(choice.device)


def pool_budget(config: EngineConfig, choice: ModelChoice, *, to_come: int = 0) -> int:
    """Bytes that the block pool may take at this rank, of the memory that is available now.

    Args:
        config: All settings.
        choice: The model.
        to_come: Bytes that are free now and will be taken by something else: activations, or
            weights that are not loaded yet.
    """
    if choice.device.type == "cpu":
        free = max(0, available_ram() - to_come)
        return int(free * (config.memory_fraction or CPU_MEMORY_FRACTION)) // choice.tensor_parallel_size
    free, total = torch.cuda.mem_get_info(choice.device)
    allowed = int(total * (config.memory_fraction or GPU_MEMORY_FRACTION))
    return max(0, allowed - (total - free) - to_come)


def plan_memory(config: EngineConfig, choice: ModelChoice, budget: int) -> MemoryPlan:
    """Sizes the block pool by the bytes that each rank's part of it, that of its own heads, may take."""
    return plan_pool(
        kv_cache_shape(choice, config.block_size),
        budget=budget,
        max_model_len=choice.max_model_len,
        max_num_seqs=config.max_num_seqs,
        num_blocks=config.num_blocks,
        may_shrink=config.max_model_len is None,
    )


def allocate_kv_caches(choice: ModelChoice, plan: MemoryPlan, num_blocks: int | None = None) -> list[Tensor]:
    """One zeroed cache per layer, `[2, num_blocks, num_kv_heads, block_size, head_size]` and its scale.

    Args:
        choice: The model, and where it runs.
        plan: The size of the pool.
        num_blocks: Blocks of the cache, if it shall have more than the pool.
    """
    shape, dtype = plan.shape, choice.cache_dtype
    num_blocks = num_blocks or plan.num_blocks
    dims = (2, num_blocks, shape.num_kv_heads, shape.block_size, shape.bytes_per_head // dtype.itemsize)
    if choice.device.type != "cpu":
        return [torch.zeros(dims, dtype=dtype, device=choice.device) for _ in range(shape.num_layers)]
    # numpy asks the system for zeroed pages, which cost nothing until they are written;
    # torch.zeros would touch every page of a pool that may never be used in full.
    num_bytes = num_blocks * shape.bytes_per_block // shape.num_layers
    return [
        torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(dims)
        for _ in range(shape.num_layers)
    ]

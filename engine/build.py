"""Puts an engine together from a configuration: model, memory plan, cache, scheduler, runner."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelTooLarge
from ..kernels import ops
from ..kernels.types import CACHE_SCALE_BYTES
from ..models import footprint
from ..models.causal_lm import CausalLM
from ..models.config import ModelConfig
from ..models.loader import load_model
from ..models.parallel import Ranks
from ..models.sharding import check_ranks, kv_heads_of
from ..models.tokenizer import Tokenizer
from ..models.weight_cache import WeightCache
from .block_manager import BlockManager
from .config import EngineConfig
from .decode_graphs import CudaGraphs, GraphMaker, Model, why_not_capturable
from .engine import Engine
from .find import find_model
from .memory import (
    CPU_MEMORY_FRACTION,
    GPU_MEMORY_FRACTION,
    KVCacheShape,
    MemoryPlan,
    available_ram,
    format_bytes,
    plan_pool,
)
from .model_runner import ModelRunner
from .profile import run_largest_step, with_smaller_pools
from .scheduler import Scheduler
from .structured import GrammarCompiler
from .tensor_parallel import NOT_RECORDED, ParallelModel, Workers, for_workers, thread_share
from .warm_up import keep_triton_cache, warm_up

logger = logging.getLogger(__name__)

CPU_BATCHED_TOKENS = 512
GPU_BATCHED_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model folder, and how it is going to run here; made without loading any weights."""

    folder: Path
    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    cache_dtype: torch.dtype
    max_model_len: int
    tensor_parallel_size: int = 1


def choose(config: EngineConfig) -> ModelChoice:
    """Finds the model and resolves everything that is "auto".

    Raises:
        ModelError: If the model cannot be found or run, naming why.
        ValueError: If the device is not there, or cannot do what a setting asks for.
    """
    found, size = find_model(config), config.tensor_parallel_size
    check_ranks(found.config, size)
    device = _device(config.device, size)
    dtype = _dtype(config.dtype, found.config, device)
    cache_dtype = _cache_dtype(config.kv_cache_dtype, dtype, device)
    return ModelChoice(found.folder, found.config, device, dtype, cache_dtype, found.max_model_len, size)


def for_rank(choice: ModelChoice, ranks: Ranks) -> ModelChoice:
    """The same at one of several ranks, each of which has a GPU of its own, if there are any."""
    if ranks.size == 1 or choice.device.type == "cpu":
        return choice
    return replace(choice, device=torch.device(choice.device.type, ranks.rank))


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


def build_engine(
    config: EngineConfig,
    *,
    progress: bool = False,
    on_rank_failure: Callable[[str], None] | None = None,
) -> tuple[Engine, ModelChoice, MemoryPlan]:
    """Loads the model and makes an engine for it, which is ready to run: on a GPU, all is compiled.

    Args:
        config: All settings.
        progress: Whether to show progress bars.
        on_rank_failure: Called with the reason, from any thread, when one of several ranks ends.

    Raises:
        ModelError: If the model cannot be loaded, or does not fit the memory.
    """
    choice = choose(config)
    check_weights_fit(config, choice)
    if choice.device.type != "cpu":
        keep_triton_cache()
    if config.tensor_parallel_size == 1:
        return _build(config, choice, progress, None)
    workers = Workers(for_workers(config, choice.folder))
    try:
        built = _build(config, for_rank(choice, workers.ranks), progress, workers)
    except BaseException:
        workers.close()
        raise
    if on_rank_failure is not None:
        workers.listen(on_rank_failure)
    return built


def _build(
    config: EngineConfig, choice: ModelChoice, progress: bool, workers: Workers | None
) -> tuple[Engine, ModelChoice, MemoryPlan]:
    num_tokens = _step_tokens(config, choice)
    model = part = load(config, choice, workers.ranks if workers else Ranks(), progress)
    if workers is not None:
        workers.connect(choice.device)
        model = ParallelModel(part, workers)
    maker = None if workers else _graph_maker(config, choice)
    taken = to_come(config, choice, part)

    def plan_within(limit: int | None) -> MemoryPlan:
        budget = pool_budget(config, choice, to_come=taken)
        budget = workers.smallest_budget(budget) if workers else budget
        return plan_memory(config, choice, budget if limit is None else min(budget, limit))

    def start(plan: MemoryPlan) -> tuple[ModelRunner, MemoryPlan]:
        logger.info("%s", plan.describe())
        if workers is not None:
            workers.start(cache_blocks(choice, plan, maker), plan.max_model_len)
        return start_runner(config, choice, model, plan, num_tokens, maker, progress), plan

    # Workers allocate their caches once.
    may_shrink = config.num_blocks is None and workers is None
    runner, plan = with_smaller_pools(plan_within, start, may_shrink=may_shrink)
    if plan.max_model_len < choice.max_model_len:
        logger.warning(
            "the context is limited to %d of the model's %d tokens, which is what the KV cache holds",
            plan.max_model_len,
            choice.max_model_len,
        )
        choice = replace(choice, max_model_len=plan.max_model_len)
    scheduler = Scheduler(
        BlockManager(plan.num_blocks, config.block_size, enable_prefix_caching=config.enable_prefix_caching),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=num_tokens,
        max_num_waiting=config.max_num_waiting,
        clock=time.monotonic,
    )
    engine = Engine(
        scheduler,
        runner,
        max_model_len=choice.max_model_len,
        eos_token_ids=choice.config.eos_token_ids,
        seed=config.seed,
        async_scheduling=_is_set(config.async_scheduling, choice.device.type != "cpu"),
        grammars=GrammarCompiler(
            lambda: Tokenizer.from_folder(choice.folder),
            vocab_size=choice.config.vocab_size,
            eos_token_ids=choice.config.eos_token_ids,
        ),
    )
    return engine, choice, plan


def cache_blocks(choice: ModelChoice, plan: MemoryPlan, maker: GraphMaker | None) -> int:
    """Blocks of the cache: those of the pool and, where decoding steps are padded, one for the padding."""
    return plan.num_blocks + (0 if choice.device.type == "cpu" and maker is None else 1)


def start_runner(
    config: EngineConfig,
    choice: ModelChoice,
    model: Model,
    plan: MemoryPlan,
    num_tokens: int,
    maker: GraphMaker | None,
    progress: bool,
) -> ModelRunner:
    """Allocates the caches and makes a runner that is ready: recorded on a CPU, warmed up on a GPU.

    Args:
        config: All settings.
        choice: The model, and where it runs.
        model: The model, loaded.
        plan: The size of the pool.
        num_tokens: The most tokens of a step.
        maker: Makes the decoding graphs; None on a CPU, or where steps run kernel by kernel.
        progress: Whether to show progress bars.
    """
    is_cpu = choice.device.type == "cpu"
    runner = ModelRunner(
        model,
        allocate_kv_caches(choice, plan, cache_blocks(choice, plan, maker)),
        max_num_seqs=config.max_num_seqs,
        max_model_len=plan.max_model_len,
    )
    if is_cpu and not config.enforce_eager:
        reason = NOT_RECORDED if isinstance(model, ParallelModel) else runner.record(num_tokens)
        if reason is not None:
            logger.info("steps run op by op, not as one recorded call: %s", reason)
    if not is_cpu or maker is not None:
        warm_up(runner, num_tokens=num_tokens, maker=maker, padding_block=plan.num_blocks, progress=progress)
    return runner


def _graph_maker(config: EngineConfig, choice: ModelChoice) -> GraphMaker | None:
    """What captures decoding steps here, or None."""
    if choice.device.type == "cpu" or config.enforce_eager:
        return None
    reason = why_not_capturable(choice.device.type)
    if reason is not None:
        logger.warning("decoding steps are not captured as graphs: %s", reason)
        return None
    return CudaGraphs()


def load(config: EngineConfig, choice: ModelChoice, ranks: Ranks, progress: bool = False) -> CausalLM:
    """Loads a rank's part of the model, and gives this process its share of the threads."""
    if choice.device.type == "cpu":
        _set_num_threads(thread_share(config.num_threads or usable_cores(), ranks.rank, ranks.size))
    started = time.monotonic()
    model = load_model(
        choice.folder,
        choice.config,
        device=choice.device,
        dtype=choice.dtype,
        options=config.weight_options,
        max_model_len=choice.max_model_len,
        load_format=config.load_format,
        seed=config.seed or 0,
        progress=progress,
        cache=WeightCache.from_environment() if config.weight_cache else None,
        ranks=ranks,
    )
    logger.info("%s loaded in %.1f s", choice.config.architecture, time.monotonic() - started)
    return model


def _step_tokens(config: EngineConfig, choice: ModelChoice) -> int:
    default = CPU_BATCHED_TOKENS if choice.device.type == "cpu" else GPU_BATCHED_TOKENS
    return config.max_num_batched_tokens or default


def to_come(config: EngineConfig, choice: ModelChoice, model: CausalLM) -> int:
    """Bytes that are free once the model is loaded, but not for the cache. All ranks call it at once."""
    # Pages of mapped weights count as free memory, which they are only until they are needed again.
    taken = _activation_bytes(config, choice, model, _step_tokens(config, choice)) + model.num_mapped_bytes
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


def weight_bytes(config: EngineConfig, choice: ModelChoice) -> int:
    """What the model's weights take in the form in which they will run, at all ranks together."""
    return sum(_weight_bytes_of_ranks(config, choice))


def _weight_bytes_of_ranks(config: EngineConfig, choice: ModelChoice) -> list[int]:
    size, device = choice.tensor_parallel_size, choice.device.type
    parts = [Ranks(rank, size) for rank in range(size)]
    return [
        footprint.weight_bytes(choice.config, choice.dtype, config.weight_options, device, part)
        for part in parts
    ]


def check_weights_fit(config: EngineConfig, choice: ModelChoice) -> None:
    """Raises `ModelTooLarge` before loading a checkpoint that is larger than the memory."""
    if config.load_format == "dummy":
        return
    needed, free = weight_bytes(config, choice), available_ram()
    if choice.device.type != "cpu":
        needed = max(_weight_bytes_of_ranks(config, choice))
        free = torch.cuda.mem_get_info(choice.device)[0]
    if needed > free:
        raise ModelTooLarge(
            f"the weights take {format_bytes(needed)} as {choice.dtype}, but only {format_bytes(free)} of "
            f"memory are free on {choice.device}; a smaller model or dtype would fit"
        )


def _is_set(setting: bool | None, default: bool) -> bool:
    return default if setting is None else setting


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _set_num_threads(num_threads: int) -> None:
    """Gives the threads to the C++ kernels, or to torch where those do not run; not to both."""
    from ..kernels import cpu

    reason = cpu.unavailable()
    if reason is not None and os.environ.get("QUIRE_ISA"):
        raise ops.KernelUnavailable(f"QUIRE_ISA forces the C++ kernels, but {reason}")
    if ops.resolved_table("cpu")["linear"].startswith("cpp"):
        cpu.set_num_threads(num_threads)
        num_threads = 1
    torch.set_num_threads(num_threads)


def _device(name: str, num_ranks: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no usable GPU")
    if name == "cuda" and num_ranks > torch.cuda.device_count():
        raise ValueError(
            f"tensor_parallel_size={num_ranks} needs as many GPUs; torch finds {torch.cuda.device_count()}"
        )
    return torch.device(name)


def _dtype(name: str, model: ModelConfig, device: torch.device) -> torch.dtype:
    if name == "auto":
        # CPUs have no fast float16 arithmetic.
        name = "float32" if model.dtype == "float16" and device.type == "cpu" else model.dtype
    return getattr(torch, name)


def _cache_dtype(name: str, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    if name == "fp8" and device.type == "cpu":
        raise ValueError(
            "kv_cache_dtype is 'fp8', which needs a GPU; on a CPU 'int8' takes little more memory"
        )
    if name == "fp8":
        return torch.float8_e4m3fn
    return dtype if name == "auto" else getattr(torch, name)

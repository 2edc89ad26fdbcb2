"""Puts an engine together from a configuration: model, memory plan, cache, scheduler, runner."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from ..kernels import ops
from ..models.causal_lm import CausalLM
from ..models.loader import load_model
from ..models.parallel import Ranks
from ..models.tokenizer import Tokenizer
from ..models.weight_cache import WeightCache
from .block_manager import BlockManager
from .build_encoder import build_encoder_engine
from .config import EngineConfig
from .decode_graphs import CudaGraphs, GraphMaker, Model, why_not_capturable
from .engine import Engine
from .memory import MemoryPlan
from .model_choice import ModelChoice, check_weights_fit, choose, for_rank, usable_cores
from .model_runner import ModelRunner
from .pool import (
    allocate_kv_caches,
    cache_blocks,
    plan_memory,
    pool_budget,
    prefill_tokens,
    step_tokens,
    to_come,
)
from .profile import with_smaller_pools
from .scheduler import Scheduler
from .structured import GrammarCompiler
from .tensor_parallel import NOT_RECORDED, ParallelModel, Workers, for_workers, thread_share
from .warm_up import keep_triton_cache, warm_up

logger = logging.getLogger(__name__)


def build_engine(
    config: EngineConfig,
    *,
    progress: bool = False,
    on_rank_failure: Callable[[str], None] | None = None,
) -> tuple[Engine, ModelChoice, MemoryPlan | None]:
    """Loads the model and makes an engine for it, which is ready to run: on a GPU, all is compiled.

    Args:
        config: All settings.
        progress: Whether to show progress bars.
        on_rank_failure: Called with the reason, from any thread, when one of several ranks ends.

    Returns:
        The engine, how the model runs, and how the memory is shared out; None for an encoder, which has no
        cache.

    Raises:
        ModelError: If the model cannot be loaded, or does not fit the memory.
    """
    choice = choose(config)
    check_weights_fit(config, choice)
    if choice.device.type != "cpu":
        keep_triton_cache()
    if choice.config.encoder is not None:
        if choice.device.type == "cpu":
            _set_num_threads(config.num_threads or usable_cores())
        return build_encoder_engine(config, choice, progress=progress), choice, None
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
    num_tokens = step_tokens(config, choice)
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
        max_num_prefill_tokens=prefill_tokens(config, choice),
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
    if (not is_cpu and choice.config.generates) or maker is not None:
        warm_up(runner, num_tokens=num_tokens, maker=maker, padding_block=plan.num_blocks, progress=progress)
    return runner


def _graph_maker(config: EngineConfig, choice: ModelChoice) -> GraphMaker | None:
    """What captures decoding steps here, or None."""
    if choice.device.type == "cpu" or config.enforce_eager or not choice.config.generates:
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


def _is_set(setting: bool | None, default: bool) -> bool:
    return default if setting is None else setting


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

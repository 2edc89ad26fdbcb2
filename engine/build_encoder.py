"""Puts an engine together for an encoder: no cache, no grammars, whole prompts.

The scheduler is the one of decoders, so that queues, priorities, fair shares and deadlines are the same. A
request takes one block of a pool behind which there is no memory: a seat.
"""

from __future__ import annotations

import logging
import time

from ..models.loader import load_encoder
from ..models.weight_cache import WeightCache
from .block_manager import BlockManager
from .config import EngineConfig
from .encoder_runner import EncoderRunner
from .engine import Engine
from .model_choice import ModelChoice
from .scheduler import Scheduler

logger = logging.getLogger(__name__)

CPU_ENCODER_TOKENS = 1024
GPU_ENCODER_TOKENS = 16384
"""Tokens of a step, if the user does not say: products of so many rows use the machine well."""


def check_encoder_settings(config: EngineConfig, choice: ModelChoice) -> None:
    """Raises ValueError naming a setting that means nothing for a model without a KV cache."""
    name = choice.config.architecture
    for setting, neutral in (
        ("num_blocks", None),
        ("memory_fraction", None),
        ("kv_cache_dtype", "auto"),
        ("max_num_prefill_tokens", None),
    ):
        value = getattr(config, setting)
        if value != neutral:
            raise ValueError(
                f"{setting}={value} has no meaning: {name} is an encoder, which has no KV cache "
                "and does not decode"
            )
    step = config.max_num_batched_tokens
    if step is not None and step < choice.max_model_len:
        raise ValueError(
            f"max_num_batched_tokens={step} is less than max_model_len={choice.max_model_len}: an encoder "
            "computes a text in one step"
        )


def build_encoder_engine(config: EngineConfig, choice: ModelChoice, *, progress: bool = False) -> Engine:
    """Loads an encoder and makes an engine for it.

    Args:
        config: All settings.
        choice: The model, and where it runs.
        progress: Whether to show progress bars.

    Raises:
        ModelError: If the model cannot be loaded.
        ValueError: If a setting means nothing for an encoder.
    """
    check_encoder_settings(config, choice)
    started = time.monotonic()
    model = load_encoder(
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
    )
    logger.info("%s loaded in %.1f s", choice.config.architecture, time.monotonic() - started)
    default = CPU_ENCODER_TOKENS if choice.device.type == "cpu" else GPU_ENCODER_TOKENS
    scheduler = Scheduler(
        BlockManager(config.max_num_seqs, choice.max_model_len, enable_prefix_caching=False),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens or max(default, choice.max_model_len),
        max_num_waiting=config.max_num_waiting,
        clock=time.monotonic,
        whole_prompts=True,
    )
    return Engine(
        scheduler,
        EncoderRunner(model, choice.device),
        max_model_len=choice.max_model_len,
        eos_token_ids=(),
        seed=config.seed,
        async_scheduling=bool(config.async_scheduling),
    )

"""Which model runs, and how: all that can be decided without loading a weight."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..errors import ModelTooLarge
from ..models import footprint
from ..models.config import ModelConfig
from ..models.parallel import Ranks
from ..models.sharding import check_ranks
from .config import EngineConfig
from .find import find_model
from .memory import available_ram, format_bytes


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


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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

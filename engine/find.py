"""Finding a model and what its configuration says, without torch: all that an API process needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelTooLarge
from ..models.config import ModelConfig
from ..models.hub import resolve_model
from ..models.quant.options import check_options
from .config import EngineConfig


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model folder, and how long its requests may be.

    Attributes:
        max_model_len: What the user asks for, or the model's own; the memory may allow less.
    """

    folder: Path
    config: ModelConfig
    max_model_len: int


def find_model(config: EngineConfig) -> FoundModel:
    """Finds a model's folder, downloading it if it must be, and reads its configuration.

    Raises:
        ModelError: If the model cannot be found, or not be run as the settings say; names why.
    """
    folder = resolve_model(config.model, config.revision)
    model_config = ModelConfig.from_folder(folder)
    check_options(model_config, config.weight_options)
    limit = model_config.context_length
    usual = model_config.encoder.usual_length if model_config.encoder else None
    max_model_len = config.max_model_len or min(limit, usual or limit)
    if model_config.rope.kind == "dynamic":
        limit = int(limit * model_config.rope.factor)
    if max_model_len > limit:
        raise ModelTooLarge(
            f"max_model_len={max_model_len} exceeds the model's context of {limit} tokens",
            param="max_model_len",
        )
    return FoundModel(folder, model_config, max_model_len)

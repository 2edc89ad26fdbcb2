"""The one table of architectures: the name in a checkpoint's config.json -> the class that runs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ..errors import ModelError

if TYPE_CHECKING:
    from .causal_lm import CausalLM

# architecture: (module of this package, class)
ARCHITECTURES: dict[str, tuple[str, str]] = {
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM"),
    "MistralForCausalLM": ("mistral", "MistralForCausalLM"),
    "MixtralForCausalLM": ("mixtral", "MixtralForCausalLM"),
    "Qwen2ForCausalLM": ("qwen2", "Qwen2ForCausalLM"),
    "Qwen3ForCausalLM": ("qwen3", "Qwen3ForCausalLM"),
    "Qwen3MoeForCausalLM": ("qwen3_moe", "Qwen3MoeForCausalLM"),
}


def known_architectures() -> tuple[str, ...]:
    """The architectures that quire runs, by their names in config.json."""
    return tuple(ARCHITECTURES)


def model_class(architecture: str) -> type[CausalLM]:
    """Imports the class of an architecture. Raises `ModelError` if there is none."""
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"The architecture {architecture!r} is not supported; quire runs {', '.join(ARCHITECTURES)}."
        )
    module, name = ARCHITECTURES[architecture]
    return getattr(importlib.import_module(f".{module}", __package__), name)

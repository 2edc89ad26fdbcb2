"""The one table of architectures: the name in a checkpoint's config.json -> the class that runs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from ..errors import ModelError

if TYPE_CHECKING:
    from .text_model import TextModel

CLASSIFIES = "ForSequenceClassification"
"""The end of the names of architectures that have such a head."""

# Of those that embed, the head for masked tokens is not needed.
ENCODERS: dict[str, tuple[str, str]] = {
    "BertModel": ("bert", "BertModel"),
    "BertForMaskedLM": ("bert", "BertModel"),
    "BertForSequenceClassification": ("bert", "BertForSequenceClassification"),
    "DistilBertModel": ("distilbert", "DistilBertModel"),
    "DistilBertForMaskedLM": ("distilbert", "DistilBertModel"),
    "DistilBertForSequenceClassification": ("distilbert", "DistilBertForSequenceClassification"),
    "ModernBertModel": ("modernbert", "ModernBertModel"),
    "ModernBertForMaskedLM": ("modernbert", "ModernBertModel"),
    "ModernBertForSequenceClassification": ("modernbert", "ModernBertForSequenceClassification"),
    "NomicBertModel": ("nomic_bert", "NomicBertModel"),
    "RobertaModel": ("roberta", "RobertaModel"),
    "RobertaForMaskedLM": ("roberta", "RobertaModel"),
    "RobertaForSequenceClassification": ("roberta", "RobertaForSequenceClassification"),
    "XLMRobertaModel": ("roberta", "RobertaModel"),
    "XLMRobertaForMaskedLM": ("roberta", "RobertaModel"),
    "XLMRobertaForSequenceClassification": ("roberta", "RobertaForSequenceClassification"),
}

# architecture: (module of this package, class)
ARCHITECTURES: dict[str, tuple[str, str]] = {
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM"),
    "MistralForCausalLM": ("mistral", "MistralForCausalLM"),
    "MixtralForCausalLM": ("mixtral", "MixtralForCausalLM"),
    "Qwen2ForCausalLM": ("qwen2", "Qwen2ForCausalLM"),
    "Qwen3ForCausalLM": ("qwen3", "Qwen3ForCausalLM"),
    "Qwen3MoeForCausalLM": ("qwen3_moe", "Qwen3MoeForCausalLM"),
    "LlamaForSequenceClassification": ("llama", "LlamaForCausalLM"),
    "MistralForSequenceClassification": ("mistral", "MistralForCausalLM"),
    "Qwen2ForSequenceClassification": ("qwen2", "Qwen2ForCausalLM"),
    "Qwen3ForSequenceClassification": ("qwen3", "Qwen3ForCausalLM"),
    **ENCODERS,
}


def known_architectures() -> tuple[str, ...]:
    """The architectures that quire runs, by their names in config.json."""
    return tuple(ARCHITECTURES)


def is_encoder(architecture: str) -> bool:
    """Whether an architecture reads whole texts in both directions, and generates none."""
    return architecture in ENCODERS


def is_classifier(architecture: str) -> bool:
    """Whether an architecture has a head that gives a text a number for each label."""
    return architecture.endswith(CLASSIFIES)


def model_class(architecture: str) -> type[TextModel]:
    """Imports the class of an architecture. Raises `ModelError` if there is none."""
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"The architecture {architecture!r} is not supported; quire runs {', '.join(ARCHITECTURES)}."
        )
    module, name = ARCHITECTURES[architecture]
    return getattr(importlib.import_module(f".{module}", __package__), name)

"""Tiny random models in Hugging Face's own format, and transformers' answers about them.

Every parameter is random, biases and norms included, so that a term that is left out shows.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

VOCAB_SIZE = 320
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

ARCHITECTURES: dict[str, str] = {
    "LlamaForCausalLM": "LlamaConfig",
    "MistralForCausalLM": "MistralConfig",
    "Qwen2ForCausalLM": "Qwen2Config",
    "Qwen3ForCausalLM": "Qwen3Config",
    "MixtralForCausalLM": "MixtralConfig",
    "Qwen3MoeForCausalLM": "Qwen3MoeConfig",
    "LlamaForSequenceClassification": "LlamaConfig",
    "MistralForSequenceClassification": "MistralConfig",
    "Qwen2ForSequenceClassification": "Qwen2Config",
    "Qwen3ForSequenceClassification": "Qwen3Config",
}


def write_model(
    folder: Path, architecture: str, *, seed: int = 0, sharded: bool = False, **overrides: Any
) -> Path:
    """Saves a random fp32 model of an architecture with a tokenizer, and returns its folder.

    Args:
        folder: Where to.
        architecture: A key of `ARCHITECTURES`.
        seed: Of the parameters.
        sharded: Whether to write several safetensors files and an index.
        overrides: Fields of the transformers configuration, e.g. `tie_word_embeddings=True`.
    """
    import torch
    import transformers

    fields: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "sliding_window": None,
        "tie_word_embeddings": False,
    }
    config = getattr(transformers, ARCHITECTURES[architecture])(**fields | overrides)
    model = getattr(transformers, architecture)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.15 * noise)
    model.save_pretrained(folder, max_shard_size="50KB" if sharded else "1GB")
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Saves a byte-level BPE of 256 bytes, six special tokens and a few merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("Ġ", "the"), ("a", "n"), ("an", "d"), ("Ġ", "and")]
    special = ["<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>"]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *special])}
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", vocabulary["<|begin|>"])]
    )
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": 256,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@cache
def oracle(folder: Path) -> Any:
    """The transformers model of a folder, in fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def oracle_logits(folder: Path, ids: list[int]) -> Any:
    """transformers' logits `[len(ids), vocab]` of one forward pass."""
    import torch

    with torch.inference_mode():
        return oracle(folder)(torch.tensor([ids])).logits[0]


def oracle_greedy(folder: Path, ids: list[int], max_tokens: int) -> list[int]:
    """The tokens that transformers generates greedily after a prompt, EOS ignored."""
    import torch

    with torch.inference_mode():
        inputs = torch.tensor([ids])
        out = oracle(folder).generate(
            inputs,
            # Without it, transformers takes a token that equals the pad token for padding.
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[0, len(ids) :].tolist()

"""Tiny random encoders in Hugging Face's own format, and transformers' answers about them.

Every parameter is random, biases and norms included, so that a term that is left out shows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

VOCAB_SIZE = 320
CLS, SEP, PAD = 256, 257, 258

# family: (its configuration in transformers, fields)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Bert": ("BertConfig", {}),
    "DistilBert": ("DistilBertConfig", {"dim": 64, "hidden_dim": 96, "n_layers": 3, "n_heads": 4}),
    "ModernBert": (
        "ModernBertConfig",
        {"local_attention": 10, "global_attn_every_n_layers": 2, "cls_token_id": CLS, "sep_token_id": SEP},
    ),
    "NomicBert": ("NomicBertConfig", {}),
    "Roberta": ("RobertaConfig", {"pad_token_id": 1, "type_vocab_size": 1}),
    "XLMRoberta": ("XLMRobertaConfig", {"pad_token_id": 1, "type_vocab_size": 1}),
}


def family(architecture: str) -> str:
    """The family of an architecture: "Bert" for "BertForSequenceClassification"."""
    return architecture.partition("For")[0].removesuffix("Model")


def write_encoder(folder: Path, architecture: str, *, seed: int = 0, **overrides: Any) -> Path:
    """Saves a random fp32 encoder with a tokenizer that has marks around texts and pairs; returns its folder.

    Args:
        folder: Where to.
        architecture: A class of transformers, of one of the `FAMILIES`.
        seed: Of the parameters.
        overrides: Fields of the transformers configuration, e.g. `num_labels=1`.
    """
    import torch
    import transformers

    config_name, own = FAMILIES[family(architecture)]
    fields: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 400,
        "bos_token_id": CLS,
        "eos_token_id": SEP,
        "pad_token_id": PAD,
    }
    if family(architecture) == "DistilBert":
        fields = {name: fields[name] for name in ("vocab_size", "max_position_embeddings", "pad_token_id")}
    config = getattr(transformers, config_name)(**fields | own | overrides)
    model = getattr(transformers, architecture)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_norm else 0.15 * noise)
    model.save_pretrained(folder)
    write_tokenizer(folder, types="oberta" not in architecture)
    return folder


def write_tokenizer(folder: Path, *, types: bool = True) -> None:
    """Saves a byte-level tokenizer that writes [CLS] text [SEP] and, of a pair, [CLS] a [SEP] b [SEP].

    Args:
        folder: Where to.
        types: Whether the second text of a pair has tokens of type 1.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["[CLS]", "[SEP]", "[PAD]"]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *special])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    second = ":1" if types else ":0"
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A [SEP] $B{second} [SEP]{second}",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "model_max_length": 398,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_pooling(
    folder: Path, mode: str = "mean", *, normalize: bool = True, max_seq_length: int | None = None
) -> None:
    """Writes the files of sentence-transformers beside a model."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] * normalize)]
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 64, f"pooling_mode_{mode}": True})
    )
    if max_seq_length is not None:
        (folder / "sentence_bert_config.json").write_text(
            json.dumps({"max_seq_length": max_seq_length, "do_lower_case": False})
        )


@cache
def oracle(folder: Path) -> Any:
    """The transformers model of a folder, in fp32, of the class that config.json names."""
    import torch
    import transformers

    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    return getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()


def oracle_states(folder: Path, ids: Sequence[int], types: Sequence[int] | None = None) -> Any:
    """transformers' last hidden states `[len(ids), hidden]` of one text."""
    import torch

    model = oracle(folder)
    base = getattr(model, model.base_model_prefix, model)
    with torch.inference_mode():
        return base(**_inputs(ids, types)).last_hidden_state[0]


def oracle_logits(folder: Path, ids: Sequence[int], types: Sequence[int] | None = None) -> Any:
    """transformers' logits `[labels]` of one text or pair."""
    import torch

    with torch.inference_mode():
        return oracle(folder)(**_inputs(ids, types)).logits[0]


def _inputs(ids: Sequence[int], types: Sequence[int] | None) -> dict[str, Any]:
    import torch

    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
    return inputs if types is None else inputs | {"token_type_ids": torch.tensor([types])}

"""Encoders against transformers: states and labels of texts of all lengths, alone and in company."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_encoders
from quire.errors import ModelError
from quire.kernels import cpu
from quire.kernels.types import PackedSequences
from quire.models.config import ModelConfig
from quire.models.encoder import Encoder, EncoderBatch
from quire.models.loader import load_encoder

TOLERANCE = 1e-4
needs_cpp = pytest.mark.skipif(
    cpu.unavailable() is not None, reason="only the C++ kernels promise the same bits in any company"
)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", {}),
    "bert of masked tokens": ("BertForMaskedLM", {}),
    "bert tanh gelu": ("BertModel", {"hidden_act": "gelu_new"}),
    "bert relu": ("BertModel", {"hidden_act": "relu"}),
    "distilbert": ("DistilBertModel", {}),
    "distilbert of masked tokens": ("DistilBertForMaskedLM", {}),
    "modernbert": ("ModernBertModel", {}),
    "modernbert biases": (
        "ModernBertModel",
        {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "num_hidden_layers": 2},
    ),
    "modernbert of masked tokens": ("ModernBertForMaskedLM", {}),
    "nomic-bert": ("NomicBertModel", {}),
    "roberta": ("RobertaModel", {}),
    "xlm-roberta": ("XLMRobertaModel", {}),
    "xlm-roberta of masked tokens": ("XLMRobertaForMaskedLM", {}),
}
CLASSIFIERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", {"num_labels": 3}),
    "distilbert": ("DistilBertForSequenceClassification", {"num_labels": 2}),
    "modernbert": ("ModernBertForSequenceClassification", {"num_labels": 3, "classifier_bias": True}),
    "roberta": ("RobertaForSequenceClassification", {"num_labels": 1}),
    "xlm-roberta": ("XLMRobertaForSequenceClassification", {"num_labels": 4}),
}


def texts(seed: int = 3, *, longest: int = 300) -> list[list[int]]:
    """Token ids of texts from 1 to `longest` tokens, padding tokens among them."""
    print("seed", seed)
    rng = random.Random(seed)
    return [[rng.randrange(259) for _ in range(length)] for length in (1, 2, 17, 64, 5, longest, 33)]


def batch(sequences: Sequence[Sequence[int]], second: int | None = None) -> EncoderBatch:
    """A step of these texts, of which the tokens from `second` on are those of a second text."""
    lengths = list(map(len, sequences))
    positions = [place for length in lengths for place in range(length)]
    return EncoderBatch(
        torch.tensor([token for ids in sequences for token in ids]),
        torch.tensor(positions),
        torch.tensor([int(second is not None and place >= second) for place in positions]),
        PackedSequences(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), max(lengths)),
    )


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Encoder:
    return load_encoder(folder, ModelConfig.from_folder(folder), device="cpu", dtype=dtype)


@torch.inference_mode()
def states(model: Encoder, sequences: Sequence[Sequence[int]], second: int | None = None) -> list[Tensor]:
    """The states of each text."""
    step = batch(sequences, second)
    return list(model.forward(step).split(list(map(len, sequences))))


@pytest.fixture(params=CASES, scope="module")
def folder(request: pytest.FixtureRequest, tiny_encoder: Callable[..., Path]) -> Path:
    architecture, overrides = CASES[request.param]
    return tiny_encoder(architecture, **overrides)


@pytest.fixture(params=CLASSIFIERS, scope="module")
def classifier(request: pytest.FixtureRequest, tiny_encoder: Callable[..., Path]) -> Path:
    architecture, overrides = CLASSIFIERS[request.param]
    return tiny_encoder(architecture, **overrides)


def test_states_equal_transformers(folder: Path) -> None:
    model = load(folder)
    for ids, found in zip(texts(), states(model, texts()), strict=True):
        assert torch.allclose(found, tiny_encoders.oracle_states(folder, ids), atol=TOLERANCE)


def test_the_second_text_of_a_pair_has_another_type(tiny_encoder: Callable[..., Path]) -> None:
    folder = tiny_encoder("BertModel")
    (ids,) = texts()[3:4]
    (found,) = states(load(folder), [ids], second=40)
    expected = tiny_encoders.oracle_states(folder, ids, [0] * 40 + [1] * 24)
    assert torch.allclose(found, expected, atol=TOLERANCE)
    assert not torch.allclose(found, tiny_encoders.oracle_states(folder, ids), atol=TOLERANCE)


@needs_cpp
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_company_changes_no_bit(folder: Path, dtype: torch.dtype) -> None:
    model, sequences = load(folder, dtype), texts(4)
    together = states(model, sequences)
    for ids, found in zip(sequences, together, strict=True):
        assert torch.equal(states(model, [ids])[0], found)
    for ids, found in zip(sequences[::-1], states(model, sequences[::-1]), strict=True):
        assert torch.equal(states(model, [ids])[0], found)


def test_labels_equal_transformers(classifier: Path) -> None:
    model = load(classifier)
    found = states(model, texts())
    with torch.inference_mode():
        logits = model.classify(torch.stack([rows[0] for rows in found]))
        alone = [model.classify(rows[:1]) for rows in found]
    assert logits.dtype == torch.float32
    for ids, row, same in zip(texts(), logits, alone, strict=True):
        assert torch.allclose(row, tiny_encoders.oracle_logits(classifier, ids), atol=TOLERANCE)
        assert torch.allclose(row, same[0], atol=1e-5)
        assert torch.equal(row, same[0]) or cpu.unavailable()


def test_norms_under_their_old_names(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_encoder("BertForMaskedLM")
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
        for name, x in load_file(folder / "model.safetensors").items()
    }
    tensors["bert.embeddings.position_ids"] = torch.arange(400)[None]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    for old, new in zip(states(load(tmp_path), texts()), states(load(folder), texts()), strict=True):
        assert torch.equal(old, new)


def test_a_missing_layer_is_named(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_encoder("BertModel")
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"bert\.encoder\.layer\.1\.output\.dense\.weight"):
        load(tmp_path)


NOMIC_NAMES = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "layer_norm_eps": "layer_norm_epsilon",
}


def nomic_of_its_own_form(source: Path, target: Path, **fields: object) -> Path:
    """A NomicBert with a config.json as its makers write it, and code that nobody needs."""
    config = json.loads((source / "config.json").read_text())
    own = {NOMIC_NAMES[name]: config[name] for name in NOMIC_NAMES}
    own |= {name: config[name] for name in ("architectures", "vocab_size", "type_vocab_size")}
    own |= {"n_positions": 8192, "max_trained_positions": 400, "activation_function": "swiglu"}
    own |= {"rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "qkv_proj_bias": False, "prenorm": False}
    own |= {"auto_map": {"AutoModel": "somebody/code--modeling.NomicBertModel"}}
    (target / "config.json").write_text(json.dumps(own | fields))
    (target / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    return target


def test_nomic_bert_of_its_own_form(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_encoder("NomicBertModel")
    own = nomic_of_its_own_form(folder, tmp_path)
    assert ModelConfig.from_folder(own).context_length == 400
    for found, expected in zip(states(load(own), texts()), states(load(folder), texts()), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "fields",
    [{"prenorm": True}, {"rotary_emb_fraction": 0.5}, {"activation_function": "gelu"}, {"n_head": 64}],
)
def test_what_nomic_bert_cannot_be_is_named(
    tiny_encoder: Callable[..., Path], tmp_path: Path, fields: dict[str, object]
) -> None:
    with pytest.raises(ModelError):
        ModelConfig.from_folder(nomic_of_its_own_form(tiny_encoder("NomicBertModel"), tmp_path, **fields))

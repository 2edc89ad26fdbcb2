"""Loading weights: what fits is copied to the right place; what does not is refused by name."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quire.errors import ModelError, UntrustedModel
from quire.kernels import ops
from quire.models.causal_lm import CausalLM
from quire.models.config import ModelConfig
from quire.models.loader import load_model

WEIGHTS = "model.safetensors"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def folder(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of a tiny Llama that a test may damage."""
    return Path(shutil.copytree(tiny_model(), tmp_path / "model"))


@pytest.fixture
def tied_folder(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model(tie_word_embeddings=True), tmp_path / "model"))


@pytest.fixture(autouse=True)
def plain_weights(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keeps weights as they were loaded, so that tests can look at them."""
    monkeypatch.setenv("QUIRE_KERNELS", "reference")
    ops.reset()
    yield
    monkeypatch.undo()
    ops.reset()


def load(folder: Path, **options: Any) -> CausalLM:
    options = {"device": "cpu", "dtype": torch.float32} | options
    return load_model(folder, ModelConfig.from_folder(folder), **options)


def tensors_of(model: CausalLM) -> dict[str, Tensor]:
    """Everything that the checkpoint has, by its names; float matrices only."""
    tensors = dict(model.vectors())
    for matrix in model.matrices():
        parts = matrix.owner.weight.data.split(list(matrix.parts.values()))
        tensors |= {f"{name}.weight": part for name, part in zip(matrix.parts, parts, strict=True)}
    return tensors


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_every_tensor_is_loaded(folder: Path) -> None:
    stored = load_file(folder / WEIGHTS)
    loaded = tensors_of(load(folder))
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)


def test_shards_hold_the_same_model(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(sharded=True)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    whole = tensors_of(load(tiny_model()))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in tensors_of(load(folder)).items())


def test_dtypes_are_converted(folder: Path) -> None:
    stored = load_file(folder / WEIGHTS)
    for name, tensor in tensors_of(load(folder, dtype=torch.bfloat16)).items():
        assert torch.equal(tensor, stored[name].to(torch.bfloat16))


def test_names_without_their_prefix(folder: Path) -> None:
    expected = {name: tensor.clone() for name, tensor in tensors_of(load(folder)).items()}

    def change(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    rewrite(folder, change)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors_of(load(folder)).items())


def test_old_rotary_buffers_are_ignored(folder: Path) -> None:
    rewrite(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    load(folder)


def tie_head(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"] = tensors[EMBEDDING].clone()


def move_head(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"] = tensors.pop(EMBEDDING)


@pytest.mark.parametrize("change", [tie_head, move_head])
def test_tied_embeddings_under_either_name(change: Callable[[Any], None], tied_folder: Path) -> None:
    expected = load_file(tied_folder / WEIGHTS)[EMBEDDING]
    rewrite(tied_folder, change)
    model = load(tied_folder)
    assert torch.equal(model.model.embed_tokens.weight.data, expected)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_tied_head_that_differs_is_not_tied(tied_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(tied_folder, lambda t: t.update({"lm_head.weight": t[EMBEDDING] + 1}))
    model = load(tied_folder)
    assert torch.equal(model.lm_head.weight.data, model.model.embed_tokens.weight.data + 1)
    assert "not tied" in caplog.text


def remove(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[name]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove("model.norm.weight"), ["lacks", "model.norm.weight"]),
        (remove("lm_head.weight"), ["lacks", "lm_head.weight"]),
        (remove("model.layers.2.self_attn.k_proj.weight"), ["lacks", "layers.2.self_attn.k_proj"]),
        (lambda t: t.update(extra=torch.ones(1)), ["does not have", "extra"]),
        (lambda t: t.update({EMBEDDING: torch.ones(3, 4)}), [EMBEDDING, "[3, 4]", "[320, 64]"]),
        (lambda t: t.update({EMBEDDING: torch.ones(64, 320)}), [EMBEDDING, "[64, 320]", "[320, 64]"]),
        (lambda t: t.update({EMBEDDING: torch.ones(320, 64, dtype=torch.int8)}), [EMBEDDING, "I8"]),
    ],
)
def test_refusals_name_the_tensor(
    change: Callable[[dict[str, Tensor]], None], words: list[str], folder: Path
) -> None:
    rewrite(folder, change)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert all(word in caught.value.message for word in words), caught.value.message


def test_a_huge_configuration_allocates_nothing(folder: Path) -> None:
    config = replace(ModelConfig.from_folder(folder), hidden_size=1 << 24, vocab_size=1 << 24)
    with pytest.raises(ModelError, match="asks for"):
        load_model(folder, config, device="cpu", dtype=torch.float32)


def test_pickles_are_untrusted(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(UntrustedModel, match="pickle"):
        load(folder)


def test_no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        load(folder)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"weight_map": {EMBEDDING: "absent.safetensors"}}, "missing"),
        ({"weight_map": {EMBEDDING: "../model.safetensors"}}, "no name of a safetensors file"),
        ({"weight_map": {EMBEDDING: 3}}, "must be a string"),
        ({"weight_map": {"phantom": WEIGHTS}}, "phantom"),
        ({"weight_map": {}}, "no weight_map"),
        ({"weight_map": []}, "must be an object"),
    ],
)
def test_malformed_indices(index: dict[str, Any], words: str, folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=words):
        load(folder)


def test_a_tensor_in_two_shards(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder / "second.safetensors")
    index = {"weight_map": {EMBEDDING: WEIGHTS, "lm_head.weight": "second.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="is in both"):
        load(folder)


def header(content: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def entry(shape: list[int], begin: int, end: int) -> bytes:
    return json.dumps({EMBEDDING: {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}}).encode()


OVERLAP = json.dumps(
    {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in ("a", "b")}
).encode()

CRAFTED = {
    "empty": b"",
    "three bytes": b"abc",
    "a header bomb": header(b"{}", 1 << 62),
    "a header past the end": header(b"{}", 100),
    "no JSON": header(b"?" * 16),
    "a list": header(b"[]"),
    "deep nesting": header(b'{"a":' * 50_000),
    "no tensors": header(b"{}"),
    "data past the end": header(entry([320, 64], 0, 81920)),
    "offsets that overflow": header(entry([2], (1 << 64) - 8, 0), data=b"12345678"),
    "a negative offset": header(entry([2], -8, 0), data=b"12345678"),
    "a shape that overflows": header(entry([1 << 62, 1 << 62], 0, 8), data=b"12345678"),
    "a shape of another size": header(entry([3], 0, 8), data=b"12345678"),
    "an overlap": header(OVERLAP, data=b"12345678"),
    "a hole": header(entry([1], 4, 8), data=b"12345678"),
    "data that nothing owns": header(entry([1], 0, 4), data=b"12345678"),
}


@pytest.mark.parametrize("data", CRAFTED.values(), ids=CRAFTED.keys())
def test_crafted_files(data: bytes, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(ModelError):
        load(folder)


def test_damaged_files_are_refused_or_load_whole(folder: Path) -> None:
    original = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", original[:8])
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng, num_refused = random.Random(seed), 0
    for _ in range(150):
        data = bytearray(original)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(8 + length)] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        (folder / WEIGHTS).write_bytes(data)
        try:
            load(folder)
        except ModelError:
            num_refused += 1
    assert num_refused > 50


def test_dummy_weights_need_no_files(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    first, again = load(folder, load_format="dummy"), load(folder, load_format="dummy")
    other = load(folder, load_format="dummy", seed=1)
    pairs = zip(tensors_of(first).values(), tensors_of(again).values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    weight = first.model.embed_tokens.weight.data
    assert not torch.equal(weight, other.model.embed_tokens.weight.data)
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(first.model.norm.weight, torch.ones(64))


def test_the_rotary_table_is_as_long_as_asked(folder: Path) -> None:
    assert load(folder).cos_sin.shape == (256, 16)
    assert load(folder, max_model_len=40).cos_sin.shape == (40, 16)

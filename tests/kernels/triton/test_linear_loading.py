"""Models whose linear layers run in Triton: how they are loaded, what they compute, what they take."""

from __future__ import annotations

import random as stdlib_random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from quant_models import logits_of, oracle_logits, oracle_with
from quant_writers import Recipe, quantize_folder
from quire.kernels import ops, reference
from quire.models.causal_lm import CausalLM
from quire.models.config import ModelConfig
from quire.models.footprint import weight_bytes
from quire.models.loader import load_model
from quire.models.quant.options import WeightOptions

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter stands in for a GPU here")


@pytest.fixture
def triton_linear(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Linear layers on a CPU run in Triton's interpreter; all other ops run on the reference."""
    gpu = next(cell for cell in ops.TABLE["linear"] if cell.device == "cuda")
    for name in ops.TABLE:
        monkeypatch.setitem(ops.TABLE, name, ())
    monkeypatch.setitem(ops.TABLE, "linear", (ops.Cell("cpu", gpu.column, gpu.module, gpu.accepts),))
    ops.reset()
    yield
    monkeypatch.undo()
    ops.reset()


def load(folder: Path, **options: Any) -> CausalLM:
    return load_model(
        folder,
        ModelConfig.from_folder(folder),
        device="cpu",
        dtype=torch.float32,
        options=WeightOptions(**options),
    )


OPTIONS: list[dict[str, Any]] = [
    {},
    {"quantization": "int4"},
    {"quantization": "int4", "group_size": 64, "lm_head": "float"},
    {"quantization": "int8"},
    {"quantization": "int4", "lm_head": "int4"},
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_model_computes_what_the_reference_computes(
    options: dict[str, Any], tied: bool, tiny_model: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    folder = tiny_model("Qwen2ForCausalLM", tie_word_embeddings=tied)
    ids = stdlib_random.Random(0).choices(range(320), k=21)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUIRE_KERNELS", "reference")
        ops.reset()
        plain = load(folder, activations="float", **options)
        expected = logits_of(plain, ids).clone()
    request.getfixturevalue("triton_linear")
    model = load(folder, activations="float", **options)
    for matrix, same in zip(model.matrices(), plain.matrices(), strict=True):
        weight = matrix.owner.weight
        is_integer = weight.format in ("int4", "int8")
        assert weight.format == same.owner.weight.format
        assert (weight.packed is not None) is is_integer
        assert (weight.data.numel() == 0) is is_integer
        assert torch.equal(reference.dequantize(weight), reference.dequantize(same.owner.weight))
    torch.testing.assert_close(logits_of(model, ids), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("awq"),
        Recipe("gptq", act_order=True),
        Recipe("gptq", bits=8, act_order=True, head=True),
        Recipe("compressed-tensors", symmetric=True),
        Recipe("compressed-tensors", bits=8, group_size=-1),
    ],
    ids=str,
)
@pytest.mark.usefixtures("triton_linear")
def test_a_quantised_checkpoint_computes_what_transformers_computes(
    recipe: Recipe, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    dense = tiny_model("Qwen2ForCausalLM", num_hidden_layers=2)
    matrices = quantize_folder(dense, tmp_path / "model", recipe)
    ids = stdlib_random.Random(1).choices(range(320), k=18)
    expected = oracle_logits(oracle_with(dense, matrices), ids)
    exact = logits_of(load(tmp_path / "model", activations="float"), ids)
    torch.testing.assert_close(exact, expected, atol=2e-4, rtol=0)
    rounded = logits_of(load(tmp_path / "model", activations="int8"), ids)
    assert (rounded - expected).norm() / expected.norm() < 0.04


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.usefixtures("triton_linear")
def test_the_footprint_on_a_gpu_is_known_before(
    options: dict[str, Any], tiny_model: Callable[..., Path]
) -> None:
    folder = tiny_model("Qwen2ForCausalLM")
    model = load(folder, **options)
    total = sum(tensor.nbytes for _, tensor in model.vectors())
    padding = 0
    for matrix in model.matrices():
        weight = matrix.owner.weight
        total += weight.data.nbytes if weight.packed is None else weight.packed.nbytes
        if weight.format == "int8":
            # Where groups are smaller than a block of columns, an int8 matrix needs less padding.
            columns = weight.packed.data.shape[1]
            padding += weight.out_features * (-columns % 128)
    expected = weight_bytes(model.config, torch.float32, WeightOptions(**options), "cuda")
    assert expected == total + padding


def test_activations_are_rounded_on_cpus_alone_unless_asked_for() -> None:
    for activations, on_cpu, on_gpu in (
        ("auto", True, False),
        ("int8", True, True),
        ("float", False, False),
    ):
        options = WeightOptions(activations=activations)  # type: ignore[arg-type]
        assert options.rounds_activations("cpu") is on_cpu
        assert options.rounds_activations("cuda") is on_gpu

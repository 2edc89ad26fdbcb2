"""Cutting a model into the parts of ranks: each has what is its own, and together they are the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import quant_writers
from quant_models import dequantized
from quire.errors import ModelError
from quire.kernels import ops, reference
from quire.kernels.types import LinearWeight
from quire.models.causal_lm import CausalLM
from quire.models.config import ModelConfig
from quire.models.footprint import weight_bytes
from quire.models.layers import Attention, GatedMLP, Linear
from quire.models.loader import load_model
from quire.models.parallel import Ranks, RowParallelLinear
from quire.models.quant.options import WeightOptions
from quire.models.sharding import even_bounds, kv_heads_of, shard_model, take_columns, with_zero_column


@pytest.fixture(autouse=True)
def plain_weights(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keeps weights as they were loaded, so that tests can look at them."""
    monkeypatch.setenv("QUIRE_KERNELS", "reference")
    ops.reset()
    yield
    monkeypatch.undo()
    ops.reset()


def load(folder: Path, rank: int = 0, size: int = 1, **options: Any) -> CausalLM:
    return load_model(
        folder,
        ModelConfig.from_folder(folder),
        device="cpu",
        dtype=torch.float32,
        options=WeightOptions(**options),
        ranks=Ranks(rank, size),
    )


def all_tensors(model: CausalLM) -> dict[str, Tensor]:
    """Norms, biases, and the values of matrices, by the checkpoint's names."""
    return {**dict(model.vectors()), **dequantized(model)}


def joined(parts: list[dict[str, Tensor]], name: str, whole: Tensor, num_kv_heads: int) -> Tensor:
    """A tensor of the whole from those of all ranks."""
    tensors = [part[name] for part in parts]
    if "norm" in name or name.endswith(("o_proj.bias", "down_proj.bias")):
        assert all(tensor.equal(tensors[0]) for tensor in tensors)
        return tensors[0]
    if "o_proj" in name or "down_proj" in name:
        return torch.cat(tensors, 1)
    if ("k_proj" in name or "v_proj" in name) and num_kv_heads < len(parts):
        copies = len(parts) // num_kv_heads
        assert all(tensor.equal(tensors[i // copies * copies]) for i, tensor in enumerate(tensors))
        return torch.cat(tensors[::copies])
    return torch.cat(tensors)


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, all biases": ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    "mistral, tied": ("MistralForCausalLM", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen3, odd sizes": ("Qwen3ForCausalLM", {"vocab_size": 323, "intermediate_size": 83}),
}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_the_parts_are_the_whole(name: str, size: int, tiny_model: Callable[..., Path]) -> None:
    architecture, overrides = MODELS[name]
    folder = tiny_model(architecture, **overrides)
    whole = all_tensors(load(folder))
    models = [load(folder, rank, size) for rank in range(size)]
    parts = [all_tensors(model) for model in models]
    for key, expected in whole.items():
        assert joined(parts, key, expected, models[0].config.num_kv_heads).equal(expected), key
    assert all(part.keys() == whole.keys() for part in parts)


@pytest.mark.parametrize(
    "options",
    [
        {"quantization": "int8"},
        {"quantization": "int4"},
        {"quantization": "int4", "quantization_group_size": 64, "lm_head": "int4"},
        {"quantization": "int8", "quantization_group_size": 128},
    ],
    ids=str,
)
def test_rounded_parts_have_the_values_of_the_whole(
    options: dict[str, Any], tiny_model: Callable[..., Path]
) -> None:
    """Also where a rank has a part of a row that has one scale, or of a group."""
    folder = tiny_model(hidden_size=160, intermediate_size=288, head_dim=48, tie_word_embeddings=True)
    options = {"group_size": options.pop("quantization_group_size", None), **options, "activations": "float"}
    whole = all_tensors(load(folder, **options))
    parts = [all_tensors(load(folder, rank, 2, **options)) for rank in range(2)]
    for key, expected in whole.items():
        assert joined(parts, key, expected, 2).equal(expected), key


@pytest.mark.parametrize("method", ["awq", "gptq", "compressed-tensors"])
def test_parts_of_integer_checkpoints(method: str, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    source = tiny_model("Qwen2ForCausalLM", head_dim=24, num_attention_heads=4)
    folder = tmp_path / "quantized"
    quant_writers.quantize_folder(source, folder, quant_writers.Recipe(method, head=method == "gptq"))
    whole = all_tensors(load(folder, activations="float"))
    parts = [all_tensors(load(folder, rank, 2, activations="float")) for rank in range(2)]
    for key, expected in whole.items():
        assert joined(parts, key, expected, 2).equal(expected), key


def row_parallel(model: CausalLM) -> dict[str, RowParallelLinear]:
    """The layers that are cut by columns, by the checkpoint's names."""
    found: dict[str, RowParallelLinear] = {}
    for matrix in model.matrices():
        if isinstance(matrix.owner, RowParallelLinear):
            (name,) = matrix.parts
            found[name] = matrix.owner
    return found


@pytest.mark.parametrize("method", ["gptq", "compressed-tensors"])
def test_columns_in_an_order_of_their_own_are_picked(
    method: str, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "quantized"
    recipe = quant_writers.Recipe(method, act_order=True)
    dense = quant_writers.quantize_folder(tiny_model(), folder, recipe)
    layers = [row_parallel(load(folder, rank, 2, activations="float")) for rank in range(2)]
    assert len(layers[0]) == 6
    for name in layers[0]:
        expected, restored = dense[f"{name}.weight"], torch.zeros_like(dense[f"{name}.weight"])
        for each in layers:
            layer = each[name]
            assert layer.picked is not None
            assert layer.weight.order is None
            restored[:, layer.picked] = reference.dequantize(layer.weight)
        assert (
            torch.cat([each[name].picked for each in layers])
            .sort()
            .values.equal(  # type: ignore[misc]
                torch.arange(expected.shape[1])
            )
        )
        torch.testing.assert_close(restored, expected, rtol=0, atol=0)


def random_weight(bits: int, columns: int, group_size: int, symmetric: bool, seed: int = 0) -> LinearWeight:
    """A random integer matrix in canonical form, 6 rows high."""
    generator = torch.Generator().manual_seed(seed)
    groups, rows = -(-columns // group_size), 6
    if bits == 8:
        data = torch.randint(-128, 128, (rows, columns), generator=generator).to(torch.int8)
    else:
        data = torch.randint(0, 256, (rows, -(-columns // 2)), generator=generator).to(torch.uint8)
    low = 0 if bits == 4 else -128
    zeros = torch.randint(low, low + (1 << bits), (rows, groups), generator=generator).to(torch.int16)
    scales = torch.rand(rows, groups, generator=generator).half()
    form = "int8" if bits == 8 else "int4"
    return LinearWeight(form, rows, columns, data, scales, None if symmetric else zeros, group_size)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("columns", "group_size", "start", "stop"),
    [
        (96, 32, 0, 40),
        (96, 32, 32, 96),
        (96, 32, 40, 96),
        (90, 32, 48, 90),
        (91, 128, 42, 91),
        (91, 128, 0, 41),
    ],
)
def test_columns_are_taken_exactly(
    bits: int, symmetric: bool, columns: int, group_size: int, start: int, stop: int
) -> None:
    whole = random_weight(bits, columns, group_size, symmetric)
    part = take_columns(whole, range(start, stop), "m")
    expected = reference.dequantize(whole)[:, start:stop]
    assert reference.dequantize(part).equal(expected)
    assert part.in_features == stop - start
    assert part.group_size % 8 == 0
    wider = with_zero_column(part)
    dense = reference.dequantize(wider)
    assert dense[:, :-1].equal(expected)
    assert not dense[:, -1].any()
    assert wider.group_size % 8 == 0


def test_a_cut_within_a_group_is_refused_where_it_is_impossible() -> None:
    with pytest.raises(
        ModelError, match=r"layers\.3\.o_proj would be cut at column 36, within a group of 32"
    ):
        take_columns(random_weight(4, 96, 32, True), range(36, 96), "layers.3.o_proj")
    with pytest.raises(ModelError, match="column 41"):
        take_columns(random_weight(4, 96, 96, True), range(41, 96), "m")


def test_bounds_are_even_and_at_whole_units() -> None:
    assert even_bounds(10, 2) == (0, 5, 10)
    assert even_bounds(11, 3) == (0, 3, 7, 11)
    assert even_bounds(96, 2, 32) == (0, 32, 96)
    assert even_bounds(100, 2, 32) == (0, 64, 100)


@pytest.fixture
def config(tiny_model: Callable[..., Path]) -> ModelConfig:
    return ModelConfig.from_folder(tiny_model())


def test_heads_that_cannot_be_shared_out_are_refused(config: ModelConfig) -> None:
    assert [kv_heads_of(config, size) for size in (1, 2, 4)] == [2, 1, 1]
    with pytest.raises(ModelError, match=r"q_proj has 4 heads, which tensor_parallel_size=3"):
        kv_heads_of(config, 3)
    with pytest.raises(ModelError, match=r"k_proj has 3 heads.*tensor_parallel_size=2"):
        kv_heads_of(replace(config, num_heads=6, num_kv_heads=3), 2)


def test_an_order_with_fewer_groups_than_ranks_is_refused(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "quantized"
    recipe = quant_writers.Recipe("gptq", act_order=True, group_size=64)
    quant_writers.quantize_folder(tiny_model(num_attention_heads=8, head_dim=16), folder, recipe)
    with pytest.raises(ModelError, match=r"o_proj has 2 groups of columns in an order of their own"):
        load(folder, 0, 4)


def test_layers_that_nobody_knows_how_to_cut_are_refused(tiny_model: Callable[..., Path]) -> None:
    class OtherAttention(Attention):
        pass

    model = load(tiny_model())
    layer: Any = model.model.layers[1]
    layer.self_attn.__class__ = OtherAttention
    with pytest.raises(ModelError, match=r"model\.layers\.1\.self_attn\.qkv_proj is of a kind"):
        shard_model(model, Ranks(0, 2), WeightOptions())
    model = load(tiny_model())
    layer = model.model.layers[0]
    layer.router = Linear(64, 4, torch.float32)
    with pytest.raises(ModelError, match=r"model\.layers\.0\.router is of a kind"):
        shard_model(model, Ranks(0, 2), WeightOptions())


def test_an_mlp_keeps_groups_whole_where_it_can(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(intermediate_size=384)
    options = {"quantization": "int4", "group_size": 128}
    model = load(folder, 1, 2, **options)
    mlp: Any = model.model.layers[0]
    assert isinstance(mlp.mlp, GatedMLP)
    assert isinstance(mlp.mlp.down_proj, RowParallelLinear)
    assert mlp.mlp.down_proj.columns == range(128, 384)
    assert mlp.mlp.down_proj.weight.group_size == 128


def test_the_footprint_of_the_parts_is_that_of_the_whole(config: ModelConfig) -> None:
    options = WeightOptions()
    whole = weight_bytes(config, torch.float32, options)
    parts = [weight_bytes(config, torch.float32, options, "cpu", Ranks(rank, 2)) for rank in range(2)]
    norms = 4 * config.hidden_size * (2 * config.num_layers + 1)
    assert sum(parts) == whole + norms, "norms are at both"
    # What one rank has of the random numbers of "dummy" must be its part in shape, too.
    model = load_model(
        Path(),
        config,
        device="cpu",
        dtype=torch.float32,
        options=options,
        load_format="dummy",
        ranks=Ranks(1, 2),
    )
    stored = [matrix.owner.weight.data for matrix in model.matrices()]
    vectors = [tensor for _, tensor in model.vectors()]
    assert sum(tensor.nbytes for tensor in stored + vectors) == parts[1]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in stored)

"""GPTQ: rounding with error compensation, what is written of it, and a whole model's way through it."""

from __future__ import annotations

import importlib
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from quant_models import dequantized, logits_of, oracle_logits, oracle_with
from quire.errors import ModelError
from quire.kernels import ops, reference
from quire.models.calibration import LayerPasses, float_modules, linears, quantize_model, recording
from quire.models.causal_lm import CausalLM
from quire.models.config import ModelConfig
from quire.models.loader import load_model
from quire.models.quant.checkpoint_writer import WRITTEN_LAYOUTS, write_checkpoint
from quire.models.quant.config import LAYOUTS, QuantScheme
from quire.models.quant.gptq_quantizer import (
    GptqOptions,
    QuantizedMatrix,
    choose_grid,
    inverse_factor,
    quantize_matrix,
)
from quire.models.quant.gptq_writer import can_store, quantization_config
from quire.models.quant.options import WeightOptions

FORMATS = [
    GptqOptions(bits=bits, group_size=group_size, symmetric=symmetric, desc_act=desc_act)
    for bits in (4, 8)
    for group_size in (32, 128, -1)
    for symmetric in (True, False)
    for desc_act in (True, False)
]


def name_of(options: GptqOptions) -> str:
    return f"{options.bits}-g{options.group_size}-{options.symmetric}-{options.desc_act}"


def inputs(num: int, columns: int, seed: int, rank: int = 24) -> Tensor:
    """Correlated inputs `[num, columns]`: few directions, of which some channels take much more."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(rank, columns, generator=generator)
    noise = 0.1 * torch.randn(num, columns, generator=generator)
    spread = torch.randn(columns, generator=generator).exp()
    return (torch.randn(num, rank, generator=generator) @ directions + noise) * spread


def error_of(W: Tensor, Q: Tensor, X: Tensor) -> float:
    return float(((W - Q) @ X.t()).norm() / (W @ X.t()).norm())


def rounded_to_nearest(W: Tensor, options: GptqOptions) -> Tensor:
    """RTN, with the scales of the same search: what remains of GPTQ for inputs without correlations."""
    return quantize_matrix(W, torch.eye(W.shape[1]), options).dense()


# --- one matrix --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", FORMATS, ids=name_of)
def test_the_error_of_products_is_far_below_that_of_rounding_to_nearest(options: GptqOptions) -> None:
    generator = torch.Generator().manual_seed(3)
    W = torch.randn(48, 256, generator=generator)
    X = inputs(600, 256, seed=1)
    Q = quantize_matrix(W, X.t() @ X, options).dense()
    error, nearest = error_of(W, Q, X), error_of(W, rounded_to_nearest(W, options), X)
    assert error < 0.5 * nearest
    if options.bits == 4 and options.group_size == 32 and options.symmetric:
        plain = reference.dequantize(reference.quantize_weight(W, "int4", 32))
        assert error < 0.4 * error_of(W, plain, X)
    # It is no artefact of the inputs that it was made for.
    directions = torch.linalg.svd(X, full_matrices=False)
    fresh = torch.randn(600, 256, generator=generator) @ (directions.Vh * directions.S[:, None]) / 600**0.5
    assert error_of(W, Q, fresh) < 0.6 * error_of(W, rounded_to_nearest(W, options), fresh)


def test_without_correlations_it_is_rounding_to_the_nearest_level() -> None:
    W = torch.randn(16, 64, generator=torch.Generator().manual_seed(5))
    matrix = quantize_matrix(W, torch.eye(64), GptqOptions(group_size=32))
    group = matrix.g_idx.long()
    steps = W / matrix.scales.float()[:, group] + matrix.zeros.float()[:, group]
    assert torch.equal(matrix.q.float(), steps.round().clamp(0, 15))


def test_the_columns_to_come_make_up_for_those_before() -> None:
    """The loop of the paper, a column at a time and without blocks, in fp64."""
    options = GptqOptions(group_size=64)
    columns = 320  # two whole blocks and half of one
    W = torch.randn(8, columns, generator=torch.Generator().manual_seed(7))
    X = inputs(500, columns, seed=2)
    H = X.t() @ X
    matrix = quantize_matrix(W, H, options)
    scales = matrix.scales.double()[:, matrix.g_idx.long()]
    left, inverse = W.double(), torch.linalg.inv(damped(H, options.damping))
    Q = torch.empty_like(left)
    for j in range(columns):
        Q[:, j] = matrix.dense()[:, j].double()
        # What was chosen is the nearest level to what is left of the column.
        off = ((left[:, j] - Q[:, j]) / scales[:, j]).abs()
        inside = (matrix.q[:, j] > 0) & (matrix.q[:, j] < 15)
        assert (off[inside] <= 0.5 + 1e-3).all()
        error = (left[:, j] - Q[:, j]) / inverse[j, j]
        left -= torch.outer(error, inverse[j])
        # Optimal brain surgery: the inverse without row and column j.
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        inverse[j, j] = 1.0


def damped(H: Tensor, damping: float) -> Tensor:
    H = H.double()
    return H + damping * H.diagonal().mean() * torch.eye(len(H), dtype=torch.float64)


def test_the_factor_of_the_inverse() -> None:
    X = inputs(40, 96, seed=4)  # fewer inputs than channels: H alone is singular
    H = X.t() @ X
    U = inverse_factor(H, 0.01)
    assert torch.equal(U, U.triu())
    product = U.double().t() @ U.double() @ damped(H, 0.01)
    torch.testing.assert_close(product, torch.eye(96, dtype=torch.float64), atol=1e-3, rtol=0)


def test_desc_act_groups_columns_by_their_energy() -> None:
    X = inputs(300, 128, seed=6)
    H = X.t() @ X
    W = torch.randn(8, 128, generator=torch.Generator().manual_seed(1))
    g_idx = quantize_matrix(W, H, GptqOptions(group_size=32, desc_act=True)).g_idx
    assert g_idx.bincount().tolist() == [32] * 4
    energies = [H.diagonal()[g_idx == group] for group in range(4)]
    assert all(a.min() >= b.max() for a, b in itertools.pairwise(energies))
    plain = quantize_matrix(W, H, GptqOptions(group_size=32)).g_idx
    assert torch.equal(plain, torch.arange(128, dtype=torch.int32) // 32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_what_a_grid_can_hold_exactly_is_held_exactly(bits: int, symmetric: bool) -> None:
    middle = 1 << bits - 1
    levels = torch.arange(1 << bits).float() - middle
    values = torch.stack((levels * 0.25, levels * -0.5))
    scale, zero = choose_grid(values, torch.ones(1 << bits), bits, symmetric)
    q = ((values / scale[:, None]).round() + zero[:, None]).clamp(0, 2 * middle - 1)
    close = (q - zero[:, None]) * scale[:, None]
    if symmetric:
        assert torch.equal(close, values)
    else:
        assert (close - values).abs().max() <= 0.5


@pytest.mark.parametrize("options", FORMATS, ids=name_of)
def test_zeros_and_single_values(options: GptqOptions) -> None:
    W = torch.zeros(16, 128)
    W[1] = 3.0
    W[2] = -1e-30  # no fp16 scale is so small
    W[3, 5] = 70.0
    matrix = quantize_matrix(W, torch.zeros(128, 128), options)
    Q = matrix.dense()
    assert (matrix.zeros >= 1).all()
    assert torch.isfinite(Q).all()
    tolerance = 0.05 if options.bits == 8 else 0.1
    torch.testing.assert_close(Q[1], W[1], rtol=tolerance, atol=0)
    torch.testing.assert_close(Q[3], W[3], rtol=tolerance, atol=0)
    assert not Q[[0, 2, *range(4, 16)]].any()


def test_what_cannot_be_rounded_is_refused() -> None:
    W, H = torch.ones(8, 32), torch.eye(32)
    for matrix, hessian in ((W * torch.nan, H), (W, H * torch.inf)):
        with pytest.raises(ModelError, match="not finite"):
            quantize_matrix(matrix, hessian, GptqOptions(group_size=32))
    with pytest.raises(ModelError, match="damping of 1e-09"):
        quantize_matrix(W, -H + 2.0, GptqOptions(group_size=32, damping=1e-9))


@pytest.mark.parametrize(
    "wrong", [{"bits": 3}, {"group_size": 0}, {"group_size": 48}, {"damping": 0.0}, {"damping": 2.0}]
)
def test_options_out_of_range(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        GptqOptions(**wrong)


# --- the layout --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "columns"), [("gptq", 256), ("compressed-tensors", 256), ("compressed-tensors", 172)]
)
@pytest.mark.parametrize("options", FORMATS, ids=name_of)
def test_a_written_matrix_is_read_as_it_was(options: GptqOptions, layout: str, columns: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    rows = 24 if layout == "gptq" else 21
    W = torch.randn(rows, columns, generator=generator) + 0.3
    X = inputs(300, columns, seed=seed % 1000)
    matrix = quantize_matrix(W, X.t() @ X, options)
    scheme = QuantScheme(
        method="gptq" if layout == "gptq" else "compressed-tensors",
        bits=options.bits,
        group_size=max(options.group_size, 0),
        symmetric=options.symmetric,
        activation_order=options.desc_act,
        zero_offset=1,
    )
    tensors = WRITTEN_LAYOUTS[layout].pack_matrix(matrix, options)
    reader = importlib.import_module(f"quire.models.quant.{LAYOUTS[scheme.method]}")
    specs = reader.expected("m", scheme, *W.shape)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        name: spec.shape for name, spec in specs.items() if spec.required or name in tensors
    }
    weight = reader.convert("m", scheme, *W.shape, tensors)
    assert torch.equal(reference.dequantize(weight), matrix.dense())
    assert (weight.zeros is None) == options.symmetric
    assert (weight.order is None) == (not options.desc_act or options.group_size == -1)


@pytest.mark.parametrize(
    ("rows", "columns", "bits", "group_size", "fits"),
    [
        (64, 64, 4, 32, True),
        (64, 172, 4, 32, False),
        (172, 64, 4, 32, False),
        (172, 64, 8, 32, True),
        (64, 96, 4, 64, False),
        (64, 96, 4, -1, True),
        (64, 64, 4, 128, False),
    ],
)
def test_which_shapes_fit(rows: int, columns: int, bits: int, group_size: int, fits: bool) -> None:
    assert can_store(rows, columns, GptqOptions(bits=bits, group_size=group_size)) == fits


# --- whole models ------------------------------------------------------------------------------------------


@pytest.fixture(params=["reference", "auto"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "reference":
        monkeypatch.setenv("QUIRE_KERNELS", "reference")
    ops.reset()
    yield request.param
    monkeypatch.undo()
    ops.reset()


def load(folder: Path, **options: Any) -> CausalLM:
    config = ModelConfig.from_folder(folder)
    return load_model(folder, config, device="cpu", dtype=torch.float32, options=WeightOptions(**options))


def random_windows(num: int, length: int) -> list[list[int]]:
    rng = random.Random(9)
    return [[256, *(rng.randrange(256) for _ in range(length - 1 - index % 3))] for index in range(num)]


ARCHITECTURES = ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("desc_act", [True, False])
@pytest.mark.parametrize("layout_name", WRITTEN_LAYOUTS)
@pytest.mark.usefixtures("kernels")
def test_a_model_is_written_and_read_as_it_was_computed(
    architecture: str, desc_act: bool, layout_name: str, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    # Matrices of 64 columns fit groups of 64; down_proj's 96 do not, which GPTQ's layout needs.
    layout = WRITTEN_LAYOUTS[layout_name]
    source = tiny_model(architecture, num_hidden_layers=2, sharded=desc_act)
    options = GptqOptions(group_size=64, desc_act=desc_act, symmetric=not desc_act)
    model = load(source)
    skipped = float_modules(model, options, layout)
    assert skipped == ({"mlp.down_proj"} if layout_name == "gptq" else set())
    matrices = quantize_model(model, random_windows(4, 37), options, skipped)
    assert len(matrices) == 2 * (7 - len(skipped))
    write_checkpoint(source, tmp_path, matrices, layout, options, skipped)
    stored = {k: v for file in source.glob("*.safetensors") for k, v in load_file(file).items()}
    changed = {f"{name}.weight": matrix.dense() for name, matrix in matrices.items()}
    again = load(tmp_path, activations="float")
    if ops.resolved_table("cpu")["linear"] == "reference":
        for name, values in dequantized(again).items():
            assert torch.equal(values, changed.get(name, stored[name])), name
    ids = [256, *range(40)]
    torch.testing.assert_close(
        logits_of(again, ids), oracle_logits(oracle_with(source, changed), ids), atol=2e-4, rtol=0
    )
    # What was quantised has been computing with those values, too.
    torch.testing.assert_close(logits_of(model, ids), logits_of(again, ids), atol=2e-4, rtol=0)


@pytest.mark.usefixtures("kernels")
def test_each_layer_is_calibrated_on_what_the_quantised_ones_before_it_give(
    tiny_model: Callable[..., Path],
) -> None:
    source = tiny_model(num_hidden_layers=2)
    options = GptqOptions(group_size=-1)
    windows = random_windows(3, 29)
    model = load(source)
    matrices = quantize_model(model, windows, options)
    # The first layer as it is now, the second as it was.
    mixed = load(source)
    mixed.model.layers[0] = model.model.layers[0]
    passes = LayerPasses(mixed, windows)
    passes.run(mixed.model.layers[0], keep=True)
    second = mixed.model.layers[1]
    chosen = dict(linears(second))
    with torch.inference_mode(), recording(second, list(chosen.values())) as recorders:
        passes.run(second, keep=False)
    assert dict(linears(second)) == chosen
    for (name, linear), recorder in zip(chosen.items(), recorders, strict=True):
        (matrix,) = linear.matrices(f"model.layers.1.{name}.")
        expected_matrix = quantize_matrix(reference.dequantize(linear.weight), recorder.hessian, options)
        parts = [matrices[part] for part in matrix.parts]
        assert torch.equal(torch.cat([part.q for part in parts]), expected_matrix.q), name
        assert torch.equal(torch.cat([part.scales for part in parts]), expected_matrix.scales), name


def test_what_is_recorded_is_the_covariance_of_the_inputs(tiny_model: Callable[..., Path]) -> None:
    """The first layer's inputs are the normalised embeddings; later ones are transformers' own."""
    import tiny_models

    source = tiny_model(num_hidden_layers=2)
    windows = random_windows(3, 29)
    oracle = tiny_models.oracle(source)
    modules = dict(oracle.named_modules())
    seen: dict[str, list[Tensor]] = {}
    hooks = [
        modules[name].register_forward_hook(
            lambda _module, args, _out, name=name: seen.setdefault(name, []).append(args[0][0])
        )
        for name in modules
        if name.endswith("_proj")
    ]
    with torch.inference_mode():
        for window in windows:
            oracle(torch.tensor([window]))
    for hook in hooks:
        hook.remove()
    model = load(source)
    passes = LayerPasses(model, windows)
    for index, layer in enumerate(model.model.layers):
        chosen = dict(linears(layer))
        with torch.inference_mode(), recording(layer, list(chosen.values())) as recorders:
            passes.run(layer, keep=True)
        for (name, linear), recorder in zip(chosen.items(), recorders, strict=True):
            (matrix,) = linear.matrices(f"model.layers.{index}.{name}.")
            for part in matrix.parts:
                X = torch.cat(seen[part])
                torch.testing.assert_close(recorder.hessian, X.t() @ X, rtol=1e-3, atol=1e-3)


def test_modules_that_stay_float_have_the_names_that_others_look_for(
    tiny_model: Callable[..., Path],
) -> None:
    model = load(tiny_model(intermediate_size=100))
    options = GptqOptions(group_size=32)
    skipped = float_modules(model, options, WRITTEN_LAYOUTS["gptq"])
    assert skipped == {"mlp.gate_up_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    assert quantization_config(options, skipped)["dynamic"].keys() == {
        rf"-:.*\.mlp\.{name}_proj$" for name in ("gate_up", "gate", "up", "down")
    }
    with pytest.raises(ModelError, match="group size of 128: nothing to quantize"):
        float_modules(model, GptqOptions(group_size=128), WRITTEN_LAYOUTS["gptq"])


def test_a_matrix_that_is_not_finite_is_named(tiny_model: Callable[..., Path]) -> None:
    model = load(tiny_model(), lm_head="float")
    for name, tensor in model.vectors():
        if name == "model.layers.1.post_attention_layernorm.weight":
            tensor[3] = torch.inf
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.gate_proj.*not finite"):
        quantize_model(model, random_windows(2, 20), GptqOptions(group_size=32))


def test_a_quantised_matrix_knows_its_values() -> None:
    matrix = QuantizedMatrix(
        4,
        torch.tensor([[0, 15, 8]], dtype=torch.uint8),
        torch.tensor([[0.5, -2.0]]).half(),
        torch.tensor([[8, 1]], dtype=torch.uint8),
        torch.tensor([0, 1, 0], dtype=torch.int32),
    )
    assert matrix.dense().tolist() == [[-4.0, -28.0, 0.0]]

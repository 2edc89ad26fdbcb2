"""Checkpoints with integer matrices: what was written is read, and what is wrong is refused by name."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import quant_writers as writers
import tiny_models
from quant_models import dequantized, logits_of, oracle_logits, oracle_with
from quant_writers import Recipe, quantize_folder
from quire import LLM, SamplingParams
from quire.errors import ModelError
from quire.kernels import ops, reference
from quire.kernels.types import LinearWeight
from quire.models.causal_lm import CausalLM
from quire.models.config import ModelConfig
from quire.models.config_reader import Fields
from quire.models.loader import load_model
from quire.models.quant.config import QuantizationConfig, QuantScheme, read_quantization
from quire.models.quant.layout import layout_of
from quire.models.quant.options import WeightOptions

WEIGHTS = "model.safetensors"
Q_PROJ = "model.layers.0.self_attn.q_proj"

RECIPES = {
    "awq": Recipe("awq"),
    "awq symmetric": Recipe("awq", symmetric=True),
    "gptq": Recipe("gptq", symmetric=True),
    "gptq without g_idx": Recipe("gptq", symmetric=True, with_g_idx=False),
    "gptq asymmetric desc_act": Recipe("gptq", act_order=True),
    "gptq v2 8 bits": Recipe("gptq", bits=8, v2=True, group_size=-1),
    "gptq 8 bits desc_act lm_head": Recipe("gptq", bits=8, act_order=True, head=True),
    "gptq with float modules": Recipe("gptq", skip=("down_proj", r"layers.1.self_attn")),
    "gptq with float parts": Recipe("gptq", skip=("v_proj", "up_proj")),
    "compressed-tensors": Recipe("compressed-tensors", symmetric=True),
    "compressed-tensors asymmetric": Recipe("compressed-tensors"),
    "compressed-tensors actorder": Recipe("compressed-tensors", act_order=True, head=True),
    "compressed-tensors channels 8 bits": Recipe("compressed-tensors", bits=8, group_size=-1),
    "compressed-tensors with float modules": Recipe("compressed-tensors", skip=("o_proj",)),
}


@pytest.fixture
def reference_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keeps weights in their canonical form, so that tests can look at them."""
    monkeypatch.setenv("QUIRE_KERNELS", "reference")
    ops.reset()
    yield
    monkeypatch.undo()
    ops.reset()


@pytest.fixture(scope="session")
def quantized(
    tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Path, dict[str, Tensor]]]:
    """`quantized(recipe)`: the dense folder, the quantised one, and its matrices as fp32."""
    made: dict[str, tuple[Path, Path, dict[str, Tensor]]] = {}

    def make(name: str) -> tuple[Path, Path, dict[str, Tensor]]:
        if name not in made:
            dense = tiny_model("Qwen2ForCausalLM", num_hidden_layers=2)
            folder = tmp_path_factory.mktemp("quantized") / "model"
            made[name] = dense, folder, quantize_folder(dense, folder, RECIPES[name])
        return made[name]

    return make


@pytest.fixture
def folder(quantized: Callable[[str], Any], request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a quantised checkpoint, "gptq asymmetric desc_act" by default, that a test may damage."""
    name = getattr(request, "param", "gptq asymmetric desc_act")
    return Path(shutil.copytree(quantized(name)[1], tmp_path / "model"))


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> CausalLM:
    config = ModelConfig.from_folder(folder)
    return load_model(folder, config, device="cpu", dtype=dtype, options=WeightOptions(**options))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


# --- round trips -----------------------------------------------------------------------------------------


def convert(scheme: QuantScheme, rows: int, columns: int, tensors: dict[str, Tensor]) -> LinearWeight:
    """What the reader makes of tensors, having compared them with what it expects."""
    layout = layout_of(scheme)
    names = {torch.int32: "I32", torch.int64: "I64", torch.float16: "F16"}
    specs = layout.expected("m", scheme, rows, columns)
    for name, tensor in tensors.items():
        assert tuple(tensor.shape) == specs[name].shape, name
        assert names[tensor.dtype] in specs[name].dtypes, name
    assert {name for name, spec in specs.items() if spec.required} <= tensors.keys() <= specs.keys()
    return layout.convert("m", scheme, rows, columns, tensors)


@pytest.mark.parametrize("method", ["awq", "gptq", "compressed-tensors"])
def test_round_trips(method: Any) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    for _ in range(40):
        bits = 4 if method == "awq" else int(rng.choice([4, 8]))
        group_size = int(rng.choice([0, 16, 32, 64, 128]))
        symmetric, order, v2 = (bool(rng.integers(2)) for _ in range(3))
        rows = 8 * int(rng.integers(1, 12))
        if method == "awq":
            order, columns = False, (group_size or 8) * int(rng.integers(1, 4))
        elif method == "gptq":
            columns = 8 * int(rng.integers(1, 40))  # the last group may be short
        else:
            rows, columns = int(rng.integers(1, 90)), int(rng.integers(1, 300))
        g_idx = writers.groups_of(columns, group_size or columns, rng if order else None)
        matrix = writers.random_matrix(rng, rows, columns, bits, g_idx, symmetric)
        if method == "awq":
            tensors = writers.awq(matrix)
        elif method == "gptq":
            tensors = writers.gptq(matrix, v2=v2, with_g_idx=order or v2)
        else:
            tensors = writers.compressed(matrix, symmetric=symmetric, with_g_idx=order)
        scheme = QuantScheme(
            method=method,
            bits=bits,
            group_size=group_size,
            symmetric=symmetric,
            activation_order=order,
            zero_offset=0 if v2 else 1,
        )
        weight = convert(scheme, rows, columns, tensors)
        assert weight.format == f"int{bits}"
        assert (weight.zeros is None) == bool((matrix.zeros == 1 << bits - 1).all())
        assert weight.scales is not None
        assert weight.scales.dtype == torch.float16
        assert torch.equal(reference.dequantize(weight), matrix.dense()), scheme
        packed = ops.linear(torch.eye(columns), weight)
        torch.testing.assert_close(packed.T, matrix.dense(), atol=1e-6, rtol=1e-6)


def test_awq_zero_points_may_be_absent_where_they_have_no_meaning() -> None:
    rng = np.random.default_rng(1)
    matrix = writers.random_matrix(rng, 16, 64, 4, writers.groups_of(64, 32), symmetric=True)
    tensors = writers.awq(matrix)
    del tensors["qzeros"]
    scheme = QuantScheme(method="awq", bits=4, group_size=32, symmetric=True)
    assert torch.equal(reference.dequantize(convert(scheme, 16, 64, tensors)), matrix.dense())


# --- whole models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.usefixtures("reference_kernels")
def test_every_matrix_is_read(name: str, quantized: Callable[[str], Any]) -> None:
    dense_folder, folder, matrices = quantized(name)
    stored = load_file(dense_folder / WEIGHTS)
    loaded = dequantized(load(folder))
    assert matrices.keys() <= loaded.keys()
    for key, values in loaded.items():
        assert torch.equal(values, matrices.get(key, stored[key])), key


@pytest.mark.parametrize("name", RECIPES)
def test_logits_equal_transformers(name: str, quantized: Callable[[str], Any]) -> None:
    dense_folder, folder, matrices = quantized(name)
    rng = random.Random(3)
    ids = [rng.randrange(tiny_models.VOCAB_SIZE) for _ in range(40)]
    expected = oracle_logits(oracle_with(dense_folder, matrices), ids)
    exact = logits_of(load(folder, activations="float"), ids)
    torch.testing.assert_close(exact, expected, atol=2e-4, rtol=0)
    error = (logits_of(load(folder), ids) - expected).norm() / expected.norm()
    assert error < 0.04, error


def test_the_head_may_be_made_float_or_rounded(quantized: Callable[[str], Any]) -> None:
    _, folder, matrices = quantized("gptq 8 bits desc_act lm_head")
    model = load(folder, lm_head="float")
    assert model.lm_head.weight.format == "float32"
    assert torch.equal(reference.dequantize(model.lm_head.weight), matrices["lm_head.weight"])
    with pytest.raises(ModelError, match=r"lm_head=int4 .*gptq"):
        load(folder, lm_head="int4")
    _, folder, _ = quantized("gptq")
    assert load(folder, lm_head="int4").lm_head.weight.format == "int4"
    with pytest.raises(ModelError, match=r"quantization=int4 .*gptq"):
        load(folder, quantization="int4")


def test_stored_integers_of_a_head_are_not_tied(
    tiny_model: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Recipe("gptq", bits=8, head=True)
    untied = tiny_model("Qwen2ForCausalLM", num_hidden_layers=2)
    matrices = quantize_folder(untied, tmp_path / "model", recipe)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    model = load(tmp_path / "model", lm_head="float")
    assert torch.equal(reference.dequantize(model.lm_head.weight), matrices["lm_head.weight"])
    assert "not tied" in caplog.text


@pytest.mark.parametrize("prefix", ["", "model."])
def test_names_without_their_prefix(prefix: str, folder: Path) -> None:
    ids = [5, 6, 7]
    expected = logits_of(load(folder), ids)

    def change(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    if not prefix:
        rewrite(folder, change)
    assert torch.equal(logits_of(load(folder), ids), expected)


def test_an_unneeded_bias_of_zeros_is_left(folder: Path) -> None:
    name = "model.layers.0.mlp.up_proj.bias"
    rewrite(folder, lambda t: t.update({name: torch.zeros(96).half()}))
    load(folder)
    rewrite(folder, lambda t: t.update({name: torch.ones(96).half()}))
    with pytest.raises(ModelError, match=r"does not have: .*up_proj\.bias"):
        load(folder)


def test_dynamic_rules_change_the_scheme_of_modules(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    dense = tiny_model("Qwen2ForCausalLM", num_hidden_layers=2)
    eight = quantize_folder(dense, tmp_path / "eight", Recipe("gptq", bits=8, group_size=64))
    four = quantize_folder(dense, tmp_path / "four", Recipe("gptq", bits=4, group_size=32))
    tensors = load_file(tmp_path / "eight" / WEIGHTS)
    mixed = load_file(tmp_path / "four" / WEIGHTS)
    for name, tensor in tensors.items():
        if "layers.1.mlp.down_proj" in name:
            mixed[name] = tensor
    save_file(mixed, tmp_path / "four" / WEIGHTS)
    configure(tmp_path / "four", dynamic={r"+:.*\.1\.mlp\.down_proj": {"bits": 8, "group_size": 64}})
    model = load(tmp_path / "four")
    down = [layer.mlp.down_proj.weight for layer in model.model.layers]  # type: ignore[attr-defined]
    assert [weight.format for weight in down] == ["int4", "int8"]
    name = "model.layers.{}.mlp.down_proj.weight"
    for weight, expected in zip(down, (four[name.format(0)], eight[name.format(1)]), strict=True):
        torch.testing.assert_close(reference.dequantize(weight), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", ["awq", "gptq", "compressed-tensors"])
def test_a_trained_model_says_the_same(method: str, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "models" / "stories260K"
    # The width of its MLP, 172, is no multiple of 8.
    recipe = Recipe(method, skip=() if method == "compressed-tensors" else (r"mlp",), group_size=32)
    matrices = quantize_folder(source, tmp_path / "model", recipe)
    oracle = oracle_with(source, matrices)
    llm = LLM(str(tmp_path / "model"), activations="float")
    rounded = LLM(str(tmp_path / "model"))
    tokenizer = llm.get_tokenizer()
    starts = [
        "Once upon a time",
        "The dog",
        "Lily",
        "One day",
        "Tom and",
        "She",
        "In the",
        "A big",
        "",
        "He was",
    ]
    prompts = [tokenizer.encode(text) for text in starts]
    params = SamplingParams(temperature=0.0, max_tokens=32, ignore_eos=True)
    outputs = [engine.generate(prompts, params, use_tqdm=False) for engine in (llm, rounded)]
    same = [0, 0]
    for i, ids in enumerate(prompts):
        with torch.inference_mode():
            out = oracle.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
                max_new_tokens=32,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        expected = out[0, len(ids) :].tolist()
        for j, each in enumerate(outputs):
            same[j] += each[i].outputs[0].token_ids == expected
    assert same[0] == len(prompts), same
    # With the MLP in integers, too, a model this small feels the rounding of its inputs.
    assert same[1] >= (7 if method == "compressed-tensors" else 9), same


# --- refusals --------------------------------------------------------------------------------------------


def drop(name: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: tensors.pop(name)


def put(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: tensors.update({name: change(tensors[name])})


def with_value(value: int) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor[0] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop(f"{Q_PROJ}.qweight"), ["lacks", f"{Q_PROJ}.qweight"]),
        (drop(f"{Q_PROJ}.qzeros"), ["lacks", f"{Q_PROJ}.qzeros"]),
        (drop(f"{Q_PROJ}.scales"), ["lacks", f"{Q_PROJ}.scales"]),
        (drop(f"{Q_PROJ}.g_idx"), ["lacks", f"{Q_PROJ}.g_idx"]),
        (put(f"{Q_PROJ}.qweight", lambda t: t[:-1].clone()), [f"{Q_PROJ}.qweight", "[7, 64]", "[8, 64]"]),
        (put(f"{Q_PROJ}.qweight", lambda t: t.float()), [f"{Q_PROJ}.qweight", "F32", "I32"]),
        (put(f"{Q_PROJ}.scales", lambda t: t.int()), [f"{Q_PROJ}.scales", "I32", "F16"]),
        (put(f"{Q_PROJ}.scales", lambda t: t.T.contiguous()), [f"{Q_PROJ}.scales", "[64, 2]", "[2, 64]"]),
        (put(f"{Q_PROJ}.g_idx", with_value(2)), [f"{Q_PROJ}.g_idx", "group 2", "2 groups"]),
        (put(f"{Q_PROJ}.g_idx", with_value(-1)), [f"{Q_PROJ}.g_idx", "group -1"]),
        (put(f"{Q_PROJ}.g_idx", lambda t: t * 0), [f"{Q_PROJ}.g_idx", "64 columns in group 0"]),
        (put(f"{Q_PROJ}.g_idx", lambda t: t.flip(0)), [Q_PROJ, "k_proj", "g_idx"]),
        (lambda t: t.update({f"{Q_PROJ}.weight": torch.ones(64, 64)}), [f"{Q_PROJ}.weight", "F32", "gptq"]),
        (lambda t: t.update({f"{Q_PROJ}.qbias": torch.ones(1)}), ["does not have", f"{Q_PROJ}.qbias"]),
    ],
)
def test_refusals_name_the_tensor_and_the_value(
    change: Callable[[dict[str, Tensor]], Any], words: list[str], folder: Path
) -> None:
    rewrite(folder, change)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert all(word in caught.value.message for word in words), caught.value.message


@pytest.mark.parametrize("folder", ["compressed-tensors asymmetric"], indirect=True)
def test_a_wrong_weight_shape(folder: Path) -> None:
    rewrite(folder, lambda t: t.update({f"{Q_PROJ}.weight_shape": torch.tensor([64, 65])}))
    with pytest.raises(ModelError, match=r"q_proj\.weight_shape is \[64, 65\]"):
        load(folder)


@pytest.mark.parametrize(
    ("method", "rows", "columns", "words"),
    [
        ("awq", 12, 64, "12 x 64"),
        ("awq", 16, 48, "groups of 32"),
        ("gptq", 12, 64, "12 x 64"),
        ("gptq", 16, 172, "16 x 172"),
    ],
)
def test_shapes_that_a_layout_cannot_store(method: Any, rows: int, columns: int, words: str) -> None:
    scheme = QuantScheme(method=method, bits=4, group_size=32, symmetric=True)
    with pytest.raises(ModelError, match=words):
        layout_of(scheme).expected("m", scheme, rows, columns)


def parse(**config: Any) -> QuantizationConfig:
    found = read_quantization(Fields({"quantization_config": config}, "config.json"))
    assert found is not None
    return found


AWQ: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
WEIGHT_ARGS: dict[str, Any] = {"num_bits": 4, "strategy": "group", "group_size": 32}


def ct(weights: dict[str, Any] = WEIGHT_ARGS, group: Any = None, **config: Any) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights} | (group or {})}
    return {"quant_method": "compressed-tensors", "config_groups": groups} | config


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quant_method": "bitsandbytes"}, ["quant_method", "bitsandbytes", "awq, gptq"]),
        ({"bits": 4}, ["unknown"]),
        (AWQ | {"bits": 8}, ["bits", "8"]),
        (AWQ | {"version": "gemv"}, ["version", "gemv"]),
        (AWQ | {"group_size": 100}, ["group_size", "100"]),
        (AWQ | {"modules_to_not_convert": "lm_head"}, ["modules_to_not_convert", "list"]),
        (GPTQ | {"bits": 3}, ["bits", "3"]),
        (GPTQ | {"bits": None}, ["bits", "None"]),
        (GPTQ | {"group_size": 0}, ["group_size", "0"]),
        (GPTQ | {"checkpoint_format": "marlin"}, ["checkpoint_format", "marlin"]),
        (GPTQ | {"is_marlin_format": True}, ["is_marlin_format"]),
        (GPTQ | {"sym": "yes"}, ["sym", "yes"]),
        (GPTQ | {"dynamic": {"-:(": {}}}, ["dynamic", "'('"]),
        (GPTQ | {"dynamic": {"-:(a+)+$": {}}}, ["dynamic", "(a+)+$"]),
        (GPTQ | {"dynamic": {"-:" + ".*" * 9: {}}}, ["dynamic", "too complex"]),
        (GPTQ | {"dynamic": {"+:x": {"bits": 2}}}, ["dynamic", "bits", "2"]),
        (GPTQ | {"dynamic": {"+:x": 2}}, ["dynamic", "+:x"]),
        (GPTQ | {"dynamic": []}, ["dynamic", "object"]),
        (ct(WEIGHT_ARGS | {"num_bits": 2}), ["num_bits", "2"]),
        (ct(WEIGHT_ARGS | {"type": "float"}), ["type", "float"]),
        (ct(WEIGHT_ARGS | {"strategy": "tensor"}), ["strategy", "tensor"]),
        (ct(WEIGHT_ARGS | {"dynamic": True}), ["dynamic", "True"]),
        (ct(WEIGHT_ARGS | {"actorder": "sideways"}), ["actorder", "sideways"]),
        (ct({"num_bits": 4, "strategy": "group"}), ["group_size", "None"]),
        (ct(group={"input_activations": {"num_bits": 8}}), ["input_activations"]),
        (ct(group={"weights": None}), ["weights"]),
        (ct(group={"format": "marlin-24"}), ["format", "marlin-24"]),
        (ct(format="int-quantized"), ["format", "int-quantized"]),
        (ct(kv_cache_scheme={"num_bits": 8}), ["kv_cache_scheme"]),
        (ct(sparsity_config={"format": "sparse-24-bitmask"}), ["sparsity_config", "sparse-24"]),
        (ct(ignore=["re:(.*)*x"]), ["too complex"]),
        (ct(config_groups={}), ["config_groups"]),
        (ct(config_groups={"g": 1}), ["config_groups", "g"]),
    ],
)
def test_configurations_that_are_refused(config: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        parse(**config)
    assert all(word in caught.value.message for word in words), caught.value.message


LAYER = "model.layers.3."


@pytest.mark.parametrize(
    ("config", "integers", "floats"),
    [
        (AWQ, [LAYER + "mlp.up_proj"], ["lm_head", "model.embed_tokens"]),
        (
            AWQ | {"modules_to_not_convert": ["self_attn"]},
            [LAYER + "mlp.up_proj"],
            [LAYER + "self_attn.q_proj"],
        ),
        (GPTQ, [LAYER + "mlp.up_proj"], ["lm_head"]),
        (GPTQ | {"lm_head": True}, ["lm_head"], ["model.embed_tokens"]),
        (GPTQ | {"dynamic": {r"-:.*down": {}}}, [LAYER + "mlp.up_proj"], [LAYER + "mlp.down_proj"]),
        (
            GPTQ | {"modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp.up_proj"]]},
            [LAYER + "mlp.up_proj", LAYER + "self_attn.q_proj"],
            [LAYER + "mlp.down_proj", "lm_head"],
        ),
        (ct(), [LAYER + "mlp.up_proj", "lm_head"], []),
        (
            ct(ignore=["lm_head", r"re:.*\.3\.mlp"]),
            [LAYER + "self_attn.q_proj"],
            ["lm_head", LAYER + "mlp.up_proj"],
        ),
        (ct(group={"targets": [LAYER + "mlp.up_proj"]}), [LAYER + "mlp.up_proj"], [LAYER + "mlp.down_proj"]),
    ],
)
def test_which_modules_are_integers(config: dict[str, Any], integers: list[str], floats: list[str]) -> None:
    parsed = parse(**config)
    assert all(parsed.scheme(name) is not None for name in integers)
    assert all(parsed.scheme(name) is None for name in floats)


def test_a_group_for_an_expression_goes_before_one_for_the_class() -> None:
    groups = {
        "all": {"targets": ["Linear"], "weights": WEIGHT_ARGS},
        "down": {"targets": [r"re:.*down_proj$"], "weights": {"num_bits": 8, "strategy": "channel"}},
    }
    parsed = parse(quant_method="compressed-tensors", config_groups=groups)
    schemes = [parsed.scheme(LAYER + name) for name in ("mlp.down_proj", "mlp.up_proj")]
    assert [(s.bits, s.group_size) for s in schemes if s] == [(8, 0), (4, 32)]


def test_either_name_of_the_field_and_older_ones() -> None:
    assert read_quantization(Fields({"compression_config": ct()}, "config.json")) is not None
    old = parse(quant_method="awq", w_bit=4, q_group_size=64).scheme(LAYER + "mlp.up_proj")
    assert old is not None
    assert old.group_size == 64


CONFIG_FIELDS = sorted(
    {*AWQ, *GPTQ, *ct(), "format", "ignore", "dynamic", "sym", "desc_act", "weights", "zero_point"}
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([AWQ, GPTQ, ct()]), st.dictionaries(st.sampled_from(CONFIG_FIELDS), VALUES, max_size=3)
)
def test_any_configuration_is_read_or_refused(base: dict[str, Any], changes: dict[str, Any]) -> None:
    with contextlib.suppress(ModelError):
        parse(**base | changes).scheme(Q_PROJ)


@pytest.mark.parametrize("name", ["awq", "gptq asymmetric desc_act", "compressed-tensors actorder"])
def test_damaged_tensors_are_refused_or_load_whole(
    name: str, quantized: Callable[[str], Any], tmp_path: Path
) -> None:
    """Whatever bytes stand in a file with a valid header, nothing worse than a `ModelError` happens."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    folder = Path(shutil.copytree(quantized(name)[1], tmp_path / "model"))
    original = load_file(folder / WEIGHTS)
    kinds = [torch.int32, torch.int64, torch.float16, torch.float32, torch.uint8, torch.bool]
    num_refused = 0
    for _ in range(40):
        tensors = dict(original)
        victim = rng.choice([key for key in original if "layers.0" in key])
        tensor = tensors[victim]
        match rng.randrange(4):
            case 0:
                del tensors[victim]
            case 1:
                tensors[victim] = tensor.to(rng.choice(kinds))
            case 2:
                shape = list(tensor.shape)
                shape[rng.randrange(len(shape))] = rng.choice([0, 1, 3, 1000])
                tensors[victim] = torch.zeros(shape, dtype=tensor.dtype)
            case _:
                noise = torch.randint(-(1 << 31), 1 << 31, tensor.shape)
                tensors[victim] = noise.to(tensor.dtype)
        save_file(tensors, folder / WEIGHTS)
        try:
            logits_of(load(folder), [1, 2, 3])
        except ModelError:
            num_refused += 1
    assert num_refused > 10

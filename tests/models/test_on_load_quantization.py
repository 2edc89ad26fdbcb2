"""Rounding a float checkpoint while it is loaded: which matrices, to what, and what the model computes."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_models
from quant_models import dequantized, logits_of, oracle_logits, oracle_with
from quire import LLM
from quire.engine.config import EngineConfig
from quire.engine.model_choice import weight_bytes
from quire.errors import ModelError
from quire.kernels import cpu, ops, reference
from quire.models.causal_lm import CausalLM
from quire.models.config import ModelConfig
from quire.models.llama import LlamaForCausalLM
from quire.models.loader import load_model
from quire.models.quant import canonical
from quire.models.quant.options import WeightOptions

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(params=["reference", "automatic"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs a test on the reference kernels, and on those that run by themselves."""
    if request.param == "reference":
        monkeypatch.setenv("QUIRE_KERNELS", "reference")
    ops.reset()
    yield request.param
    monkeypatch.undo()
    ops.reset()


@pytest.fixture
def plain_weights(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keeps weights in their canonical form, so that tests can look at them."""
    monkeypatch.setenv("QUIRE_KERNELS", "reference")
    ops.reset()
    yield
    monkeypatch.undo()
    ops.reset()


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> CausalLM:
    return load_model(
        folder,
        ModelConfig.from_folder(folder),
        device="cpu",
        dtype=dtype,
        options=WeightOptions(**options),
    )


def formats(model: CausalLM) -> dict[str, tuple[str, int]]:
    layer = model.model.layers[0]
    weights = {
        "embedding": model.model.embed_tokens.weight,
        "qkv": layer.self_attn.qkv_proj.weight,  # type: ignore[attr-defined]
        "o": layer.self_attn.o_proj.weight,  # type: ignore[attr-defined]
        "gate_up": layer.mlp.gate_up_proj.weight,  # type: ignore[attr-defined]
        "down": layer.mlp.down_proj.weight,  # type: ignore[attr-defined]
        "head": model.lm_head.weight,
    }
    return {name: (weight.format, weight.group_size) for name, weight in weights.items()}


FLOAT = ("float32", 0)
LAYERS = ("qkv", "o", "gate_up", "down")


@pytest.mark.parametrize(
    ("options", "layers", "head"),
    [
        ({}, FLOAT, FLOAT),
        ({"quantization": "int4"}, ("int4", 32), ("int8", 64)),
        ({"quantization": "int4", "group_size": 64}, ("int4", 64), ("int8", 64)),
        ({"quantization": "int4", "lm_head": "int4"}, ("int4", 32), ("int4", 32)),
        ({"quantization": "int4", "lm_head": "float"}, ("int4", 32), FLOAT),
        ({"quantization": "int8", "group_size": 32}, ("int8", 32), ("int8", 32)),
        ({"quantization": "int8", "lm_head": "int4"}, None, ("int4", 32)),
        ({"lm_head": "int8"}, FLOAT, ("int8", 64)),
        ({"lm_head": "int8", "group_size": 32}, FLOAT, ("int8", 32)),
        ({"lm_head": "int4", "group_size": 64}, FLOAT, ("int4", 64)),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.usefixtures("plain_weights")
def test_formats(
    options: dict[str, Any],
    layers: tuple[str, int] | None,
    head: tuple[str, int],
    tied: bool,
    tiny_model: Callable[..., Path],
) -> None:
    model = load(tiny_model(tie_word_embeddings=tied), **options)
    found = formats(model)
    assert found["head"] == head
    # A tied embedding is the very same matrix; one of its own stays as it is stored.
    assert found["embedding"] == (head if tied else FLOAT)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    for name in LAYERS:
        # One scale per row is a group of all columns: 64, or 96 in the one matrix that has as many.
        rows = ("int8", 96 if name == "down" else 64)
        if options.get("group_size") == 64 and name == "down":
            continue
        assert found[name] == (layers or rows), name


@pytest.mark.usefixtures("plain_weights")
def test_values_are_rounded_from_the_checkpoint_and_vectors_stay(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("Qwen2ForCausalLM")
    stored = load_file(folder / "model.safetensors")
    # The model runs in bf16, but rounding starts from what the checkpoint has.
    model = load(folder, torch.bfloat16, quantization="int4", lm_head="int4")
    matrices = dequantized(model)
    for name, values in matrices.items():
        if name != "model.embed_tokens.weight":
            rounded = reference.dequantize(reference.quantize_weight(values * 0 + stored[name], "int4", 32))
            assert torch.equal(values, rounded), name
    vectors = dict(model.vectors())
    assert any(name.endswith("bias") for name in vectors)
    assert all(torch.equal(tensor, stored[name].bfloat16()) for name, tensor in vectors.items())


@pytest.mark.usefixtures("plain_weights")
def test_a_matrix_may_be_rounded_some_rows_at_a_time(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model()
    whole = dequantized(load(folder, quantization="int8", group_size=32))
    monkeypatch.setattr(canonical, "CHUNK_VALUES", 7 * 64)
    pieces = dequantized(load(folder, quantization="int8", group_size=32))
    assert all(torch.equal(whole[name], values) for name, values in pieces.items())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_logits_are_those_of_the_rounded_matrices(
    quantization: str,
    tied: bool,
    kernels: str,
    tiny_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tiny_model("Qwen2ForCausalLM", tie_word_embeddings=tied)
    rng = random.Random(5)
    ids = [rng.randrange(tiny_models.VOCAB_SIZE) for _ in range(40)]
    exact = logits_of(load(folder, quantization=quantization, activations="float"), ids)
    rounded = logits_of(load(folder, quantization=quantization), ids)
    monkeypatch.setenv("QUIRE_KERNELS", "reference")
    ops.reset()
    matrices = dequantized(load(folder, quantization=quantization))
    expected = oracle_logits(oracle_with(folder, matrices), ids)
    torch.testing.assert_close(exact, expected, atol=2e-4, rtol=0)
    # Inputs of eight bits are off by half a percent of their largest value at most, layer after layer.
    error = (rounded - expected).norm() / expected.norm()
    assert 1e-5 < error < 0.03, error


@pytest.mark.usefixtures("kernels")
def test_noise_is_rounded_too(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model(), folder)
    (folder / "model.safetensors").unlink()
    options = WeightOptions(quantization="int4")
    config = ModelConfig.from_folder(folder)
    made = [
        load_model(
            folder,
            config,
            device="cpu",
            dtype=torch.bfloat16,
            options=options,
            load_format="dummy",
            seed=seed,
        )
        for seed in (0, 0, 1)
    ]
    first, again, other = (logits_of(model, [1, 2, 3]) for model in made)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert made[0].lm_head.weight.format == "int8"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quantization": "int3"}, ["quantization", "int3"]),
        ({"quantization": "int4", "quantization_group_size": 48}, ["quantization_group_size", "48"]),
        ({"quantization": "int4", "quantization_group_size": True}, ["quantization_group_size", "True"]),
        ({"quantization_group_size": 64}, ["quantization_group_size=64", "no meaning"]),
        ({"quantization_group_size": 64, "lm_head": "float"}, ["quantization_group_size=64"]),
        ({"activations": "int4"}, ["activations", "int4"]),
        ({"lm_head": "fp8"}, ["lm_head", "fp8"]),
    ],
)
def test_settings_that_cannot_be_honoured(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=".*".join(map(re.escape, words))):
        EngineConfig(model="embedded", **settings)


def test_the_engine_takes_the_settings(tiny_model: Callable[..., Path]) -> None:
    llm = LLM(
        str(tiny_model()),
        quantization="int4",
        quantization_group_size=64,
        activations="float",
        lm_head="int4",
    )
    weight = llm.engine.runner.model.lm_head.weight  # type: ignore[attr-defined]
    assert (weight.format, weight.group_size, weight.int8_activations) == ("int4", 64, False)
    assert llm.generate([[1, 2, 3]], use_tqdm=False)[0].outputs[0].token_ids


@pytest.mark.parametrize(
    "settings",
    [
        {"quantization": "int4"},
        {"quantization": "int8", "quantization_group_size": 32},
        {"quantization": "int4", "lm_head": "float"},
        {"lm_head": "int8"},
        {},
    ],
)
@pytest.mark.usefixtures("plain_weights")
def test_the_footprint_is_known_before(settings: dict[str, Any], tiny_model: Callable[..., Path]) -> None:
    from quire.engine.model_choice import choose

    config = EngineConfig(model=str(tiny_model("Qwen2ForCausalLM")), **settings)
    choice = choose(config)
    model = load_model(
        choice.folder, choice.config, device="cpu", dtype=choice.dtype, options=config.weight_options
    )
    total = sum(tensor.nbytes for _, tensor in model.vectors())
    for matrix in model.matrices():
        weight = matrix.owner.weight
        total += weight.data.nbytes + (0 if weight.scales is None else weight.scales.nbytes)
    assert weight_bytes(config, choice) == total


def test_a_quantised_checkpoint_is_not_rounded_again(tiny_model: Callable[..., Path]) -> None:
    from quire.models.quant.config import QuantizationConfig

    config = ModelConfig.from_folder(tiny_model())
    config = replace(config, quantization=QuantizationConfig("awq", (), "test"))
    with pytest.raises(ModelError, match=r"quantization=int8 .*awq") as caught:
        load_model(
            tiny_model(),
            config,
            device="cpu",
            dtype=torch.float32,
            options=WeightOptions(quantization="int8"),
        )
    assert caught.value.param == "quantization"


MEASURED_LOAD = """
import sys, torch
from pathlib import Path
from quire.kernels import ops
from quire.models.config import ModelConfig
from quire.models.llama import LlamaForCausalLM
from quire.models.loader import load_model
from quire.models.quant.options import WeightOptions

def status(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) * 1024

torch.set_num_threads(1)
small, folder = Path(sys.argv[1]), Path(sys.argv[2])
options = WeightOptions(quantization=sys.argv[3] if len(sys.argv) > 3 else None)

def load(path):
    config = ModelConfig.from_folder(path)
    return load_model(path, config, device="cpu", dtype=torch.bfloat16, options=options)

load(small)  # what code and libraries take is not the model's
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
load(folder)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak is measured as Linux tells it"
)
@pytest.mark.skipif(cpu.unavailable() is not None, reason="the reference kernels unpack what they read")
@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_loading_takes_little_more_memory_than_the_checkpoint(
    quantization: str | None, tiny_model: Callable[..., Path], large_checkpoint: Path
) -> None:
    options = [] if quantization is None else [quantization]
    command = [sys.executable, "-c", MEASURED_LOAD, str(tiny_model()), str(large_checkpoint), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    size = (large_checkpoint / "model.safetensors").stat().st_size
    ratio = int(done.stdout) / size
    assert ratio < 1.3
    if quantization is not None:
        assert ratio < 0.9


@pytest.fixture(scope="module")
def large_checkpoint(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 MB of bf16 zeros, among them an embedding of 100 MB."""
    folder = tmp_path_factory.mktemp("large")
    config = json.loads((tiny_model() / "config.json").read_text())
    sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 9, "vocab_size": 50_000}
    config |= sizes | {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64}
    config |= {"tie_word_embeddings": True, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        skeleton = LlamaForCausalLM(ModelConfig.from_folder(folder), torch.bfloat16, 1)
    shapes = {name: tuple(tensor.shape) for name, tensor in skeleton.vectors()}
    for matrix in skeleton.matrices():
        columns = matrix.owner.weight.in_features
        shapes |= {f"{name}.weight": (rows, columns) for name, rows in matrix.parts.items()}
    tensors = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder

"""config.json: both spellings, every architecture's defaults, and a clear refusal of everything else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.errors import ModelError, UntrustedModel
from quire.models.config import GenerationDefaults, ModelConfig

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


@pytest.fixture
def parse(tmp_path: Path) -> Callable[..., ModelConfig]:
    def write(generation: dict[str, Any] | None = None, **fields: Any) -> ModelConfig:
        (tmp_path / "config.json").write_text(json.dumps(BASE | fields))
        if generation is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(generation))
        return ModelConfig.from_folder(tmp_path)

    return write


def test_defaults(parse: Callable[..., ModelConfig]) -> None:
    config = parse()
    assert (config.num_kv_heads, config.head_size, config.rms_norm_eps) == (4, 16, 1e-6)
    assert config.rope.theta == 10000.0
    assert config.sliding_window == (0, 0, 0)
    assert (config.tie_word_embeddings, config.dtype, config.eos_token_ids) == (False, "float32", ())


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"])
def test_what_transformers_writes_is_read(architecture: str, tiny_model: Callable[..., Path]) -> None:
    config = ModelConfig.from_folder(tiny_model(architecture))
    assert config.architecture == architecture
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.head_size) == (3, 4, 2, 16)
    assert (config.dtype, config.bos_token_id, config.eos_token_ids) == ("float32", 256, (257,))


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_dtype_in_both_spellings(name: str, parse: Callable[..., ModelConfig]) -> None:
    assert parse(**{name: "bfloat16"}).dtype == "bfloat16"


def test_generation_config(parse: Callable[..., ModelConfig]) -> None:
    generation = {"eos_token_id": [7, 5], "temperature": 0.7, "top_k": 20, "top_p": 0.8}
    config = parse(generation, eos_token_id=5, bos_token_id=3)
    assert config.eos_token_ids == (7, 5)
    assert config.bos_token_id == 3
    assert config.generation == GenerationDefaults(temperature=0.7, top_k=20, top_p=0.8)


def test_token_ids_outside_the_vocabulary_are_dropped(parse: Callable[..., ModelConfig]) -> None:
    config = parse(eos_token_id=[-1, 1000, 999], bos_token_id=-1)
    assert (config.eos_token_ids, config.bos_token_id) == ((999,), None)


MISTRAL: dict[str, Any] = {"architectures": ["MistralForCausalLM"], "num_key_value_heads": 2}
MIXTRAL: dict[str, Any] = {"architectures": ["MixtralForCausalLM"], "num_key_value_heads": 2}
QWEN3_MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_key_value_heads": 2,
    "num_experts": 6,
    "moe_intermediate_size": 48,
}
QWEN2: dict[str, Any] = {"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({"sliding_window": 7}, (0, 0, 0)),
        (MISTRAL, (4096, 4096, 4096)),
        (MISTRAL | {"sliding_window": None}, (0, 0, 0)),
        (MISTRAL | {"sliding_window": 7}, (7, 7, 7)),
        (MIXTRAL, (0, 0, 0)),
        (MIXTRAL | {"sliding_window": 7}, (7, 7, 7)),
        (QWEN3_MOE | {"num_experts_per_tok": 2, "sliding_window": 7}, (0, 0, 0)),
        (QWEN3_MOE | {"num_experts_per_tok": 2, "use_sliding_window": True, "sliding_window": 7}, (7, 7, 7)),
        (QWEN2 | {"sliding_window": 7, "max_window_layers": 1}, (0, 0, 0)),
        (QWEN2 | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}, (0, 7, 7)),
        (QWEN2 | {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 1}, (0, 0, 0)),
        (
            QWEN2
            | {
                "use_sliding_window": True,
                "sliding_window": 7,
                "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            },
            (7, 0, 0),
        ),
    ],
)
def test_sliding_windows(
    fields: dict[str, Any], windows: tuple[int, ...], parse: Callable[..., ModelConfig]
) -> None:
    assert parse(**fields).sliding_window == windows


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_size": -64}, ["hidden_size", "-64"]),
        ({"hidden_size": "64"}, ["hidden_size", "'64'"]),
        ({"hidden_size": True}, ["hidden_size", "True"]),
        ({"hidden_size": 10**30}, ["hidden_size"]),
        ({"hidden_size": None}, ["hidden_size", "None"]),
        ({"hidden_size": 66}, ["hidden_size", "66", "num_attention_heads"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads", "3"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers"]),
        ({"head_dim": 15}, ["head_dim", "15"]),
        ({"rms_norm_eps": 0}, ["rms_norm_eps", "0"]),
        ({"rms_norm_eps": float("nan")}, ["rms_norm_eps", "nan"]),
        ({"rope_theta": 10**400}, ["rope_theta"]),
        ({"hidden_act": "tanh"}, ["hidden_act", "tanh", "silu"]),
        ({"dtype": "int8"}, ["dtype", "int8"]),
        ({"eos_token_id": "</s>"}, ["eos_token_id"]),
        ({"tie_word_embeddings": 1}, ["tie_word_embeddings", "1"]),
        ({"rope_scaling": {"type": "longrope"}}, ["longrope", "yarn"]),
        ({"rope_scaling": {"type": "linear"}}, ["factor", "None"]),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, ["factor", "0"]),
        ({"rope_scaling": "linear"}, ["rope_scaling"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        (QWEN2 | {"layer_types": ["full_attention"]}, ["layer_types", "3 times"]),
        (QWEN2 | {"layer_types": ["sliding_attention"] * 3}, ["sliding_window"]),
        (MIXTRAL | {"num_experts_per_tok": 9}, ["num_experts_per_tok", "9", "(8)"]),
        (MIXTRAL | {"hidden_act": "gelu"}, ["hidden_act", "gelu", "silu"]),
        (MIXTRAL | {"quantization_config": {"quant_method": "awq"}}, ["quantization_config", "experts"]),
        (QWEN3_MOE, ["num_experts_per_tok", "8", "(6)"]),
        ({"quantization_config": {"quant_method": "aqlm"}}, ["quant_method", "aqlm", "awq"]),
        ({"architectures": ["GPT2LMHeadModel"]}, ["GPT2LMHeadModel", "LlamaForCausalLM", "Qwen3ForCausalLM"]),
        ({"architectures": None}, ["no architecture", "LlamaForCausalLM"]),
        ({"architectures": "LlamaForCausalLM"}, ["architectures", "list"]),
    ],
)
def test_refusals_name_the_field_and_the_value(
    fields: dict[str, Any], words: list[str], parse: Callable[..., ModelConfig]
) -> None:
    with pytest.raises(ModelError) as caught:
        parse(**fields)
    assert all(word in caught.value.message for word in words), caught.value.message


def test_mixtures_of_experts(parse: Callable[..., ModelConfig]) -> None:
    mixtral = parse(**MIXTRAL)
    assert (mixtral.num_experts, mixtral.num_experts_per_token, mixtral.moe_intermediate_size) == (8, 2, 128)
    assert (mixtral.renormalize_experts, mixtral.dense_layers, mixtral.rope.theta) == (True, frozenset(), 1e6)
    qwen = parse(**QWEN3_MOE, num_experts_per_tok=2, decoder_sparse_step=2, mlp_only_layers=[1])
    assert (qwen.num_experts, qwen.num_experts_per_token, qwen.moe_intermediate_size) == (6, 2, 48)
    assert (qwen.renormalize_experts, qwen.dense_layers) == (False, {0, 1, 2})
    assert parse(**QWEN3_MOE, num_experts_per_tok=2, norm_topk_prob=True).renormalize_experts
    assert parse().num_experts == 0


def test_remote_code_is_untrusted(parse: Callable[..., ModelConfig]) -> None:
    with pytest.raises(UntrustedModel, match="auto_map"):
        parse(architectures=["MyOwnModel"], auto_map={"AutoModelForCausalLM": "modeling.MyOwnModel"})


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"vocab_size": ' + b"9" * 5000 + b"}"],
    ids=["empty", "cut short", "a list", "no UTF-8", "deep", "a long number"],
)
def test_malformed_json(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(ModelError, match=r"config\.json"):
        ModelConfig.from_folder(tmp_path)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        ModelConfig.from_folder(tmp_path)


FIELDS = [
    *BASE,
    "num_key_value_heads",
    "head_dim",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "eos_token_id",
    "hidden_act",
    "dtype",
    "quantization_config",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3))
def test_any_values_are_read_or_refused(parse: Callable[..., ModelConfig], fields: dict[str, Any]) -> None:
    with contextlib.suppress(ModelError):
        assert parse(**fields).vocab_size > 0

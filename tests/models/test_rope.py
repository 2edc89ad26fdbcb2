"""Every kind of rotary table against transformers' own functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from quire.models.config import ModelConfig
from quire.models.rope import cos_sin_table

MAX_POSITION = 128
HEAD_SIZE = 32

SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    "yarn, original length from the config": {"rope_type": "yarn", "factor": 4.0},
    "yarn, not truncated": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "truncate": False,
    },
    "yarn, own ramp": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn, attention factor": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.9},
    "yarn, mscale": {"rope_type": "yarn", "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 0.5},
}


def write_config(folder: Path, fields: dict[str, Any]) -> ModelConfig:
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 64,
        "hidden_size": 4 * HEAD_SIZE,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_POSITION,
    }
    (folder / "config.json").write_text(json.dumps(config | fields))
    return ModelConfig.from_folder(folder)


def expected(parameters: dict[str, Any], length: int) -> torch.Tensor:
    config = LlamaConfig(
        hidden_size=4 * HEAD_SIZE,
        num_attention_heads=4,
        max_position_embeddings=MAX_POSITION,
        rope_parameters=dict(parameters),
    )
    if parameters["rope_type"] == "default":
        theta = config.rope_parameters["rope_theta"]
        frequencies, factor = theta ** (-torch.arange(0, HEAD_SIZE, 2).float() / HEAD_SIZE), 1.0
    else:
        frequencies, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, None, seq_len=length)
    angles = torch.arange(length).float()[:, None] * frequencies
    return torch.cat((angles.cos() * factor, angles.sin() * factor), -1)


@pytest.mark.parametrize("length", [100, 4 * MAX_POSITION])
@pytest.mark.parametrize("theta", [10000.0, 1000000.0])
@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_tables(scaling: dict[str, Any], theta: float, length: int, tmp_path: Path) -> None:
    parameters = scaling | {"rope_theta": theta}
    rope = write_config(tmp_path, {"rope_parameters": parameters}).rope
    table = cos_sin_table(rope, HEAD_SIZE, length)
    assert table.dtype == torch.float32
    torch.testing.assert_close(table, expected(parameters, length), atol=2e-4, rtol=0)


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_the_old_spelling_means_the_same(scaling: dict[str, Any], tmp_path: Path) -> None:
    new = write_config(tmp_path, {"rope_parameters": scaling | {"rope_theta": 5000.0}})
    old = {"type" if name == "rope_type" else name: value for name, value in scaling.items()}
    assert write_config(tmp_path, {"rope_scaling": old, "rope_theta": 5000.0}).rope == new.rope


def test_dynamic_scaling_leaves_the_original_length_alone(tmp_path: Path) -> None:
    plain = write_config(tmp_path, {}).rope
    dynamic = write_config(tmp_path, {"rope_parameters": SCALINGS["dynamic"]}).rope
    equal = [
        torch.equal(cos_sin_table(dynamic, HEAD_SIZE, length), cos_sin_table(plain, HEAD_SIZE, length))
        for length in (MAX_POSITION, MAX_POSITION + 1)
    ]
    assert equal == [True, False]


@pytest.mark.parametrize(
    ("scaling", "length"),
    [
        ("default", 128),
        ("linear", 384),
        ("dynamic", 128),
        ("llama3", 128),
        ("yarn", 128),
        ("yarn, mscale", 5120),
    ],
)
def test_context_length(scaling: str, length: int, tmp_path: Path) -> None:
    assert write_config(tmp_path, {"rope_parameters": SCALINGS[scaling]}).context_length == length

"""The same answer under any load: log-probabilities equal bit for bit, however the work is cut.

This is a promise of the C++ kernels; the reference promises values, not the order of sums.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from quire import LLM, SamplingParams
from quire.kernels import cpu

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason="the C++ kernels are not built")

INT8: dict[str, Any] = {"quantization": "int8"}
INT4: dict[str, Any] = {"quantization": "int4"}
FORMATS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "bfloat16", **INT8},
    "int8 in groups, float x": {
        "dtype": "float32",
        **INT8,
        "quantization_group_size": 128,
        "activations": "float",
    },
    "int4 in groups of 32": {"dtype": "bfloat16", **INT4, "quantization_group_size": 32},
    "int4 in groups of 128": {"dtype": "float32", **INT4, "quantization_group_size": 128, "lm_head": "int4"},
    "int4, float x": {"dtype": "bfloat16", **INT4, "activations": "float", "lm_head": "float"},
}
# Wide enough for several groups of 128 columns, the last one ragged.
WIDE = {"hidden_size": 160, "intermediate_size": 288}
MODELS: list[tuple[str, str, dict[str, Any]]] = [
    ("LlamaForCausalLM", "float32", {}),
    ("Qwen3ForCausalLM", "float32", {}),
    ("LlamaForCausalLM", "bfloat16", {}),
    ("Qwen3ForCausalLM", "bfloat16", {}),
    ("Qwen2ForCausalLM", "int8", {**WIDE, "tie_word_embeddings": True}),
    ("LlamaForCausalLM", "int8 in groups, float x", WIDE),
    ("Qwen3ForCausalLM", "int4 in groups of 32", {**WIDE, "tie_word_embeddings": True}),
    ("Qwen2ForCausalLM", "int4 in groups of 128", WIDE),
    ("LlamaForCausalLM", "int4, float x", WIDE),
]

# How the work is cut; each is compared with every prompt on its own, whole, on one thread, op by op.
CUTS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "op by op": {"enforce_eager": True},
    "in chunks of 1": {"max_num_batched_tokens": 1},
    "in chunks of 16": {"max_num_batched_tokens": 16},
    "in chunks of 100, op by op": {"max_num_batched_tokens": 100, "enforce_eager": True},
    "in chunks of 100": {"max_num_batched_tokens": 100},
    "other blocks": {"block_size": 5, "max_num_batched_tokens": 33},
    "preempted": {"block_size": 4, "num_blocks": 120},
    "on 2 threads": {"num_threads": 2},
}

NUM_PROMPTS = 32


def make_prompts(count: int = NUM_PROMPTS) -> list[list[int]]:
    """Prompts of 1 to 152 tokens, some of which begin alike."""
    rng = random.Random(3)
    shared = [rng.randrange(256) for _ in range(37)]
    return [shared[: 7 * (i % 5)] + [rng.randrange(256) for _ in range(1 + 4 * i)] for i in range(count)]


def answers(llm: LLM, prompts: list[list[int]]) -> list[Any]:
    """Tokens and log-probabilities; equal only if every bit is."""
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, logprobs=3)
    outputs = llm.generate(prompts, params, use_tqdm=False)
    return [(output.outputs[0].token_ids, output.outputs[0].logprobs) for output in outputs]


def alone(folder: str, settings: dict[str, Any], prompts: list[list[int]]) -> list[Any]:
    """Each prompt on its own, computed whole, with nothing cached, by ops that are called one by one."""
    llm = LLM(folder, enable_prefix_caching=False, num_threads=1, enforce_eager=True, **settings)
    return [answers(llm, [prompt])[0] for prompt in prompts]


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: f"{model[0][:-11]}, {model[1]}")
def model(
    request: pytest.FixtureRequest, tiny_model: Callable[..., Path]
) -> tuple[str, dict[str, Any], list[Any]]:
    """A folder, the settings of a format, and what each prompt gives on its own."""
    architecture, weights, overrides = request.param
    folder = str(tiny_model(architecture, **overrides))
    return folder, FORMATS[weights], alone(folder, FORMATS[weights], make_prompts())


@pytest.mark.parametrize("cut", CUTS)
def test_answers_are_equal_bit_for_bit(model: tuple[str, dict[str, Any], list[Any]], cut: str) -> None:
    folder, settings, expected = model
    llm = LLM(folder, **settings, **CUTS[cut])
    recorded = llm.engine.runner.recorded  # type: ignore[attr-defined]
    assert (recorded is None) == CUTS[cut].get("enforce_eager", False)
    prompts = make_prompts()
    assert answers(llm, prompts) == expected, "in a batch of 32"
    hits = llm.generate(prompts[-1:], SamplingParams(max_tokens=1), use_tqdm=False)[0].num_cached_tokens
    assert hits > 100
    assert answers(llm, prompts) == expected, "with prefix hits"
    if cut == "preempted":
        assert llm.get_metrics().num_preemptions > 0


@pytest.mark.parametrize("size", [1, 2, 7])
def test_answers_do_not_depend_on_the_size_of_the_batch(
    model: tuple[str, dict[str, Any], list[Any]], size: int
) -> None:
    folder, settings, expected = model
    llm = LLM(folder, max_num_seqs=size, enable_prefix_caching=False, **settings)
    prompts = make_prompts()[::3]
    assert answers(llm, prompts) == expected[::3]


# A model in use, where matrices are large enough for every way in which the kernels split work.

QWEN2_5_0_5B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
LARGE_CUTS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "op by op": {"enforce_eager": True},
    "in chunks of 7": {"max_num_batched_tokens": 7},
    "in chunks of 16": {"max_num_batched_tokens": 16},
    "in chunks of 100, on 2 threads": {"max_num_batched_tokens": 100, "num_threads": 2},
    "preempted": {"block_size": 1, "num_blocks": 320, "max_num_batched_tokens": 50},
}


@pytest.mark.nightly
@pytest.mark.parametrize("format", ["bfloat16", "int8", "int4 in groups of 32"])
def test_answers_of_a_large_model_are_equal_bit_for_bit(format: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN2_5_0_5B))
    tiny_models.write_tokenizer(tmp_path)
    settings = {"load_format": "dummy", "seed": 0, "max_model_len": 320, "num_blocks": 200}
    settings |= FORMATS[format]
    prompts = make_prompts()[::4]
    prompts.append([token % 256 for token in range(300)])  # more keys than attention takes at once
    expected = alone(str(tmp_path), settings, prompts)
    for cut, changes in LARGE_CUTS.items():
        llm = LLM(str(tmp_path), **settings | changes)
        for size in (len(prompts), 2):
            assert answers(llm, prompts[-size:]) == expected[-size:], (cut, size)
        if cut == "preempted":
            assert llm.get_metrics().num_preemptions > 0
        del llm

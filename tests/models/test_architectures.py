"""Every architecture against transformers: logits in one pass, and in chunks through the paged cache."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_models
from quire.errors import ModelError
from quire.kernels.types import AttentionMetadata
from quire.models.causal_lm import CausalLM
from quire.models.config import ModelConfig
from quire.models.footprint import weight_bytes
from quire.models.loader import load_model
from quire.models.quant.options import WeightOptions

BLOCK_SIZE = 4
NUM_BLOCKS = 96
TOLERANCE = 1e-4

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

QWEN3_MOE = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {}),
    "llama tied": ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    "llama biases": ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    "llama gelu": ("LlamaForCausalLM", {"hidden_act": "gelu_pytorch_tanh"}),
    "llama exact gelu": ("LlamaForCausalLM", {"hidden_act": "gelu"}),
    "llama multi-query": ("LlamaForCausalLM", {"num_key_value_heads": 1}),
    "llama wide heads": ("LlamaForCausalLM", {"head_dim": 32}),
    "llama sharded": ("LlamaForCausalLM", {"sharded": True}),
    "llama linear": ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
    "llama dynamic": ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}),
    "llama llama3": ("LlamaForCausalLM", {"rope_parameters": LLAMA3 | {"rope_theta": 500000.0}}),
    "llama yarn": ("LlamaForCausalLM", {"rope_parameters": YARN}),
    "mistral": ("MistralForCausalLM", {}),
    "mistral window": ("MistralForCausalLM", {"sliding_window": 7}),
    "mistral tied": ("MistralForCausalLM", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen2 tied yarn": ("Qwen2ForCausalLM", {"tie_word_embeddings": True, "rope_parameters": YARN}),
    "qwen2 window above layer 1": (
        "Qwen2ForCausalLM",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3ForCausalLM", {}),
    "qwen3 tied biases": ("Qwen3ForCausalLM", {"tie_word_embeddings": True, "attention_bias": True}),
    "mixtral": ("MixtralForCausalLM", {"num_local_experts": 4}),
    "mixtral window": ("MixtralForCausalLM", {"num_local_experts": 4, "sliding_window": 6}),
    "qwen3 moe": ("Qwen3MoeForCausalLM", QWEN3_MOE),
    "qwen3 moe with dense layers": (
        "Qwen3MoeForCausalLM",
        QWEN3_MOE
        | {"norm_topk_prob": True, "mlp_only_layers": [1], "use_sliding_window": True}
        | {"sliding_window": 5},
    ),
    "qwen3 window in layer types": (
        "Qwen3ForCausalLM",
        {
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}


@pytest.fixture(params=CASES, scope="module")
def folder(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> Path:
    return make(request.param, tiny_model)


def make(case: str, tiny_model: Callable[..., Path]) -> Path:
    architecture, overrides = CASES[case]
    return tiny_model(architecture, **overrides)


class Cache:
    """A paged cache of several sequences, whose blocks lie scattered over the pool."""

    def __init__(self, model: CausalLM, num_sequences: int, seed: int) -> None:
        config = model.config
        shape = (2, NUM_BLOCKS, config.num_kv_heads, BLOCK_SIZE, config.head_size)
        self.model = model
        self.layers = [torch.full(shape, float("nan")) for _ in range(config.num_layers)]
        order = list(range(NUM_BLOCKS))
        random.Random(seed).shuffle(order)
        self.tables = [order[s::num_sequences] for s in range(num_sequences)]
        self.lengths = [0] * num_sequences

    def step(self, chunks: dict[int, list[int]]) -> dict[int, Tensor]:
        """Computes the next tokens of some sequences at once; returns the logits of each."""
        starts, slots, positions, ids = [0], [], [], []
        for s, chunk in chunks.items():
            new = range(self.lengths[s], self.lengths[s] + len(chunk))
            slots += [self.tables[s][p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for p in new]
            positions += new
            ids += chunk
            starts.append(starts[-1] + len(chunk))
            self.lengths[s] += len(chunk)
        lengths = [self.lengths[s] for s in chunks]
        meta = AttentionMetadata(
            positions=torch.tensor(positions),
            slot_mapping=torch.tensor(slots),
            query_start=torch.tensor(starts, dtype=torch.int32),
            seq_lens=torch.tensor(lengths, dtype=torch.int32),
            block_tables=torch.tensor([self.tables[s] for s in chunks], dtype=torch.int32),
            block_size=BLOCK_SIZE,
            max_query_len=max(map(len, chunks.values())),
            max_seq_len=max(lengths),
        )
        with torch.inference_mode():
            hidden = self.model.forward(torch.tensor(ids), self.layers, meta)
            logits = self.model.compute_logits(hidden)
        return {s: logits[starts[i] : starts[i + 1]] for i, s in enumerate(chunks)}


@cache
def load(folder: Path) -> CausalLM:
    return load_model(folder, ModelConfig.from_folder(folder), device="cpu", dtype=torch.float32)


def prompt(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(tiny_models.VOCAB_SIZE), k=length)


def test_one_pass(folder: Path) -> None:
    ids = prompt(1, 60)
    logits = Cache(load(folder), 1, seed=1).step({0: ids})[0]
    torch.testing.assert_close(logits, tiny_models.oracle_logits(folder, ids), atol=TOLERANCE, rtol=0)


def test_chunks_of_several_sequences(folder: Path) -> None:
    prompts = [prompt(seed, length) for seed, length in ((2, 41), (3, 17), (4, 30))]
    cache = Cache(load(folder), len(prompts), seed=5)
    rng, got = random.Random(6), {s: torch.empty(0, tiny_models.VOCAB_SIZE) for s in range(3)}
    while True:
        left = {s: ids[cache.lengths[s] :] for s, ids in enumerate(prompts)}
        chunks = {s: ids[: rng.randint(1, 9)] for s, ids in left.items() if ids}
        if not chunks:
            break
        for s, logits in cache.step(chunks).items():
            got[s] = torch.cat((got[s], logits))
    for s, ids in enumerate(prompts):
        torch.testing.assert_close(got[s], tiny_models.oracle_logits(folder, ids), atol=TOLERANCE, rtol=0)


def greedy(folder: Path, ids: list[int], max_tokens: int) -> list[int]:
    cache, out = Cache(load(folder), 1, seed=7), list[int]()
    chunk = ids
    for _ in range(max_tokens):
        chunk = [int(cache.step({0: chunk})[0][-1].argmax())]
        out += chunk
    return out


@pytest.mark.parametrize(
    "case", ["llama", "mistral window", "qwen2 tied yarn", "qwen3", "mixtral", "qwen3 moe"]
)
def test_greedy_tokens(case: str, tiny_model: Callable[..., Path]) -> None:
    folder, ids = make(case, tiny_model), prompt(8, 11)
    assert greedy(folder, ids, 24) == tiny_models.oracle_greedy(folder, ids, 24)


def test_a_trained_model(shared_data: Path) -> None:
    folder = shared_data / "models" / "stories260K"
    assert greedy(folder, [1], 100) == tiny_models.oracle_greedy(folder, [1], 100)


def test_bfloat16_stays_close(tiny_model: Callable[..., Path]) -> None:
    folder, ids = tiny_model(), prompt(9, 20)
    model = load_model(folder, ModelConfig.from_folder(folder), device="cpu", dtype=torch.bfloat16)
    assert model.model.layers[0].self_attn.qkv_proj.weight.format == "bfloat16"
    logits = Cache(model, 1, seed=9).step({0: ids})[0]
    reference = tiny_models.oracle_logits(folder, ids)
    assert logits.dtype == torch.float32
    assert (logits - reference).abs().mean() < 0.05 * reference.abs().mean()


def test_experts_stay_float(tiny_model: Callable[..., Path]) -> None:
    """Only the output projection of a mixture can be rounded; what else is asked for is refused."""
    folder = make("mixtral", tiny_model)
    config = ModelConfig.from_folder(folder)
    with pytest.raises(ModelError, match="quantization=int8 is not possible"):
        load_model(
            folder, config, device="cpu", dtype=torch.float32, options=WeightOptions(quantization="int8")
        )
    options = WeightOptions(lm_head="int8")
    model = load_model(folder, config, device="cpu", dtype=torch.float32, options=options)
    assert model.lm_head.weight.format == "int8"
    experts = model.model.layers[0].block_sparse_moe.gate_up  # type: ignore[attr-defined]
    assert experts.stacked().shape == (4, 2 * 96, 64)
    assert weight_bytes(config, torch.float32, options) > sum(
        2 * 96 * 64 * 4 * config.num_experts for _ in range(config.num_layers)
    )
    noise = load_model(folder, config, device="cpu", dtype=torch.float32, load_format="dummy")
    assert Cache(noise, 1, seed=1).step({0: prompt(1, 5)})[0].isfinite().all()

"""The same answer under any load: log-probabilities equal bit for bit, however the work is cut.

This is a promise of the C++ kernels; the reference promises values, not the order of sums.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.kernels import cpu

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason="the C++ kernels are not built")

PARAMS = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, logprobs=3)


def make_prompts() -> list[list[int]]:
    rng = random.Random(3)
    shared = [rng.randrange(256) for _ in range(37)]
    return [shared[: 7 * (i % 5)] + [rng.randrange(256) for _ in range(1 + 6 * i)] for i in range(12)]


def answers(llm: LLM, prompts: list[list[int]]) -> list[Any]:
    """Tokens and log-probabilities; equal only if every bit is."""
    outputs = llm.generate(prompts, PARAMS, use_tqdm=False)
    return [(output.outputs[0].token_ids, output.outputs[0].logprobs) for output in outputs]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=["LlamaForCausalLM", "Qwen3ForCausalLM"])
def folder(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model(request.param))


@pytest.fixture(scope="module")
def alone(folder: str, dtype: str) -> list[Any]:
    """Each prompt on its own, computed whole, with nothing cached."""
    llm = LLM(folder, dtype=dtype, enable_prefix_caching=False, num_threads=1)
    return [answers(llm, [prompt])[0] for prompt in make_prompts()]


CUTS: dict[str, dict[str, Any]] = {
    "in one batch": {},
    "in chunks of 1": {"max_num_batched_tokens": 1},
    "in chunks of 16": {"max_num_batched_tokens": 16},
    "other blocks": {"block_size": 5, "max_num_batched_tokens": 33},
    "preempted": {"block_size": 4, "num_blocks": 70},
    "on 2 threads": {"num_threads": 2},
}


@pytest.mark.parametrize("cut", CUTS)
def test_answers_are_equal_bit_for_bit(folder: str, dtype: str, alone: list[Any], cut: str) -> None:
    llm = LLM(folder, dtype=dtype, **CUTS[cut])
    assert answers(llm, make_prompts()) == alone
    assert answers(llm, make_prompts()) == alone, "with prefix hits"
    if cut == "preempted":
        assert llm.get_metrics().num_preemptions > 0

"""The whole engine against transformers: the same greedy tokens, however the work is cut."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from quire import LLM, RequestOutput, SamplingParams

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    "mistral-window": ("MistralForCausalLM", {"sliding_window": 11}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {}),
}
# A prompt of 60 tokens and 64 of output need 31 blocks of 4; 8 such requests do not fit into 80.
CUTS: dict[str, dict[str, Any]] = {
    "one batch": {},
    "chunked prefill": {"max_num_batched_tokens": 7},
    "preemption": {"num_blocks": 80, "enable_prefix_caching": False},
    "preemption, chunks and prefix hits": {"num_blocks": 80, "max_num_batched_tokens": 13},
}
NUM_TOKENS = 64


def make_prompts() -> list[list[int]]:
    """Eight prompts of 1 to 60 tokens, half of which share a beginning."""
    rng = random.Random(1)
    shared = [rng.randrange(256) for _ in range(20)]
    return [
        (shared if i % 2 else []) + [rng.randrange(256) for _ in range(length)]
        for i, length in enumerate([1, 3, 16, 17, 33, 40, 60, 5])
    ]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> Path:
    architecture, overrides = MODELS[request.param]
    return tiny_model(architecture, **overrides)


@pytest.fixture(scope="module")
def expected(model: Path) -> list[list[int]]:
    return [tiny_models.oracle_greedy(model, prompt, NUM_TOKENS) for prompt in make_prompts()]


def generate(llm: LLM, **extra: Any) -> list[RequestOutput]:
    params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True, **extra)
    outputs = llm.generate(make_prompts(), params, use_tqdm=False)
    llm.engine.scheduler.check_integrity()
    return outputs


def tokens_of(outputs: list[RequestOutput]) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


@pytest.mark.parametrize("cut", CUTS)
def test_greedy_tokens_equal_transformers(model: Path, expected: list[list[int]], cut: str) -> None:
    llm = LLM(str(model), block_size=4, **CUTS[cut])
    assert tokens_of(generate(llm)) == expected
    if "preemption" in cut:
        assert llm.get_metrics().num_preemptions > 0


def test_prefix_hits_change_nothing(model: Path, expected: list[list[int]]) -> None:
    llm = LLM(str(model), block_size=4)
    generate(llm)
    again = generate(llm)
    assert tokens_of(again) == expected
    assert all(output.num_cached_tokens == (len(output.prompt_token_ids) - 1) // 4 * 4 for output in again)
    llm.reset_prefix_cache()
    assert all(output.num_cached_tokens == 0 for output in generate(llm)[::2])


def test_logprobs_equal_transformers(model: Path) -> None:
    for settings in ({}, CUTS["chunked prefill"], CUTS["preemption"]):
        llm = LLM(str(model), block_size=4, **settings)
        for output in generate(llm, logprobs=2, prompt_logprobs=1):
            ids = output.prompt_token_ids + output.outputs[0].token_ids
            logprobs = torch.log_softmax(tiny_models.oracle_logits(model, ids), -1)
            entries = [*(output.prompt_logprobs or []), *(output.outputs[0].logprobs or [])]
            assert len(entries) == len(ids)
            assert entries[0] is None
            for position in range(1, len(ids)):
                entry = entries[position]
                assert entry is not None
                row = logprobs[position - 1]
                assert next(iter(entry)) == ids[position]
                for token, logprob in entry.items():
                    assert logprob.logprob == pytest.approx(float(row[token]), abs=1e-4)
                assert entry[ids[position]].rank == int((row > row[ids[position]]).sum()) + 1


def test_sampling_does_not_depend_on_the_batch(model: Path) -> None:
    params = SamplingParams(temperature=0.9, top_p=0.9, seed=7, max_tokens=32, ignore_eos=True)
    prompts = make_prompts()
    together = LLM(str(model), block_size=4, max_num_batched_tokens=50).generate(
        prompts, params, use_tqdm=False
    )
    for prompt, output in zip(prompts, together, strict=True):
        alone = LLM(str(model)).generate(prompt, params, use_tqdm=False)
        assert alone[0].outputs[0].token_ids == output.outputs[0].token_ids


def test_a_trained_model_tells_the_same_story(shared_data: Path) -> None:
    folder = shared_data / "models" / "stories260K"
    output = LLM(str(folder)).generate([1], SamplingParams(temperature=0.0, max_tokens=300), use_tqdm=False)[
        0
    ]
    assert output.outputs[0].token_ids == tiny_models.oracle_greedy(folder, [1], 300)
    assert output.outputs[0].text.startswith("Once upon a time, there was a little girl named Lily.")

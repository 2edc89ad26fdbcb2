"""The sampler against a naive one that works on one row at a time, in float64."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from quire.engine import noise
from quire.engine.request import Request
from quire.engine.sampler import CDF_BLOCK, NUM_CANDIDATES, Sampler, draw_by_race, inverse_cdf, thresholds
from quire.engine.sampling_params import SamplingParams

VOCAB = 300


def make(params: dict[str, Any], prompt: list[int], output: list[int] = [], seed: int = 0) -> Request:  # noqa: B006
    request = Request("r", prompt, SamplingParams(**params), max_model_len=1000, eos_token_ids=[2], seed=seed)
    request.token_ids += output
    return request


def naive_adjust(logits: np.ndarray, request: Request) -> np.ndarray:
    params, x = request.params, logits.astype(np.float64).copy()
    output = Counter(request.token_ids[request.num_prompt_tokens :])
    for token in range(len(x)):
        if params.allowed_token_ids is not None and token not in params.allowed_token_ids:
            x[token] = -np.inf
        for sequence in params.bad_words_token_ids:
            written = [*request.token_ids[request.num_prompt_tokens :], token]
            if written[-len(sequence) :] == sequence:
                x[token] = -np.inf
        x[token] += params.logit_bias.get(token, 0.0)
        if request.num_output_tokens < params.min_tokens and token in request.stop_token_ids:
            x[token] = -np.inf
        if token in request.token_ids:
            penalty = params.repetition_penalty
            x[token] = x[token] / penalty if x[token] > 0 else x[token] * penalty
        x[token] -= params.frequency_penalty * output[token] + params.presence_penalty * (output[token] > 0)
    return x


def naive_distribution(logits: np.ndarray, request: Request) -> np.ndarray:
    """top-k, then top-p of what is left, then min-p, as `SamplingParams` states them."""
    params = request.params
    x = naive_adjust(logits, request) / params.temperature
    probs = np.exp(x - x.max())
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    kept = order[: params.top_k] if params.top_k else order
    if params.top_p < 1.0:
        cumulative = probs[kept].cumsum()
        kept = kept[: int((cumulative < params.top_p * cumulative[-1]).sum()) + 1]
    kept = kept[probs[kept] >= params.min_p * probs.max()]
    result = np.zeros_like(probs)
    result[kept] = probs[kept]
    return result


def naive_sample(logits: np.ndarray, request: Request) -> int:
    probs = naive_distribution(logits, request)
    target = noise.uniform([request.seed], [request.num_tokens])[0] * probs.sum()
    return int(np.argmax(probs.cumsum() > target))


PARAMS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.3, "top_k": 5},
    {"temperature": 2.0, "top_k": 1},
    {"temperature": 1.5, "top_p": 0.6},
    {"temperature": 1.0, "top_p": 0.001},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 1.0, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
    {"temperature": 0.0, "repetition_penalty": 1.7},
    {"temperature": 0.0, "presence_penalty": 2.0, "frequency_penalty": 1.5},
    {"temperature": 1.0, "presence_penalty": -2.0, "repetition_penalty": 0.5, "top_p": 0.9},
    {"temperature": 0.0, "logit_bias": {7: 100.0, 9: -100.0}},
    {"temperature": 1.0, "logit_bias": {3: 5.0}, "allowed_token_ids": [3, 4, 299]},
    {"temperature": 0.0, "min_tokens": 5, "stop_token_ids": [0, 1]},
]


def test_rows_equal_the_naive_sampler_in_one_batch_and_alone() -> None:
    rng = np.random.default_rng(0)
    for round_ in range(20):
        requests = [
            make(
                params,
                rng.integers(0, VOCAB, 12).tolist(),
                rng.integers(0, VOCAB, int(rng.integers(0, 9))).tolist(),
                seed=int(rng.integers(0, 1 << 62)),
            )
            for params in PARAMS
        ]
        logits = rng.normal(0, 3, (len(requests), VOCAB)).astype(np.float32)
        batched = Sampler().sample(torch.from_numpy(logits.copy()), requests).tokens
        for i, request in enumerate(requests):
            alone = Sampler().sample(torch.from_numpy(logits[i : i + 1].copy()), [request]).tokens
            if request.params.greedy:
                expected = int(np.argmax(naive_adjust(logits[i], request)))
            else:
                expected = naive_sample(logits[i], request)
            assert batched[i] == alone[0] == expected, (round_, PARAMS[i])


def test_bad_words_forbid_only_the_token_that_would_complete_one() -> None:
    logits = torch.zeros(1, VOCAB)
    words = {"temperature": 0.0, "bad_words_token_ids": [[7], [3, 4, 9], [4, 8], [1, 2]]}
    sample = Sampler().sample
    for prompt, output, forbidden in (
        ([5], [], {7}),
        ([5], [3, 4], {7, 9, 8}),
        ([5], [4], {7, 8}),
        ([3], [4], {7, 8}),  # begun in the prompt: no word of the output
        ([5, 1], [], {7}),
        ([5], [3, 4, 4], {7, 8}),
    ):
        request = make(words, prompt, output)
        assert request.adjusts_logits
        assert set(request.forbidden_tokens()) == forbidden
        for token in range(10):
            row = logits.clone()
            row[0, token] = 1.0
            assert (sample(row, [request]).tokens != [token]) == (token in forbidden)


@pytest.mark.parametrize("vocab", [5, CDF_BLOCK, CDF_BLOCK + 1, 5 * CDF_BLOCK - 3])
def test_draws_follow_the_distribution(vocab: int) -> None:
    probs = torch.zeros(vocab)
    probs[[0, vocab // 2, vocab - 1]] = torch.tensor([0.2, 0.5, 0.3])
    u = torch.from_numpy(noise.uniform([1] * 4000, list(range(4000))))
    counts = Counter(inverse_cdf(probs.expand(4000, -1), u).tolist())
    assert set(counts) == {0, vocab // 2, vocab - 1}
    assert counts[vocab // 2] / 4000 == pytest.approx(0.5, abs=0.04)
    assert counts[0] / 4000 == pytest.approx(0.2, abs=0.04)


def test_extreme_numbers_never_draw_a_token_of_probability_zero() -> None:
    probs = torch.zeros(2, 3 * CDF_BLOCK)
    probs[:, CDF_BLOCK + 5] = 1e-30
    probs[1, 2 * CDF_BLOCK] = 1.0
    for u in (0.0, 0.5, math.nextafter(1.0, 0.0)):
        drawn = inverse_cdf(probs, torch.full((2,), u, dtype=torch.float64))
        assert (probs.gather(1, drawn[:, None]) > 0).all()


def test_top_p_of_a_flat_distribution_looks_past_the_candidates() -> None:
    vocab = 4 * NUM_CANDIDATES
    probs = torch.softmax(torch.linspace(0, 0.1, vocab), 0)[None]
    kept = int((probs >= thresholds(probs, [0], [0.9], [0.0])[:, None]).sum())
    assert kept == pytest.approx(0.9 * vocab, rel=0.02)


@pytest.mark.parametrize("temperature", [1e-320, 1e-40, 1e-7, 1e-4])
def test_tiny_temperatures_are_greedy(temperature: float) -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0)) * 1000
    for extra in ({}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}):
        request = make({"temperature": temperature, **extra}, [1, 2, 3])
        assert Sampler().sample(logits.clone(), [request]).tokens == [int(logits.argmax())]


def test_same_seed_same_tokens_other_position_other_noise() -> None:
    logits = torch.zeros(1, VOCAB)
    first = make({"temperature": 1.0, "seed": 5}, [1, 2, 3])
    again = make({"temperature": 1.0, "seed": 5}, [9, 9, 9], seed=77)
    later = make({"temperature": 1.0, "seed": 5}, [1, 2, 3], [4])
    tokens = [Sampler().sample(logits.clone(), [request]).tokens[0] for request in (first, again, later)]
    assert tokens[0] == tokens[1]
    assert tokens[0] != tokens[2]


def test_logprobs_are_those_of_the_raw_logits() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (3, VOCAB)).astype(np.float32)
    requests = [
        make({"temperature": 0.0, "logprobs": 3, "logit_bias": {4: 100.0}}, [1]),
        make({"temperature": 0.0}, [1]),
        make({"temperature": 0.0, "logprobs": 0}, [1]),
    ]
    output = Sampler().sample(torch.from_numpy(logits.copy()), requests)
    expected = torch.log_softmax(torch.from_numpy(logits), -1)
    assert set(output.logprobs) == {0, 2}
    (token, logprob, rank), *best = output.logprobs[0]
    assert token == 4
    assert logprob == pytest.approx(float(expected[0, 4]), abs=1e-5)
    assert rank == int((expected[0] > expected[0, 4]).sum()) + 1
    assert [entry[0] for entry in best] == expected[0].topk(3).indices.tolist()
    assert [entry[2] for entry in best] == [1, 2, 3]
    assert output.logprobs[2] == [(output.tokens[2], pytest.approx(float(expected[2].max()), abs=1e-5), 1)]


def test_a_row_of_nan_fails_alone() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, (4, VOCAB)).astype(np.float32)
    requests = [make(params, [1], seed=3) for params in ({"temperature": 0.0}, {"temperature": 1.0}) * 2]
    clean = Sampler().sample(torch.from_numpy(logits.copy()), requests)
    logits[0, 17] = np.nan
    logits[1, 5] = np.nan
    output = Sampler().sample(torch.from_numpy(logits), requests)
    assert output.errors == {0: "numerical_error", 1: "numerical_error"}
    assert output.tokens[2:] == clean.tokens[2:]


def test_a_race_draws_from_the_same_distribution_with_noise_of_its_own() -> None:
    """What a GPU runs, here on the reference: every row's settings and seed reach the op."""
    rng = np.random.default_rng(4)
    tried = [params for params in PARAMS if params["temperature"] and len(params) < 5]
    for params in (*tried, {"temperature": 1.0, "top_k": 1 << 31}):
        requests = [make(params, [1, 2, 3], seed=int(rng.integers(-(1 << 62), 1 << 62))) for _ in range(50)]
        requests[1] = requests[0]
        logits = rng.normal(0, 2, VOCAB).astype(np.float32)
        adjusted = naive_adjust(logits, requests[0]).astype(np.float32)
        tokens = draw_by_race(torch.from_numpy(adjusted).expand(50, -1), requests).tolist()
        allowed = naive_distribution(logits, requests[0]) > 0
        assert all(allowed[token] for token in tokens)
        assert tokens[0] == tokens[1]
        if allowed.sum() > 10:
            assert len(set(tokens)) > 3

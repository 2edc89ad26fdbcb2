"""Decoding steps that are replayed give what steps give that run kernel by kernel.

There may be no GPU, so a stand-in calls the captured function again. Padding, buffers, block tables that
follow the host's, the block of the padding and the tokens that stay on the device are the same with both.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import (
    VOCAB_SIZE,
    EchoModel,
    FakeClock,
    echo_cache,
    echo_generate,
    make_request,
    make_scheduler,
    random_prompt,
)
from quire import LLM, SamplingParams
from quire.engine.decode_graphs import CudaGraphs, RepeatedCalls, padded_sizes, why_not_capturable
from quire.engine.engine import Engine
from quire.engine.model_choice import choose
from quire.engine.model_runner import ModelRunner
from quire.engine.pool import allocate_kv_caches
from quire.engine.request import Request
from quire.kernels import cpu


def test_sizes_are_dense_where_batches_are_small_and_end_with_the_largest() -> None:
    assert padded_sizes(1) == [1]
    assert padded_sizes(6) == [1, 2, 4, 6]
    assert padded_sizes(20) == [1, 2, 4, 8, 16, 20]
    assert padded_sizes(256) == [1, 2, 4, *range(8, 64, 8), *range(64, 257, 16)]


def draw_by_position(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    at: Tensor,
) -> Tensor:
    """Stands in for the op that draws: every input decides, and a temperature of 0 is greedy."""
    kinds = [x.dtype for x in (temperature, top_k, top_p, min_p, seeds, at)]
    assert kinds == [torch.float32, torch.int32, *[torch.float32] * 2, *[torch.int64] * 2]
    mixed = seeds * 31 + at * 7 + top_k * 3 + ((temperature + 2 * top_p + 4 * min_p) * 1000).long()
    best = logits.argmax(dim=-1)
    return torch.where(temperature > 0, (best + mixed) % VOCAB_SIZE, best)


def draws_alone(prompt: list[int], params: SamplingParams, seed: int, num_tokens: int) -> list[int]:
    """What `draw_by_position` makes of the KV-echo model for one request."""
    token_ids = list(prompt)
    for _ in range(num_tokens):
        best = torch.zeros(1, VOCAB_SIZE)
        best[0, echo_generate(token_ids, 1)[0]] = 1
        floats = [torch.tensor([value]) for value in (params.temperature, params.top_p, params.min_p)]
        ints = [torch.tensor([value]) for value in (seed, len(token_ids))]
        k = torch.tensor([params.top_k], dtype=torch.int32)
        token_ids.append(int(draw_by_position(best, floats[0], k, floats[1], floats[2], *ints)))
    return token_ids[len(prompt) :]


class EchoDay:
    """Random requests over the real runner with graphs, in a pool that is too small for them."""

    def __init__(self, seed: int, *, draws: bool, is_async: bool) -> None:
        self.rng = rng = random.Random(seed)
        self.block_size = rng.choice([1, 2, 4])
        self.max_model_len = 32
        self.max_num_seqs = rng.randrange(2, 12)
        smallest = self.max_model_len // self.block_size
        num_blocks = smallest + rng.randrange(2 * smallest)
        self.scheduler = make_scheduler(
            num_blocks=num_blocks,
            block_size=self.block_size,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=rng.choice([2, 16, 64]),
            clock=FakeClock(),
        )
        self.cache = echo_cache(num_blocks + 1, self.block_size)
        self.runner = ModelRunner(
            EchoModel(), [self.cache], max_num_seqs=self.max_num_seqs, max_model_len=self.max_model_len
        )
        self.runner.draw = draw_by_position if draws else None
        # Some batches are larger than the largest graph.
        sizes = padded_sizes(rng.randrange(1, self.max_num_seqs + 1))
        captured = list(self.runner.capture(RepeatedCalls(), sizes, padding_block=num_blocks))
        assert captured == sizes[::-1]
        assert (self.cache[:, :num_blocks] == -7).all(), "capturing wrote into the pool"
        self.draws = draws
        self.engine = Engine(
            self.scheduler,
            self.runner,
            max_model_len=self.max_model_len,
            eos_token_ids=(),
            async_scheduling=is_async,
        )

    def add(self, index: int) -> Request:
        rng = self.rng
        prompt = random_prompt(rng, rng.randrange(1, 12))
        params = SamplingParams(temperature=0.0, max_tokens=rng.randrange(1, 20))
        if self.draws and rng.random() < 0.6:
            params = SamplingParams(
                temperature=rng.choice([0.5, 1.0]),
                top_k=rng.randrange(5),
                top_p=rng.choice([1.0, 0.5]),
                min_p=rng.choice([0.0, 0.25]),
                max_tokens=params.max_tokens,
            )
        request = Request(
            str(index),
            prompt,
            params,
            max_model_len=self.max_model_len,
            seed=rng.randrange(1000),
            arrival=index,
        )
        self.scheduler.add(request)
        return request

    def run(self) -> None:
        requests: list[Request] = []
        while len(requests) < 25 or self.scheduler.has_unfinished:
            if len(requests) < 25 and self.rng.random() < 0.6:
                requests.append(self.add(len(requests)))
            self.engine.step()
            self.scheduler.check_integrity()
        for request in requests:
            prompt = request.token_ids[: request.num_prompt_tokens]
            num = request.max_num_tokens - request.num_prompt_tokens
            if request.params.greedy:
                expected = echo_generate(prompt, num)
            else:
                expected = draws_alone(prompt, request.params, request.seed, num)
            assert request.token_ids[len(prompt) :] == expected, request


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("draws", [False, True])
def test_random_schedules_on_the_echo_model(draws: bool, is_async: bool) -> None:
    num_preemptions = 0
    for seed in range(25):
        day = EchoDay(seed, draws=draws, is_async=is_async)
        try:
            day.run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        num_preemptions += day.scheduler.num_preemptions
    assert num_preemptions > 25


def test_steps_of_one_token_each_are_replayed_and_others_are_not() -> None:
    runner = ModelRunner(EchoModel(), [echo_cache(9, 4)], max_num_seqs=4, max_model_len=32)
    list(runner.capture(RepeatedCalls(), [1, 2, 4], padding_block=8))
    assert runner.graphs is not None
    seen: list[int] = []
    decode = runner.graphs.decode
    runner.graphs.decode = lambda rows, transfers: seen.append(rows.shape[1]) or decode(rows, transfers)  # type: ignore[method-assign]
    scheduler = make_scheduler(num_blocks=8, block_size=4)
    for i in range(3):
        scheduler.add(make_request(f"r{i}", [1 + i, 2, 3], max_tokens=3 + i, arrival=i))
    while scheduler.has_unfinished:
        scheduled = scheduler.schedule()
        scheduler.update(scheduled, runner.execute(scheduled))
    assert seen == [3, 3, 2, 1]


def test_a_nan_shows_in_a_replayed_step_whether_it_samples_or_not() -> None:
    class Poisoned(EchoModel):
        def compute_logits(self, hidden: Tensor) -> Tensor:
            logits = super().compute_logits(hidden.nan_to_num())
            logits[hidden[:, 0].isnan()] = float("nan")
            return logits

        def forward(self, input_ids: Tensor, kv_caches: list[Tensor], meta: Any) -> Tensor:
            hidden = super().forward(input_ids, kv_caches, meta)
            hidden[input_ids == 13] = float("nan")
            return hidden

    for prompt in ([13], [13, 5]):
        runner = ModelRunner(Poisoned(), [echo_cache(9, 4)], max_num_seqs=4, max_model_len=32)
        list(runner.capture(RepeatedCalls(), [4], padding_block=8))
        scheduler = make_scheduler(num_blocks=8, block_size=4, max_num_batched_tokens=2)
        scheduler.add(make_request("good", [5], max_tokens=3, arrival=0))
        scheduler.add(make_request("bad", prompt, max_tokens=3, arrival=1))
        scheduled = scheduler.schedule()
        assert scheduled.num_tokens == 2
        output = runner.execute(scheduled)
        assert output.errors == {1: "numerical_error"}
        assert output.sampled[0] == echo_generate([5], 1)[0]


# A tiny random model, on the kernels that promise the same bits whatever shares the batch.


def graphed(folder: Path, **settings: Any) -> LLM:
    """An engine whose decoding steps are replayed by the stand-in."""
    llm = LLM(str(folder), enforce_eager=True, **settings)
    plan = llm.memory_plan
    choice = choose(llm.config)
    grown = type(plan)(plan.shape, plan.budget, plan.num_blocks + 1, plan.max_model_len, plan.reason)
    runner = ModelRunner(
        llm.engine.runner.model,  # type: ignore[attr-defined]
        allocate_kv_caches(choice, grown),
        max_num_seqs=llm.config.max_num_seqs,
        max_model_len=llm.max_model_len,
    )
    list(runner.capture(RepeatedCalls(), padded_sizes(8), padding_block=plan.num_blocks))
    llm.engine.runner = runner
    return llm


@pytest.mark.skipif(cpu.unavailable() is not None, reason="the C++ kernels are not built")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_blocks": 70, "block_size": 4},
        {"max_num_batched_tokens": 1},
        {"dtype": "bfloat16"},
        {"async_scheduling": True},
        {"async_scheduling": True, "num_blocks": 70, "block_size": 4},
    ],
    ids=str,
)
def test_a_tiny_model_answers_the_same_bit_for_bit(
    tiny_model: Callable[..., Path], settings: dict[str, Any]
) -> None:
    folder = tiny_model("Qwen3ForCausalLM")
    rng = random.Random(4)
    prompts = [[rng.randrange(256) for _ in range(rng.randrange(1, 40))] for _ in range(12)]
    params = [
        SamplingParams(
            temperature=0.0 if i % 3 else 0.8,
            top_p=0.9,
            seed=i,
            max_tokens=24,
            ignore_eos=True,
            logprobs=2 if i % 2 else None,
            prompt_logprobs=1 if i == 5 else None,
            repetition_penalty=1.2 if i == 7 else 1.0,
        )
        for i in range(12)
    ]

    def answers(llm: LLM) -> list[Any]:
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [
            (output.outputs[0].token_ids, output.outputs[0].logprobs, output.prompt_logprobs)
            for output in outputs
        ]

    settings = {"max_num_seqs": 12, "max_model_len": 96, **settings}
    eager = LLM(str(folder), enforce_eager=True, **{**settings, "async_scheduling": False})
    expected = answers(eager)
    llm = graphed(folder, **settings)
    assert answers(llm) == expected
    if "num_blocks" in settings:
        assert llm.get_metrics().num_preemptions > 0


def test_a_reference_kernel_that_needs_the_host_is_no_part_of_a_graph() -> None:
    reason = why_not_capturable("meta")
    assert reason is not None
    assert "paged_attention runs on the reference kernel" in reason


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_cuda_graph_fills_the_same_tensors_again() -> None:
    x = torch.ones(4, device="cuda")
    replay = CudaGraphs().capture(lambda: (x * 2,))
    for value in (1.0, 5.0):
        x.fill_(value)
        assert replay()[0].tolist() == [2 * value] * 4

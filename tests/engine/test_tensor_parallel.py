"""Two ranks over gloo: the tokens of one rank, whatever the load, and an end that is never a hang."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import quant_writers
from quire import LLM, RequestOutput, SamplingParams
from quire.engine import build, tensor_parallel
from quire.engine.async_engine import AsyncEngine
from quire.engine.config import EngineConfig
from quire.engine.tensor_parallel import ParallelModel, Workers, thread_share
from quire.errors import EngineDied, ModelError, ModelTooLarge, NotFound, RankFailed
from quire.kernels import cpu

NUM_TOKENS = 16
NEAR_TIE = 0.05
"""Two tokens whose log-probabilities are closer may change places by the rounding of activations."""

BIASES = {"attention_bias": True, "mlp_bias": True}
WIDE = {"hidden_size": 160, "intermediate_size": 288, "head_dim": 48}
EXACT = {"activations": "float"}

# Name: architecture, its configuration, the engine's settings.
FLOAT_INPUTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama, tied": ("LlamaForCausalLM", {"tie_word_embeddings": True}, {}),
    "llama, biases": ("LlamaForCausalLM", BIASES, {"kv_cache_dtype": "int8"}),
    "mistral, window, one KV head": (
        "MistralForCausalLM",
        {"sliding_window": 11, "num_key_value_heads": 1},
        {},
    ),
    "qwen2, odd vocabulary": ("Qwen2ForCausalLM", {"vocab_size": 323}, {}),
    "qwen3, tied": ("Qwen3ForCausalLM", {"tie_word_embeddings": True, "attention_bias": True}, {}),
    "qwen2, int8, tied": (
        "Qwen2ForCausalLM",
        {"tie_word_embeddings": True},
        {"quantization": "int8", **EXACT},
    ),
    "qwen3, int4, cut groups": (
        "Qwen3ForCausalLM",
        WIDE,
        {"quantization": "int4", "quantization_group_size": 128, **EXACT},
    ),
}
ROUNDED_INPUTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen2, int8": ("Qwen2ForCausalLM", WIDE, {"quantization": "int8"}),
    "llama, int4": ("LlamaForCausalLM", {**WIDE, **BIASES}, {"quantization": "int4", "lm_head": "int4"}),
}
CHECKPOINTS: dict[str, quant_writers.Recipe] = {
    "awq": quant_writers.Recipe("awq"),
    "gptq, ordered": quant_writers.Recipe("gptq", act_order=True),
}


def make_prompts() -> list[list[int]]:
    """Six prompts of 1 to 60 tokens, half of which share a beginning."""
    rng = random.Random(1)
    shared = [rng.randrange(256) for _ in range(20)]
    return [
        (shared if i % 2 else []) + [rng.randrange(256) for _ in range(length)]
        for i, length in enumerate([1, 3, 17, 33, 60, 5])
    ]


def generate(llm: LLM, prompts: list[list[int]] | None = None) -> list[RequestOutput]:
    params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=2)
    outputs = llm.generate(prompts or make_prompts(), params, use_tqdm=False)
    llm.engine.scheduler.check_integrity()
    return outputs


def tokens_of(outputs: list[RequestOutput]) -> list[list[int]]:
    return [output.outputs[0].token_ids for output in outputs]


def logprobs_of(output: RequestOutput) -> list[list[float]]:
    """Of each token, and of the two likeliest there."""
    entries = output.outputs[0].logprobs
    assert entries is not None
    return [[logprob.logprob for logprob in entry.values()] for entry in entries]


def gaps_of(output: RequestOutput) -> list[float]:
    """By how much each token, the likeliest, is likelier than the next one."""
    return [values[0] - values[1] for values in logprobs_of(output)]


def open_two(folder: Path, **settings: Any) -> LLM:
    llm = LLM(str(folder), block_size=4, tensor_parallel_size=2, num_blocks=200, **settings)
    assert llm.engine.runner.recorded is None  # type: ignore[attr-defined]
    return llm


def workers_of(llm: LLM) -> list[psutil.Process]:
    model: Any = llm.engine.runner.model  # type: ignore[attr-defined]
    assert isinstance(model, ParallelModel)
    return [psutil.Process(pid) for pid in model.workers.pids]


def check_equal(folder: Path, settings: dict[str, Any]) -> None:
    """Two ranks' tokens are one rank's.

    A product in two parts is summed in another order, which changes fp32 results by some 1e-7 of their
    size, and log-probabilities by some 1e-6. That the best token is the same follows where it leads by
    more than twice the difference, and these models' tokens do: both are asserted, so that equal tokens
    are no luck.
    """
    expected = generate(LLM(str(folder), block_size=4, **settings))
    outputs = generate(open_two(folder, **settings))
    assert tokens_of(outputs) == tokens_of(expected)
    difference = max(
        abs(a - b)
        for output, other in zip(outputs, expected, strict=True)
        for values, others in zip(logprobs_of(output), logprobs_of(other), strict=True)
        for a, b in zip(values, others, strict=True)
    )
    assert 0 < difference < 1e-4, "0 would mean that nothing was cut"
    assert min(gap for output in expected for gap in gaps_of(output)) > 2 * difference


@pytest.mark.parametrize("name", FLOAT_INPUTS)
def test_tokens_equal_those_of_one_rank(name: str, tiny_model: Callable[..., Path]) -> None:
    architecture, overrides, settings = FLOAT_INPUTS[name]
    check_equal(tiny_model(architecture, **overrides), settings)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_tokens_of_integer_checkpoints(name: str, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "quantized"
    quant_writers.quantize_folder(tiny_model("Qwen2ForCausalLM"), folder, CHECKPOINTS[name])
    check_equal(folder, EXACT)


@pytest.mark.parametrize("name", ROUNDED_INPUTS)
def test_tokens_where_activations_are_rounded(name: str, tiny_model: Callable[..., Path]) -> None:
    """All ranks round as one does, but a last bit before may decide which way: tokens equal up to a near tie.

    With a scale of its own at each rank, the first tokens would differ.
    """
    architecture, overrides, settings = ROUNDED_INPUTS[name]
    folder = tiny_model(architecture, **overrides)
    expected = generate(LLM(str(folder), block_size=4, **settings))
    outputs = generate(open_two(folder, **settings))
    num_equal = 0
    for output, other in zip(outputs, expected, strict=True):
        rows = zip(output.outputs[0].token_ids, other.outputs[0].token_ids, gaps_of(other), strict=True)
        for token, expected_token, gap in rows:
            assert token == expected_token or gap < NEAR_TIE
            if token != expected_token:
                break  # from here on both continue other texts
            num_equal += 1
    assert num_equal > NUM_TOKENS * len(outputs) // 2


CUTS: dict[str, dict[str, Any]] = {
    "chunked": {"max_num_batched_tokens": 7},
    "preempted": {"num_blocks": 64, "max_num_batched_tokens": 50, "enable_prefix_caching": False},
}


@pytest.fixture(
    scope="module",
    params=[{"dtype": "float32"}, {"dtype": "bfloat16", "quantization": "int4"}],
    ids=["float32", "int4 in bfloat16"],
)
def alone(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> tuple[Path, Any, Any]:
    """A folder, settings, and what each prompt gives there on two ranks, by itself and whole."""
    if cpu.unavailable() is not None:
        pytest.skip("only the C++ kernels promise an order of sums")
    folder, settings = tiny_model("LlamaForCausalLM", **WIDE), request.param
    llm = open_two(folder, enable_prefix_caching=False, **settings)
    outputs = [generate(llm, [prompt])[0] for prompt in make_prompts()]
    return folder, settings, [output.outputs[0] for output in outputs]


@pytest.mark.parametrize("cut", CUTS)
def test_answers_do_not_depend_on_the_load(alone: tuple[Path, Any, Any], cut: str) -> None:
    """Bit for bit, however the work is cut: log-probabilities too."""
    folder, settings, expected = alone
    llm = LLM(
        str(folder), block_size=4, tensor_parallel_size=2, **settings, **{"num_blocks": 200, **CUTS[cut]}
    )
    for attempt in ("fresh", "with prefix hits"):
        outputs = generate(llm)
        assert [output.outputs[0] for output in outputs] == expected, attempt
    if cut == "preempted":
        assert llm.get_metrics().num_preemptions > 0
    else:
        assert outputs[1].num_cached_tokens > 0


def test_four_ranks_share_two_heads(tiny_model: Callable[..., Path]) -> None:
    """Three parts or more: a sum that were not taken in order would show in the order of sums."""
    folder = tiny_model("Qwen3ForCausalLM")
    expected = tokens_of(generate(LLM(str(folder), block_size=4)))
    llm = LLM(str(folder), block_size=4, tensor_parallel_size=4, num_blocks=200)
    together = generate(llm)
    assert tokens_of(together) == expected
    one_by_one = [generate(llm, [prompt])[0] for prompt in make_prompts()]
    assert [output.outputs[0] for output in one_by_one] == [output.outputs[0] for output in together]


@pytest.fixture
def two(tiny_model: Callable[..., Path]) -> Iterator[LLM]:
    llm = open_two(tiny_model())
    yield llm
    llm.engine.runner.model.workers.close()  # type: ignore[attr-defined]


def test_every_request_can_ask_for_all_that_it_can_of_one_rank(
    two: LLM, tiny_model: Callable[..., Path]
) -> None:
    params = SamplingParams(temperature=0.8, top_p=0.9, seed=3, max_tokens=8, n=2, prompt_logprobs=1)
    expected = LLM(str(tiny_model()), block_size=4).generate(make_prompts(), params, use_tqdm=False)
    outputs = two.generate(make_prompts(), params, use_tqdm=False)
    for output, other in zip(outputs, expected, strict=True):
        assert [c.token_ids for c in output.outputs] == [c.token_ids for c in other.outputs]
        for entry, other_entry in zip(output.prompt_logprobs or [], other.prompt_logprobs or [], strict=True):
            values = [logprob.logprob for logprob in (entry or {}).values()]
            other_values = [logprob.logprob for logprob in (other_entry or {}).values()]
            assert values == pytest.approx(other_values, abs=1e-4)


def test_an_error_in_the_sampler_fails_its_request_only(two: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rank 0 does alone leaves the ranks in step: the cause is looked for as with one rank."""
    runner: Any = two.engine.runner
    start = runner.sampler.start
    prompts = make_prompts()
    expected = tokens_of(generate(two))

    def broken(logits: torch.Tensor, requests: Any) -> Any:
        if any(request.token_ids[: len(prompts[2])] == prompts[2] for request in requests):
            raise ArithmeticError("a broken sampler")
        return start(logits, requests)

    monkeypatch.setattr(runner.sampler, "start", broken)
    outputs = generate(two)
    assert [output.outputs[0].finish_reason for output in outputs].count("error") == 1
    assert outputs[2].outputs[0].finish_reason == "error"
    assert [*tokens_of(outputs)[:2], *tokens_of(outputs)[3:]] == [*expected[:2], *expected[3:]]


def test_a_worker_that_is_killed_is_an_error_that_names_it(two: LLM) -> None:
    (worker,) = workers_of(two)
    generate(two)
    worker.kill()
    with pytest.raises(RankFailed, match=rf"rank 1 \(process {worker.pid}\) ended with exit code -9"):
        generate(two)
    with pytest.raises(RankFailed, match="exit code -9"):
        generate(two)


def test_a_worker_that_is_killed_in_a_step_is_an_error(two: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    (worker,) = workers_of(two)
    model: Any = two.engine.runner.model  # type: ignore[attr-defined]
    down = model.model.model.layers[1].mlp.down_proj
    exchange = model.workers.ranks.sum

    def kill(x: torch.Tensor) -> torch.Tensor:
        worker.kill()
        return exchange(x)

    monkeypatch.setattr(down, "ranks", _With(model.workers.ranks, sum=kill))
    with pytest.raises(RankFailed, match="exit code -9"):
        generate(two)


class _With:
    """An object with some other attributes."""

    def __init__(self, inner: object, **changes: object) -> None:
        self._inner = inner
        vars(self).update(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_an_error_in_a_part_of_the_step_ends_all_ranks(two: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    (worker,) = workers_of(two)
    model: Any = two.engine.runner.model  # type: ignore[attr-defined]

    def broken(*_args: object) -> None:
        raise ArithmeticError("a broken kernel")

    monkeypatch.setattr(model.model.model.layers[1].self_attn, "qkv_proj", broken)
    with pytest.raises(RankFailed, match="ArithmeticError: a broken kernel"):
        generate(two)
    worker.wait()
    monkeypatch.undo()
    with pytest.raises(RankFailed, match="a broken kernel"):
        generate(two)


def test_a_ctrl_c_waits_for_the_end_of_the_step(two: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who interrupts an answer can ask for another one."""
    expected = generate(two)
    model: Any = two.engine.runner.model  # type: ignore[attr-defined]
    attention = model.model.model.layers[1].self_attn
    project = attention.qkv_proj
    # A shell has its jobs in the background ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    handler = signal.getsignal(signal.SIGINT)

    def interrupted(*args: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return project(*args)

    monkeypatch.setattr(attention, "qkv_proj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(two)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is handler
    signal.signal(signal.SIGINT, before)
    assert tokens_of(generate(two)) == tokens_of(expected)


def test_a_worker_that_hangs_is_given_up(two: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    (worker,) = workers_of(two)
    model: Any = two.engine.runner.model  # type: ignore[attr-defined]
    monkeypatch.setattr(tensor_parallel, "PATIENCE", 0.1)
    model.workers.ranks.limit_patience(1.0)
    worker.suspend()
    with pytest.raises(RankFailed, match="rank 0 lost another rank"):
        generate(two)
    worker.wait()


def test_workers_end_with_the_model(tiny_model: Callable[..., Path]) -> None:
    llm = open_two(tiny_model())
    (worker,) = workers_of(llm)
    del llm
    gc.collect()
    worker.wait()


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_workers_end_with_their_parent(end: str, tiny_model: Callable[..., Path]) -> None:
    """However it ends, and also if a process that it forked holds the socket open."""
    script = f"""
        import os, subprocess, sys, time
        from quire import LLM
        llm = LLM({str(tiny_model())!r}, tensor_parallel_size=2, num_blocks=100, block_size=4)
        child = os.fork()
        if child == 0:
            time.sleep(1000)
        print(llm.engine.runner.model.workers.pids[0], child, flush=True)
        sys.stdin.readline()
    """
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    with parent, parent.stdout, parent.stdin:
        worker, child = (psutil.Process(int(pid)) for pid in parent.stdout.readline().split())
        if end == "kill":
            parent.kill()
        else:
            parent.stdin.write(b"\n")
            parent.stdin.flush()
        parent.wait()
        worker.wait()
        child.kill()


def test_a_worker_that_cannot_start_says_why(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="q_proj has 4 heads, which tensor_parallel_size=3"):
        LLM(str(tiny_model()), tensor_parallel_size=3)
    with pytest.raises(ValueError, match="tensor_parallel_size must be a positive integer, got 0"):
        LLM(str(tiny_model()), tensor_parallel_size=0)
    with pytest.raises(ModelTooLarge, match="max_model_len=40 or less"):
        LLM(str(tiny_model()), tensor_parallel_size=2, num_blocks=10, block_size=4, max_model_len=256)
    # An error that is the worker's alone.
    monkeypatch.setattr(build, "for_workers", lambda config, _folder: replace(config, model="/no/such"))
    with pytest.raises(NotFound, match="'/no/such' is neither a folder nor a hub id"):
        LLM(str(tiny_model()), tensor_parallel_size=2)


def test_a_worker_that_ends_while_it_starts_is_an_error(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = Workers.connect

    def kill(workers: Workers, device: torch.device) -> None:
        os.kill(workers.pids[0], signal.SIGKILL)
        connect(workers, device)

    monkeypatch.setattr(Workers, "connect", kill)
    with pytest.raises(RankFailed, match=r"rank 1 .* ended with exit code -9"):
        LLM(str(tiny_model()), tensor_parallel_size=2)


def test_threads_are_shared_out() -> None:
    assert [thread_share(5, rank, 2) for rank in range(2)] == [3, 2]
    assert [thread_share(1, rank, 3) for rank in range(3)] == [1, 1, 1]


def test_the_cache_is_shared_out(two: LLM, tiny_model: Callable[..., Path]) -> None:
    whole = LLM(str(tiny_model()), block_size=4, num_blocks=200)
    assert "300 KiB at each of 2 ranks" in two.memory_plan.describe()
    assert two.memory_plan.shape.bytes_per_block * 2 == whole.memory_plan.shape.bytes_per_block
    assert two.engine.runner.kv_caches[0].shape[2] == 1  # type: ignore[attr-defined]


@pytest.fixture
async def engine(tiny_model: Callable[..., Path]) -> AsyncIterator[AsyncEngine]:
    config = EngineConfig(model=str(tiny_model()), block_size=4, num_blocks=200, tensor_parallel_size=2)
    engine = await AsyncEngine.start(config)
    yield engine
    await engine.shutdown()


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that must come true; the test's own runner has the patience limit."""
    while not condition():
        await asyncio.sleep(0.01)


async def collect(engine: AsyncEngine, max_tokens: int = NUM_TOKENS) -> list[int]:
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    tokens: list[int] = []
    async for delta in engine.generate(make_prompts()[2], params, request_id="r"):
        for choice in delta.outputs:
            tokens += choice.token_ids
    return tokens


@pytest.mark.parametrize("busy", [True, False])
async def test_a_killed_worker_ends_the_engine_and_another_is_started(
    engine: AsyncEngine, busy: bool
) -> None:
    tokens = await collect(engine)
    pid = engine.stats.pid
    (worker,) = psutil.Process(pid).children()
    if busy:
        running = asyncio.create_task(collect(engine, 200))
        await until(lambda: engine.stats.num_running > 0)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(EngineDied):
            await running
    else:
        os.kill(worker.pid, signal.SIGKILL)
    await until(lambda: not engine.is_ready)
    await until(lambda: engine.is_ready)
    assert not psutil.pid_exists(pid)
    assert await collect(engine) == tokens
    assert engine.stats.pid != pid


async def test_a_killed_engine_takes_its_workers_with_it(engine: AsyncEngine) -> None:
    tokens = await collect(engine)
    (worker,) = psutil.Process(engine.stats.pid).children()
    os.kill(engine.stats.pid, signal.SIGKILL)
    await until(lambda: not worker.is_running())
    await until(lambda: engine.is_ready)
    assert await collect(engine) == tokens

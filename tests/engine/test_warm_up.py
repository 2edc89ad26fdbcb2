"""What happens between loading and the first request, with stand-ins for a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import EchoModel, echo_cache
from quire.engine import build
from quire.engine.build import start_runner
from quire.engine.config import EngineConfig
from quire.engine.decode_graphs import Outputs, RepeatedCalls, Replay, padded_sizes
from quire.engine.memory import KVCacheShape, MemoryPlan, plan_pool
from quire.engine.model_choice import choose
from quire.engine.model_runner import ModelRunner
from quire.engine.pool import plan_memory, pool_budget
from quire.engine.profile import MAX_ATTEMPTS, with_smaller_pools
from quire.engine.warm_up import keep_triton_cache, warm_up, warm_up_steps
from quire.errors import ModelTooLarge
from quire.models.loader import load_model

SHAPE = KVCacheShape(num_layers=1, num_kv_heads=1, head_size=8, block_size=16, dtype_size=2)


def out_of_memory() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")


@pytest.mark.parametrize("limits", [(8192, 256, 4096), (1, 1, 32), (16, 4, 8), (512, 2, 100_000), (7, 64, 7)])
def test_the_steps_are_within_the_limits_and_hold_the_largest(limits: tuple[int, int, int]) -> None:
    num_tokens, max_num_seqs, max_model_len = limits
    steps = warm_up_steps(*limits)
    assert all(0 < sum(step) <= num_tokens for step in steps)
    assert all(0 < len(step) <= max_num_seqs for step in steps)
    assert all(0 < length <= max_model_len for step in steps for length in step)
    longest = min(num_tokens, max_model_len)
    assert [1] in steps
    assert [longest] in steps
    if min(num_tokens, max_num_seqs) > 1:
        assert [1, 1] in steps


class Watched(EchoModel):
    """Notes how many tokens each pass has."""

    def __init__(self) -> None:
        self.passes: list[int] = []

    def forward(self, input_ids: Tensor, kv_caches: list[Tensor], meta: Any) -> Tensor:
        self.passes.append(len(input_ids))
        return super().forward(input_ids, kv_caches, meta)


class WatchedGraphs(RepeatedCalls):
    """Notes before which pass each graph is captured."""

    def __init__(self, model: Watched) -> None:
        self.model = model
        self.captures: list[int] = []

    def capture(self, run: Callable[[], Outputs]) -> Replay:
        self.captures.append(len(self.model.passes))
        return super().capture(run)


def make_runner(model: Any) -> ModelRunner:
    return ModelRunner(model, [echo_cache(9, 4)], max_num_seqs=6, max_model_len=32)


def test_all_steps_run_before_the_first_graph_is_captured(caplog: pytest.LogCaptureFixture) -> None:
    model = Watched()
    runner, maker = make_runner(model), WatchedGraphs(model)
    with caplog.at_level(logging.INFO, "quire.engine.warm_up"):
        warm_up(runner, num_tokens=40, maker=maker, padding_block=8)
    steps = warm_up_steps(40, 6, 32)
    assert model.passes[: len(steps)] == [sum(step) for step in steps]
    assert len(maker.captures) == len(padded_sizes(6))
    # Each size has run once, so that it is compiled, when its capture begins.
    assert model.passes[len(steps) :: 2] == padded_sizes(6)[::-1]
    assert maker.captures == [len(steps) + 1 + 2 * i for i in range(4)]
    assert runner.graphs is not None
    assert [record.message.split(" took ")[0] for record in caplog.records] == [
        f"{len(steps)} steps to compile all kernels",
        "capturing 4 decoding graphs",
    ]


def test_after_the_warm_up_all_rows_are_free() -> None:
    runner = make_runner(EchoModel())
    warm_up(runner, num_tokens=40, maker=None, padding_block=8)
    assert runner.graphs is None
    assert len(runner.block_tables._free) == 6  # pyright: ignore[reportPrivateUsage]


class FailingGraphs:
    def __init__(self, error: RuntimeError) -> None:
        self.error = error

    def capture(self, run: Callable[[], Outputs]) -> Replay:
        try:
            raise self.error
        finally:
            # As torch does when it leaves a capture that has failed.
            raise RuntimeError("the capture was invalidated")


def test_what_cannot_be_captured_runs_kernel_by_kernel(caplog: pytest.LogCaptureFixture) -> None:
    runner = make_runner(EchoModel())
    warm_up(
        runner, num_tokens=8, maker=FailingGraphs(RuntimeError("operation not permitted")), padding_block=8
    )
    assert runner.graphs is None
    assert runner.block_tables._changes is None, "changes are kept that nobody takes"  # pyright: ignore[reportPrivateUsage]
    assert "cannot be captured as graphs and run kernel by kernel" in caplog.text


def test_running_out_of_memory_while_capturing_is_said_to_the_caller() -> None:
    with pytest.raises(RuntimeError, match="invalidated") as caught:
        warm_up(make_runner(EchoModel()), num_tokens=8, maker=FailingGraphs(out_of_memory()), padding_block=8)
    assert isinstance(caught.value.__context__, torch.OutOfMemoryError)


def plans(limit: int | None) -> MemoryPlan:
    budget = 1 << 20
    return plan_pool(
        SHAPE, budget=budget if limit is None else min(budget, limit), max_model_len=64, max_num_seqs=1000
    )


@pytest.mark.parametrize("is_chained", [False, True])
def test_out_of_memory_makes_the_pool_smaller(caplog: pytest.LogCaptureFixture, is_chained: bool) -> None:
    tried: list[int] = []

    def start(plan: MemoryPlan) -> str:
        tried.append(plan.num_blocks)
        if len(tried) < 3:
            if not is_chained:
                raise out_of_memory()
            try:
                raise out_of_memory()
            except torch.OutOfMemoryError as error:
                raise RuntimeError("a capture failed") from error
        return "ready"

    assert with_smaller_pools(plans, start, may_shrink=True) == "ready"
    first = (1 << 20) // SHAPE.bytes_per_block
    assert tried == [first, int(first * 0.85), int(int(first * 0.85) * 0.85)]
    assert "out of memory with a KV cache of 1 MiB" in caplog.text
    assert "trying again with at most 870.4 KiB" in caplog.text


def test_after_a_few_sizes_the_model_counts_as_too_large() -> None:
    tried: list[int] = []

    def start(plan: MemoryPlan) -> None:
        tried.append(plan.num_blocks)
        raise out_of_memory()

    with pytest.raises(ModelTooLarge, match=r"KV cache of \d+ blocks .*Tried to allocate 2.00 GiB"):
        with_smaller_pools(plans, start, may_shrink=True)
    assert len(tried) == MAX_ATTEMPTS
    tried.clear()
    with pytest.raises(ModelTooLarge):
        with_smaller_pools(plans, start, may_shrink=False)
    assert len(tried) == 1, "a size that the user asks for is not made smaller"


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def start(plan: MemoryPlan) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        with_smaller_pools(plans, start, may_shrink=True)


def test_compiled_kernels_are_kept_in_the_cache_folder_unless_the_user_has_another() -> None:
    environment = {"QUIRE_CACHE_DIR": "/a"}
    keep_triton_cache(environment)
    assert environment["TRITON_CACHE_DIR"] == "/a/triton"
    environment = {"QUIRE_CACHE_DIR": "/a", "TRITON_CACHE_DIR": "/b"}
    keep_triton_cache(environment)
    assert environment["TRITON_CACHE_DIR"] == "/b"


def test_a_runner_with_graphs_has_a_block_for_padding(tiny_model: Callable[..., Path]) -> None:
    config = EngineConfig(
        model=str(tiny_model()), max_num_seqs=5, num_blocks=20, enforce_eager=True, max_model_len=64
    )
    choice = choose(config)
    model = load_model(choice.folder, choice.config, device="cpu", dtype=torch.float32)
    plan = plan_memory(config, choice, pool_budget(config, choice))
    runner = start_runner(config, choice, model, plan, 128, RepeatedCalls(), False)
    assert {cache.shape[1] for cache in runner.kv_caches} == {21}
    assert runner.graphs is not None
    assert runner.graphs.max_size == 5
    plain = start_runner(config, choice, model, plan, 128, None, False)
    assert {cache.shape[1] for cache in plain.kv_caches} == {20}
    assert plain.graphs is None


def test_an_engine_whose_memory_runs_out_at_first_has_a_smaller_pool(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[int] = []

    def start(config: Any, choice: Any, model: Any, plan: MemoryPlan, *rest: Any) -> ModelRunner:
        pools.append(plan.num_blocks)
        if len(pools) == 1:
            raise out_of_memory()
        return start_runner(config, choice, model, plan, *rest)

    monkeypatch.setattr(build, "start_runner", start)
    engine, _, plan = build.build_engine(
        EngineConfig(model=str(tiny_model()), max_model_len=64, weight_cache=False)
    )
    assert pools[1] == int(pools[0] * 0.85)
    assert engine.scheduler.block_manager.pool.num_blocks == plan.num_blocks == pools[1]

"""The C++ column's threads: any number gives the same bits; calls, forks and errors leave the pool whole."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kernel_inputs import FLOATS, make_meta, make_step, random
from quire.kernels import cpu
from quire.kernels.types import LinearWeight

pytestmark = pytest.mark.skipif(
    cpu.unavailable() is not None,
    reason="the C++ extension is not built: no compiler when quire was installed",
)


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    before = cpu.num_threads()
    yield
    cpu.set_num_threads(before)


def everything(dtype: torch.dtype) -> list[Tensor]:
    """One result of each op, large enough to be split over threads."""
    x, weight = random(70, 301, dtype=dtype), LinearWeight.from_dense(random(1000, 301, dtype=dtype))
    step = make_step([700, 90, 5000], [300, 90, 1], dtype=dtype)
    cos_sin = random(5000, 16, dtype=torch.float32)
    norm = random(301, dtype=dtype, seed=3)
    return [
        cpu.linear(x, weight),
        cpu.linear(x[:1], weight),
        cpu.rms_norm(x, norm, 1e-6),
        cpu.silu_and_mul(x[:, :300]),
        cpu.rope_and_cache_write(step.q, step.k, step.v, cos_sin, step.kv_cache, step.meta),
        step.kv_cache,
        cpu.paged_attention(step.q, step.kv_cache, step.meta, 0.25),
        # One long sequence: its chunks are computed by different threads and merged.
        cpu.paged_attention(
            step.q[:1], step.kv_cache, make_meta([5000], [1], 16, step.meta.block_tables[2:]), 0.25
        ),
    ]


@pytest.mark.parametrize("dtype", FLOATS)
def test_results_do_not_depend_on_the_number_of_threads(isa: str, dtype: torch.dtype) -> None:
    cpu.set_num_threads(1)
    expected = everything(dtype)
    for threads in (2, 3, 5):
        cpu.set_num_threads(threads)
        assert cpu.num_threads() == threads
        for _ in range(3):
            for actual, wanted in zip(everything(dtype), expected, strict=True):
                assert torch.equal(actual, wanted)


def test_ops_may_be_called_from_several_threads_at_once() -> None:
    cpu.set_num_threads(3)
    expected = everything(torch.float32)
    failures: list[str] = []

    def work() -> None:
        for _ in range(5):
            for i, (actual, wanted) in enumerate(zip(everything(torch.float32), expected, strict=True)):
                if not torch.equal(actual, wanted):
                    failures.append(f"result {i} differs")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_error_in_a_task_reaches_the_caller_and_the_pool_lives_on() -> None:
    step = make_step([40], [1])
    step.meta.block_tables[0, 0] = -5
    with pytest.raises(IndexError):
        cpu.paged_attention(step.q, step.kv_cache, step.meta, 1.0)
    with pytest.raises(ValueError, match="at least 1"):
        cpu.set_num_threads(0)
    everything(torch.float32)


def _in_child(queue: multiprocessing.Queue[list[bytes]]) -> None:
    queue.put([result.numpy().tobytes() for result in everything(torch.float32)])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_gets_threads_of_its_own() -> None:
    cpu.set_num_threads(2)
    expected = [result.numpy().tobytes() for result in everything(torch.float32)]
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # torch's own threads do not survive a fork
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get() == expected
    child.join()
    assert child.exitcode == 0
    torch.set_num_threads(torch_threads)

"""The engine in a process of its own: many callers, aborts, and the death of either side."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from quire import LLM, SamplingParams
from quire.engine.async_engine import AsyncEngine, EngineProcess
from quire.engine.config import EngineConfig
from quire.engine.output_processor import merge
from quire.engine.outputs import RequestOutput
from quire.engine.request import FinishedRequest
from quire.engine.stats import EngineStats
from quire.errors import EngineDied, InvalidRequest, ModelError, Overloaded, Unavailable

PROMPTS = [[i, i + 1, i + 2] for i in range(5, 85, 10)]
PARAMS = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)


@pytest.fixture
async def engine(tiny_model: Callable[..., Path]) -> AsyncIterator[AsyncEngine]:
    config = EngineConfig(model=str(tiny_model()), block_size=4, num_threads=1, max_num_waiting=20)
    engine = await AsyncEngine.start(config)
    yield engine
    await engine.shutdown()


async def collect(engine: AsyncEngine, prompt: list[int], params: SamplingParams = PARAMS) -> RequestOutput:
    total: RequestOutput | None = None
    async for delta in engine.generate(prompt, params, request_id="same id for all"):
        total = merge(total, delta)
    assert total is not None
    return total


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that must come true; the test's own runner has the patience limit."""
    while not condition():
        await asyncio.sleep(0.01)


def all_free(engine: AsyncEngine) -> bool:
    stats = engine.stats
    return stats.num_running == stats.num_waiting == 0 and stats.num_free_blocks == stats.num_blocks > 0


async def test_concurrent_requests_equal_the_offline_engine(engine: AsyncEngine) -> None:
    finished: list[FinishedRequest] = []
    steps: list[int] = []

    def listener(stats: EngineStats, figures: object) -> None:
        steps.append(stats.num_steps)
        finished.extend(figures)  # type: ignore[arg-type]

    engine.add_stats_listener(listener)
    outputs = await asyncio.gather(*(collect(engine, prompt) for prompt in PROMPTS))
    expected = LLM(engine.config.model).generate(PROMPTS, PARAMS, use_tqdm=False)
    for output, offline in zip(outputs, expected, strict=True):
        assert output.request_id == "same id for all"
        assert output.outputs == offline.outputs
    await until(lambda: all_free(engine))
    assert [figures.num_generation_tokens for figures in finished] == [24] * len(PROMPTS)
    assert all(0 <= f.queue_time <= f.e2e_time for f in finished)
    assert steps == sorted(steps)
    assert engine.stats.pid != os.getpid()


async def test_choices_and_stop_strings(engine: AsyncEngine) -> None:
    params = SamplingParams(n=3, temperature=1.0, seed=1, max_tokens=40, ignore_eos=True)
    whole = await collect(engine, PROMPTS[0], params)
    assert [choice.index for choice in whole.outputs] == [0, 1, 2]
    stop = whole.outputs[1].text[5:8]
    stopping = SamplingParams(n=3, temperature=1.0, seed=1, max_tokens=40, ignore_eos=True, stop=[stop])
    cut = await collect(engine, PROMPTS[0], stopping)
    assert cut.outputs[1].text == whole.outputs[1].text.partition(stop)[0]
    assert (cut.outputs[1].finish_reason, cut.outputs[1].stop_reason) == ("stop", stop)
    await until(lambda: all_free(engine))


async def test_leaving_early_aborts(engine: AsyncEngine) -> None:
    long = SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True)
    stream = engine.generate(PROMPTS[0], long, request_id="r")
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    task = asyncio.create_task(collect(engine, PROMPTS[1], long))
    await until(lambda: engine.stats.num_running == 1)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await until(lambda: all_free(engine))
    assert engine.stats.generation_tokens < 400


async def test_bad_requests_are_refused_before_the_engine(engine: AsyncEngine) -> None:
    with pytest.raises(InvalidRequest, match="-1"):
        await collect(engine, [-1])
    with pytest.raises(InvalidRequest, match="999"):
        await collect(engine, [1], SamplingParams(stop_token_ids=[999]))


async def test_a_full_queue_refuses_some_and_serves_the_rest(tiny_model: Callable[..., Path]) -> None:
    config = EngineConfig(
        model=str(tiny_model()), block_size=4, num_threads=1, max_num_seqs=1, max_num_waiting=3
    )
    engine = await AsyncEngine.start(config)
    try:
        results = await asyncio.gather(
            *(collect(engine, PROMPTS[0]) for _ in range(12)), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, Overloaded)]
        served = [result for result in results if isinstance(result, RequestOutput)]
        assert len(refused) + len(served) == 12
        assert len(served) >= 3
        assert len(refused) >= 1
        assert refused[0].retry_after >= 1
        assert len({tuple(output.outputs[0].token_ids) for output in served}) == 1
    finally:
        await engine.shutdown()


async def test_a_killed_engine_fails_its_requests_and_comes_back(engine: AsyncEngine) -> None:
    long = SamplingParams(temperature=0.0, max_tokens=250, ignore_eos=True)
    tasks = [asyncio.create_task(collect(engine, prompt, long)) for prompt in PROMPTS]
    await until(lambda: engine.stats.num_running > 0)
    pid = engine.stats.pid
    os.kill(pid, signal.SIGKILL)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(result, EngineDied) for result in results)
    assert all(isinstance(result, EngineDied | RequestOutput) for result in results)
    assert not engine.is_ready
    with pytest.raises(Unavailable):
        await collect(engine, PROMPTS[0])
    await until(lambda: engine.is_ready)
    assert not psutil.pid_exists(pid)
    output = await collect(engine, PROMPTS[0])
    assert len(output.outputs[0].token_ids) == 24
    assert engine.stats.pid != pid


async def test_figures_count_every_end(engine: AsyncEngine) -> None:
    reasons: list[str] = []
    engine.add_stats_listener(lambda _stats, finished: reasons.extend(f.finish_reason for f in finished))
    whole = await collect(engine, PROMPTS[0])
    stop = whole.outputs[0].text[4:7]
    await collect(
        # So many that the engine is not done before it hears of the stop.
        engine,
        PROMPTS[0],
        SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True, stop=stop),
    )
    stream = engine.generate(
        PROMPTS[1], SamplingParams(temperature=0.0, max_tokens=200, ignore_eos=True), request_id="r"
    )
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await until(lambda: len(reasons) == 3)
    assert reasons == ["length", "stop", "abort"]


async def test_an_error_on_this_side_restarts_the_engine_and_is_no_silence(engine: AsyncEngine) -> None:
    def broken(_stats: EngineStats, _finished: object) -> None:
        engine._listeners.remove(broken)  # pyright: ignore[reportPrivateUsage]
        raise RuntimeError("a listener is broken")

    engine.add_stats_listener(broken)
    with pytest.raises(EngineDied):
        await collect(engine, PROMPTS[0])
    await until(lambda: engine.is_ready)
    assert engine.is_alive
    assert len((await collect(engine, PROMPTS[0])).outputs[0].token_ids) == 24


async def test_a_message_that_cannot_be_decoded_restarts_the_engine(engine: AsyncEngine) -> None:
    with pytest.raises(EngineDied):
        async for _ in engine.generate(PROMPTS[0], PARAMS, request_id="r", cache_salt=5):  # type: ignore[arg-type]
            pass
    await until(lambda: engine.is_ready)
    assert len((await collect(engine, PROMPTS[0])).outputs[0].token_ids) == 24


async def test_a_restart_that_cannot_spawn_is_tried_again(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = EngineProcess.spawn
    attempts: list[int] = []

    async def failing(config: EngineConfig) -> EngineProcess:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("out of processes")
        return await spawn(config)

    await until(lambda: engine.stats.pid > 0)
    monkeypatch.setattr(EngineProcess, "spawn", failing)
    os.kill(engine.stats.pid, signal.SIGKILL)
    await until(lambda: len(attempts) == 2 and engine.is_ready)
    assert len((await collect(engine, PROMPTS[0])).outputs[0].token_ids) == 24


async def test_a_failed_start_tells_why(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(ModelError):
        await AsyncEngine.start(EngineConfig(model=str(tmp_path)))
    with pytest.raises(ModelError, match="max_model_len=40 or less"):
        await AsyncEngine.start(
            EngineConfig(model=str(tiny_model()), num_blocks=10, block_size=4, max_model_len=256)
        )


def test_the_engine_does_not_outlive_its_parent(tiny_model: Callable[..., Path]) -> None:
    script = f"""
        import asyncio
        from quire.engine.async_engine import AsyncEngine, EngineProcess
        from quire.engine.config import EngineConfig

        async def main():
            engine = await AsyncEngine.start(EngineConfig(model={str(tiny_model())!r}, num_threads=1))
            while not engine.stats.pid:
                await asyncio.sleep(0.01)
            print(engine.stats.pid, flush=True)
            await asyncio.sleep(1000)

        asyncio.run(main())
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        child.wait()


async def test_the_blocks_can_be_watched_also_across_a_restart(engine: AsyncEngine) -> None:
    screen = bytearray()

    async def shows(wanted: Callable[[bytes], bool]) -> None:
        while not wanted(bytes(screen)):
            for first, states in watcher.take():
                screen[first : first + len(states)] = states
            await asyncio.sleep(0.01)

    async def always_busy() -> None:
        while True:
            await collect(engine, PROMPTS[0])

    await until(lambda: engine.stats.num_blocks > 0)
    with engine.block_map.watch() as watcher:
        await shows(lambda states: states == b"f" * engine.stats.num_blocks)
        busy = asyncio.create_task(always_busy())
        await shows(lambda states: b"o" in states or b"s" in states)
        busy.cancel()
        await asyncio.wait({busy})
        await until(lambda: all_free(engine))
        await shows(lambda states: b"o" not in states and b"s" not in states)
        assert screen.count(b"c") == engine.stats.num_cached_blocks > 0
        os.kill(engine.stats.pid, signal.SIGKILL)
        await shows(lambda states: states == b"f" * engine.stats.num_blocks)
    assert engine.block_map.num_blocks == 0

"""Where the time of one engine step goes, op by op, and how much of it is not the kernels.

    python benchmarks/step.py [--shape qwen2.5-0.5b] [--quantization int4] [--batches 1 8 32] [--context 160]

Random weights. For each batch size, decoding steps run whole through `Engine.step()`, then the same steps
run op by op under the recorder's profiler; medians over `--steps` steps. "Python" is what remains of
`Engine.step()` when the recorded pass, the output projection and sampling are taken off: scheduling,
building the step's inputs, booking the results.

--prefill N measures a step of N prompt tokens instead.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from shapes import SHAPES, write_config

from quire.engine.build import build_engine
from quire.engine.config import EngineConfig
from quire.engine.engine import Engine, EngineRequest
from quire.engine.sampling_params import SamplingParams


class Stopwatch:
    """Replaces a method by one that notes how long each call takes."""

    def __init__(self, owner: Any, name: str) -> None:
        self.seconds = 0.0
        self._method = getattr(owner, name)
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return self._method(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - begin


class Profiled:
    """Stands in for the recorded forward pass, runs it under its profiler and adds up times by op."""

    def __init__(self, recorded: Any) -> None:
        self.recorded = recorded
        self.steps: list[dict[str, float]] = []

    def __call__(self, input_ids: torch.Tensor, meta: Any) -> torch.Tensor:
        by_op: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        for name, seconds in self.recorded.profile(input_ids, meta):
            if name == "linear":  # qkv, output, gate and up, down, in every layer
                counts[name] += 1
                name = ("linear qkv", "linear o", "linear gate_up", "linear down")[(counts[name] - 1) % 4]
            by_op[name] += seconds
        self.steps.append(by_op)
        return self.recorded._hidden[: input_ids.shape[0]]


def add_requests(engine: Engine, batch: int, length: int, num_outputs: int, vocab_size: int) -> None:
    rng = random.Random()  # new prompts, which the prefix cache does not know
    for i in range(batch):
        prompt = [rng.randrange(2, vocab_size) for _ in range(length)]
        params = SamplingParams(temperature=0.0, max_tokens=num_outputs, ignore_eos=True)
        engine.add_request(EngineRequest(f"{time.monotonic()}.{i}", prompt, params))


def finish(engine: Engine) -> None:
    for request_id in list(engine.scheduler.requests):
        engine.abort(request_id)
    while engine.has_unfinished:
        engine.step()
    engine.reset_prefix_cache()


def prepare(engine: Engine, batch: int, args: argparse.Namespace) -> None:
    """Requests whose next steps are the ones to measure."""
    vocab_size = SHAPES[args.shape]["vocab_size"]
    if args.prefill:
        return  # one prompt before each step
    add_requests(engine, batch, args.context, args.steps + 8, vocab_size)
    while any(r.num_computed_tokens < r.num_prompt_tokens for r in engine.scheduler.requests.values()):
        engine.step()


def next_prompt(engine: Engine, args: argparse.Namespace) -> None:
    if args.prefill:
        add_requests(engine, 1, args.prefill, 1, SHAPES[args.shape]["vocab_size"])


def measure(engine: Engine, batch: int, args: argparse.Namespace) -> None:
    """Prints a breakdown for one batch size."""
    runner: Any = engine.runner
    recorded = runner.recorded
    parts: dict[str, list[float]] = defaultdict(list)
    prepare(engine, batch, args)
    watches = {
        "recorded pass": Stopwatch(runner, "recorded"),
        "output projection": Stopwatch(runner.model, "compute_logits"),
        "sampling": Stopwatch(runner.sampler, "sample"),
    }
    for _ in range(args.steps):
        next_prompt(engine, args)
        for watch in watches.values():
            watch.seconds = 0.0
        begin = time.perf_counter()
        engine.step()
        total = time.perf_counter() - begin
        parts["whole step"].append(total)
        for name, watch in watches.items():
            parts[name].append(watch.seconds)
        parts["Python"].append(total - sum(watch.seconds for watch in watches.values()))
    finish(engine)
    del runner.model.compute_logits, runner.sampler.sample
    runner.recorded = profiled = Profiled(recorded)
    prepare(engine, batch, args)
    profiled.steps.clear()
    for _ in range(args.steps):
        next_prompt(engine, args)
        engine.step()
    finish(engine)
    runner.recorded = recorded
    whole = statistics.median(parts["whole step"])
    what = f"prefill of {args.prefill}" if args.prefill else f"batch {batch}, context {args.context}"
    print(f"\n{what}: {whole * 1e3:.2f} ms a step")
    for name, values in parts.items():
        median = statistics.median(values)
        print(f"    {name:24} {median * 1e3:8.3f} ms {median / whole:6.1%}")
    for name in profiled.steps[0]:
        median = statistics.median(step[name] for step in profiled.steps)
        print(f"        {name:20} {median * 1e3:8.3f} ms {median / whole:6.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    parser.add_argument("--quantization", choices=["int8", "int4"], default=None)
    parser.add_argument("--group-size", type=int, default=None)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--context", type=int, default=160)
    parser.add_argument("--prefill", type=int, default=0)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_config(Path(folder), args.shape, "bfloat16")
        config = EngineConfig(
            model=folder,
            load_format="dummy",
            max_model_len=max(2048, args.context + 64),
            num_threads=args.threads,
            max_num_seqs=max(args.batches),
            quantization=args.quantization,
            quantization_group_size=args.group_size,
        )
        engine, _, _ = build_engine(config)
        print(f"{args.shape} {args.quantization or 'bfloat16'}, {args.threads} threads")
        for batch in [1] if args.prefill else args.batches:
            measure(engine, batch, args)


if __name__ == "__main__":
    main()

"""Offline throughput: quire against transformers' generate, on the same random weights, in one run.

    python benchmarks/throughput.py [--shape qwen2.5-0.5b] [--dtype bfloat16] [--batches 1 8 32]

Each batch size is measured with both engines in turn, several rounds, and the medians are compared.
A batch is that many requests at once: transformers pads them to one length and runs them together
until the longest is done; quire schedules them. With --ragged, prompts and outputs differ in length,
as real ones do. The last line compares the largest batch of quire with transformers one at a time.

Notes: figures are output tokens per second of wall time, prefill included. Machines are noisy: quote
the ratios of one run, never figures of two.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapes import SHAPES, write_config

from quire.engine.build import build_engine
from quire.engine.config import EngineConfig
from quire.engine.engine import Engine, EngineRequest
from quire.engine.sampling_params import SamplingParams


@dataclass(frozen=True)
class Job:
    """One request of the load."""

    prompt: list[int]
    num_outputs: int


def make_jobs(
    num: int, num_prompt: int, num_outputs: int, vocab_size: int, ragged: bool, seed: int
) -> list[Job]:
    """Random requests; ragged ones have 25% to 175% of the given lengths."""
    rng = random.Random(seed)

    def length(mean: int) -> int:
        return rng.randint(mean // 4, mean * 7 // 4) if ragged else mean

    return [
        Job([rng.randrange(2, vocab_size) for _ in range(length(num_prompt))], length(num_outputs))
        for _ in range(num)
    ]


def run_quire(engine: Engine, jobs: list[Job]) -> None:
    """All jobs at once."""
    for i, job in enumerate(jobs):
        params = SamplingParams(temperature=0.0, max_tokens=job.num_outputs, ignore_eos=True)
        engine.add_request(EngineRequest(f"{time.monotonic()}.{i}", job.prompt, params))
    while engine.has_unfinished:
        engine.step()
    engine.reset_prefix_cache()


def run_transformers(model: Any, jobs: list[Job]) -> None:
    """All jobs as one batch, padded on the left."""
    import torch

    longest = max(len(job.prompt) for job in jobs)
    ids = torch.zeros(len(jobs), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, job in enumerate(jobs):
        ids[row, longest - len(job.prompt) :] = torch.tensor(job.prompt)
        mask[row, longest - len(job.prompt) :] = 1
    num_outputs = max(job.num_outputs for job in jobs)
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=num_outputs,
            min_new_tokens=num_outputs,
            do_sample=False,
            pad_token_id=0,
        )


def make_checkpoint(folder: Path, shape: str, dtype: str) -> Any:
    """A random model in transformers, saved for quire to load."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    write_config(folder, shape, dtype)
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.02, 0.02)
        for module in model.modules():
            if hasattr(module, "inv_freq"):  # to_empty leaves buffers unset
                inv_freq, module.attention_scaling = module.compute_default_rope_parameters(config)
                module.inv_freq.copy_(inv_freq)
    model.tie_weights()
    model.save_pretrained(folder)
    return model


def measure(run: Callable[[list[Job]], None], jobs: list[Job]) -> float:
    """Output tokens per second."""
    started = time.perf_counter()
    run(jobs)
    return sum(job.num_outputs for job in jobs) / (time.perf_counter() - started)


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens")
    parser.add_argument("--output", type=int, default=64, help="output tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ragged", action="store_true")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()

    import torch

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = make_checkpoint(folder, args.shape, args.dtype)
        settings = EngineConfig(
            model=str(folder), max_model_len=2048, num_threads=args.threads, max_num_seqs=max(args.batches)
        )
        engine, _, _ = build_engine(settings)
        quire_threads = torch.get_num_threads()

        def with_transformers(jobs: list[Job]) -> None:
            torch.set_num_threads(args.threads)
            run_transformers(model, jobs)

        def with_quire(jobs: list[Job]) -> None:
            torch.set_num_threads(quire_threads)
            run_quire(engine, jobs)

        vocab_size = SHAPES[args.shape]["vocab_size"]
        print(f"{args.shape} {args.dtype}, {args.prompt} in, {args.output} out, {args.threads} threads")
        print(f"{'requests at once':18}{'transformers':>14}{'quire':>10}{'ratio':>8}   output tok/s")
        best, alone = 0.0, 0.0
        for batch in args.batches:
            theirs: list[float] = []
            ours: list[float] = []
            for round_ in range(args.rounds + 1):
                jobs = make_jobs(batch, args.prompt, args.output, vocab_size, args.ragged, round_)
                pair = measure(with_transformers, jobs), measure(with_quire, jobs)
                if round_:  # the first is a warm-up
                    theirs.append(pair[0])
                    ours.append(pair[1])
            median_theirs, median_ours = statistics.median(theirs), statistics.median(ours)
            ratio = statistics.median(o / t for o, t in zip(ours, theirs, strict=True))
            print(f"{batch:<18}{median_theirs:14.1f}{median_ours:10.1f}{ratio:8.2f}")
            alone = alone or median_theirs
            best = max(best, median_ours)
        sizes = f"{max(args.batches)} at once, against transformers, {args.batches[0]} at once"
        print(f"quire, {sizes}: {best / alone:.1f} x")


if __name__ == "__main__":
    main()

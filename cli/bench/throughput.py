"""`quire bench throughput`: how many tokens per second the engine makes of many requests at once."""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ...engine.config import EngineConfig
from ..logs import LogLevel, set_up_logging
from ..offline import open_llm
from ..options import ENGINE, takes
from .datasets import DATASET, DatasetSettings, dataset_requests
from .offline import generate, num_output_tokens, token_id_maker
from .report import check_writable, document, settings_of, write_json
from .sample import BenchRequest

WARMUP_TOKENS = 8
PANEL = "Benchmark"


@takes(config=ENGINE, dataset=DATASET)
def throughput(
    config: EngineConfig,
    dataset: DatasetSettings,
    num_prompts: Annotated[int, typer.Option(min=1, help="Requests.", rich_help_panel=PANEL)] = 100,
    temperature: Annotated[float, typer.Option(min=0, help="Of sampling.", rich_help_panel=PANEL)] = 0.0,
    ignore_eos: Annotated[
        bool,
        typer.Option(
            "--ignore-eos/--no-ignore-eos",
            help="Whether outputs have exactly the given length.",
            rich_help_panel=PANEL,
        ),
    ] = True,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", dir_okay=False, help="Write the figures here.", rich_help_panel=PANEL),
    ] = None,
    log_level: LogLevel = "warning",
) -> None:
    """Measure offline throughput: all requests are queued at once, in this process."""
    set_up_logging(log_level)
    check_writable(json_file, "--json")
    llm = open_llm(config)
    rng = random.Random(config.seed or 0)
    requests = list(itertools.islice(dataset_requests(dataset, token_id_maker(llm), rng), num_prompts))
    warmup = BenchRequest(requests[0].prompt, min(WARMUP_TOKENS, requests[0].num_output or 1))
    generate(llm, [warmup], temperature=temperature, ignore_eos=True, use_tqdm=False)
    llm.reset_prefix_cache()
    before = llm.get_metrics()
    outputs, seconds = generate(
        llm, requests, temperature=temperature, ignore_eos=ignore_eos, use_tqdm=sys.stderr.isatty()
    )
    after = llm.get_metrics()
    num_prompt = sum(len(output.prompt_token_ids) for output in outputs)
    num_output = num_output_tokens(outputs)
    results: dict[str, Any] = {
        "seconds": seconds,
        "num_requests": len(outputs),
        "prompt_tokens": num_prompt,
        "output_tokens": num_output,
        "cached_prompt_tokens": sum(output.num_cached_tokens for output in outputs),
        "requests_per_second": len(outputs) / seconds,
        "output_tokens_per_second": num_output / seconds,
        "total_tokens_per_second": (num_prompt + num_output) / seconds,
        "num_steps": after.num_steps - before.num_steps,
        "num_preemptions": after.num_preemptions - before.num_preemptions,
    }
    _print_results(results)
    if json_file is not None:
        options = {"num_prompts": num_prompts, "temperature": temperature, "ignore_eos": ignore_eos}
        write_json(json_file, document("throughput", settings_of(config, dataset, **options), results))


def _print_results(results: dict[str, Any]) -> None:
    print(
        f"{results['num_requests']} requests in {results['seconds']:.2f} s: "
        f"{results['prompt_tokens']} prompt tokens ({results['cached_prompt_tokens']} cached), "
        f"{results['output_tokens']} output tokens"
    )
    print(
        f"{results['requests_per_second']:.2f} requests/s, "
        f"{results['total_tokens_per_second']:.1f} tokens/s in all, "
        f"{results['output_tokens_per_second']:.1f} output tokens/s"
    )
    if results["num_preemptions"]:
        print(f"{results['num_preemptions']} times a request lost its cache blocks to another")

"""`quire bench latency`: how long one batch takes, again and again."""

from __future__ import annotations

import dataclasses
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...engine.config import EngineConfig
from ..logs import LogLevel, set_up_logging
from ..offline import open_llm
from ..options import ENGINE, takes
from .metrics import Distribution
from .offline import generate, token_id_maker
from .report import check_writable, document, settings_of, write_json
from .sample import BenchRequest

if TYPE_CHECKING:
    from ...engine.llm import LLM

PANEL = "Benchmark"


@takes(config=ENGINE)
def latency(
    config: EngineConfig,
    input_len: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.", rich_help_panel=PANEL)] = 32,
    output_len: Annotated[
        int, typer.Option(min=1, help="Tokens to generate for each.", rich_help_panel=PANEL)
    ] = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests at once.", rich_help_panel=PANEL)] = 8,
    num_iters_warmup: Annotated[
        int, typer.Option(min=0, help="Batches that are not measured.", rich_help_panel=PANEL)
    ] = 3,
    num_iters: Annotated[int, typer.Option(min=1, help="Batches to measure.", rich_help_panel=PANEL)] = 10,
    temperature: Annotated[float, typer.Option(min=0, help="Of sampling.", rich_help_panel=PANEL)] = 0.0,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", dir_okay=False, help="Write the figures here.", rich_help_panel=PANEL),
    ] = None,
    log_level: LogLevel = "warning",
) -> None:
    """Measure the latency of one batch, prompts included: no batch finds anything in the prefix cache.

    Ctrl-C ends it with the batches that were measured so far.
    """
    set_up_logging(log_level)
    check_writable(json_file, "--json")
    llm = open_llm(config)
    maker, rng = token_id_maker(llm), random.Random(config.seed or 0)
    batch = [BenchRequest(maker.make(input_len, rng), output_len) for _ in range(batch_size)]
    seconds, interrupted = _iterate(llm, batch, num_iters_warmup, num_iters, temperature)
    figures = Distribution.of(seconds)
    if figures is None:
        raise typer.Exit(130)
    print(
        f"{batch_size} requests at once, {input_len} tokens in and {output_len} out, {figures.count} times:"
    )
    print(
        f"mean {figures.mean:.1f} ms, p50 {figures.p50:.1f} ms, p90 {figures.p90:.1f} ms, "
        f"p99 {figures.p99:.1f} ms, min {figures.min:.1f} ms, max {figures.max:.1f} ms"
    )
    if json_file is not None:
        options: dict[str, Any] = {
            "input_len": input_len,
            "output_len": output_len,
            "batch_size": batch_size,
            "num_iters_warmup": num_iters_warmup,
            "num_iters": num_iters,
            "temperature": temperature,
        }
        results = {"latency": dataclasses.asdict(figures), "seconds": seconds, "interrupted": interrupted}
        write_json(json_file, document("latency", settings_of(config, **options), results))
    if interrupted:
        raise typer.Exit(130)


def _iterate(
    llm: LLM, batch: list[BenchRequest], num_warmups: int, num: int, temperature: float
) -> tuple[list[float], bool]:
    """The seconds of each measured batch, and whether Ctrl-C came before the last."""
    from tqdm import tqdm

    seconds: list[float] = []
    try:
        for number in tqdm(range(num_warmups + num), desc="Batches", disable=not sys.stderr.isatty()):
            llm.reset_prefix_cache()
            _, taken = generate(llm, batch, temperature=temperature, ignore_eos=True, use_tqdm=False)
            if number >= num_warmups:
                seconds.append(taken)
    except KeyboardInterrupt:
        return seconds, True
    return seconds, False

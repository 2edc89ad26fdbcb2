"""What a benchmark shows in the terminal: a bar with live rates, and a table at the end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from .load import LiveCounts
from .metrics import Distribution, Summary

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

REFRESH_SECONDS = 0.5
LATE_MILLISECONDS = 20.0
"""A generator that is later than this to one request in a hundred has no time left for its work."""


def print_summary(summary: Summary, *, console: Console | None = None) -> None:
    """Prints the figures of a load test."""
    from rich.console import Console

    console = console or Console(highlight=False, soft_wrap=True)
    for line in headlines(summary):
        console.print(line, markup=False)
    console.print(_latency_table(summary))
    if summary.errors:
        console.print(_error_table(summary))
    for line in remarks(summary):
        console.print(line, markup=False)


def headlines(summary: Summary) -> list[str]:
    """The figures that are no distributions, a line each."""
    requests = f"{summary.num_requests} sent, {summary.num_ok} answered, {summary.num_failed} failed"
    if summary.num_unfinished:
        requests += f", {summary.num_unfinished} unfinished"
    lines = [
        f"requests      {requests} in {summary.duration:.2f} s",
        f"throughput    {summary.requests_per_second:.2f} requests/s, "
        f"{summary.output_tokens_per_second:.1f} output tokens/s"
        + (
            f", {summary.prompt_tokens_per_second:.1f} prompt tokens/s"
            if summary.prompt_tokens_per_second is not None
            else ""
        ),
        f"concurrency   {summary.mean_concurrency:.1f} on average, {summary.max_concurrency} at most",
    ]
    if (goodput := summary.goodput) is not None:
        limits = ", ".join(f"{name} {limit:g} ms" for name, limit in goodput.limits.items())
        lines.append(
            f"goodput       {goodput.per_second:.2f} requests/s within {limits}: "
            f"{goodput.num_good}, {goodput.fraction:.1%} of all"
        )
    return lines


def remarks(summary: Summary) -> list[str]:
    """What a reader of the figures must know."""
    lines: list[str] = []
    if guessed := summary.token_sources.get("chunks", 0):
        lines.append(
            f"The server did not count the tokens of {guessed} answers; each piece was taken for one token."
        )
    if summary.prompt_tokens is None and summary.num_ok:
        lines.append("The server did not count the tokens of all prompts.")
    if summary.lag is not None and summary.lag.p99 > LATE_MILLISECONDS:
        lines.append(
            f"The generator itself was late: by {summary.lag.p99:.1f} ms at p99. Part of the latencies is "
            "its own; give it a core, or less load."
        )
    return lines


def rows(summary: Summary) -> list[tuple[str, Distribution]]:
    """The distributions that there are, with their names."""
    has_queue = summary.queued is not None and summary.queued.max > 0
    named = [
        ("time to first token", summary.ttft),
        ("time per output token", summary.tpot),
        ("between tokens", summary.itl_tokens),
        ("between chunks", summary.itl_chunks),
        ("end to end", summary.e2e),
        ("end to end, from sending", summary.service_e2e if has_queue else None),
        ("queued in the generator", summary.queued if has_queue else None),
        ("generator lag", summary.lag),
    ]
    return [(name, each) for name, each in named if each is not None]


def _latency_table(summary: Summary) -> object:
    from rich.table import Table

    table = Table("milliseconds")
    for title in ("mean", "p50", "p90", "p99", "max"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, figures in rows(summary):
        values = (figures.mean, figures.p50, figures.p90, figures.p99, figures.max)
        table.add_row(name, *(f"{value:.2f}" for value in values))
    return table


def _error_table(summary: Summary) -> object:
    from rich.markup import escape
    from rich.table import Table

    table = Table("failure", "requests", "for example")
    for kind, count in summary.errors.items():
        table.add_row(kind, str(count), escape(summary.error_examples[kind]))
    return table


@asynccontextmanager
async def showing(live: LiveCounts, total: int | None, enabled: bool) -> AsyncGenerator[None]:
    """A progress bar on the standard error while a load runs.

    Args:
        live: What is going on.
        total: Requests to come, if that is known.
        enabled: Whether there is anybody to see it.
    """
    if not enabled:
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    progress = Progress(
        MofNCompleteColumn(),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rates]}"),
        console=Console(file=sys.stderr),
        auto_refresh=False,  # its thread would take the interpreter from the generator at any time
    )
    with progress:
        updating = asyncio.create_task(_update(progress, live, total))
        try:
            yield
        finally:
            updating.cancel()
            await asyncio.gather(updating, return_exceptions=True)


async def _update(progress: Progress, live: LiveCounts, total: int | None) -> None:
    loop = asyncio.get_running_loop()
    task = progress.add_task("", total=total, rates="")
    before, num_tokens, num_done = loop.time(), live.num_tokens, 0
    try:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            now, done = loop.time(), live.num_finished + live.num_failed
            seconds = now - before
            rates = (
                f"{(live.num_tokens - num_tokens) / seconds:.0f} tok/s, "
                f"{(done - num_done) / seconds:.1f} req/s, {live.num_running} running"
            )
            failed = f", {live.num_failed} failed" if live.num_failed else ""
            progress.update(task, completed=done, rates=rates + failed)
            progress.refresh()
            before, num_tokens, num_done = now, live.num_tokens, done
    finally:
        progress.update(task, completed=live.num_finished + live.num_failed, rates="")
        progress.refresh()

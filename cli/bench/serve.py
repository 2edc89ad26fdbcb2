"""`quire bench serve`: a load test of any server that speaks OpenAI's API."""

from __future__ import annotations

import asyncio
import itertools
import random
import resource
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ...engine.config import EngineConfig
from ...errors import QuireError
from ..options import takes
from .arrivals import send_times
from .console import print_summary, showing
from .datasets import DATASET, DatasetSettings, dataset_requests
from .html_report import html_report
from .http_client import HttpClient
from .load import LoadGenerator, LoadRun
from .load_settings import LOAD, LoadSettings
from .metrics import parse_limits, summarize
from .openai_client import OpenAIClient, RequestFormat, first_model, server_version
from .prompts import CountedWordMaker, PromptMaker, TokenIdMaker, WordMaker
from .report import check_writable, document, sample_details, settings_of, write_json
from .sample import BenchRequest
from .traces import Trace, read_trace

PANEL = "Server"
REPORT = "Report"


@takes(load=LOAD, dataset=DATASET)
def serve(
    load: LoadSettings,
    dataset: DatasetSettings,
    base_url: Annotated[
        str, typer.Option(help="The server, with or without /v1.", rich_help_panel=PANEL)
    ] = "http://127.0.0.1:8000",
    model: Annotated[
        str | None,
        typer.Option(help="The name to ask for; by default the first that it lists.", rich_help_panel=PANEL),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar=["QUIRE_API_KEY", "OPENAI_API_KEY"],
            help="Rather in the environment, as others can see a command line.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    goodput: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT...",
            help="Count the requests that keep limits in milliseconds: ttft:300 tpot:50 e2e:5000.",
            rich_help_panel=REPORT,
        ),
    ] = None,
    more_limits: Annotated[list[str] | None, typer.Argument(metavar="[LIMIT...]", hidden=True)] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", dir_okay=False, help="Write the figures here.", rich_help_panel=REPORT),
    ] = None,
    save_detailed: Annotated[
        bool,
        typer.Option(
            "--save-detailed",
            help="Put every request and the times of its chunks into the JSON as well.",
            rich_help_panel=REPORT,
        ),
    ] = False,
    html_file: Annotated[
        Path | None,
        typer.Option(
            "--html", dir_okay=False, help="Write a page with pictures here.", rich_help_panel=REPORT
        ),
    ] = None,
) -> None:
    """Load a server and measure how fast it answers.

    In the open loop, latencies count from when a request should have been sent: what delays it, in the
    server or in the generator, is part of them. Ctrl-C ends the test with what was measured so far.
    """
    if more_limits and not goodput:
        raise typer.BadParameter(f"got unexpected extra arguments ({' '.join(more_limits)})")
    try:
        limits = parse_limits([*goodput, *(more_limits or ())]) if goodput else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--goodput") from error
    if save_detailed and json_file is None:
        raise typer.BadParameter("there is no --json file to save them in", param_hint="--save-detailed")
    check_writable(json_file, "--json")
    check_writable(html_file, "--html")
    trace = _read_trace(load, dataset)
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    http = HttpClient(base_url.rstrip("/").removesuffix("/v1"), headers)
    _allow_many_connections()
    measured = asyncio.run(_measure_and_close(http, model, load, dataset, trace))
    run, summary = measured.run, summarize(measured.run, limits)
    print_summary(summary)
    settings = settings_of(load, dataset, base_url=_without_password(base_url), model=measured.model)
    results = settings_of(summary) | {
        "interrupted": run.interrupted,
        "generator_cpu_seconds": run.cpu_seconds,
        "num_connections": http.num_connections,
        "server_version": measured.server_version,
        "left_out_fields": measured.left_out,
    }
    report = document("serve", settings, results)
    if html_file is not None:
        html_file.write_text(html_report(report, summary, run), encoding="utf-8")
    if json_file is not None:
        write_json(json_file, report | ({"requests": sample_details(run)} if save_detailed else {}))
    if run.interrupted:
        raise typer.Exit(130)
    if summary.num_ok == 0:
        raise QuireError("no request was answered")


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement, and what was learnt of the server before it."""

    run: LoadRun
    model: str
    server_version: str | None
    left_out: list[str]


async def _measure_and_close(
    http: HttpClient, model: str | None, load: LoadSettings, dataset: DatasetSettings, trace: Trace | None
) -> Measured:
    try:
        return await _measure(http, model, load, dataset, trace)
    finally:
        http.close()
        await asyncio.sleep(0)  # a transport closes in the loop's next turn


async def _measure(
    http: HttpClient, model: str | None, load: LoadSettings, dataset: DatasetSettings, trace: Trace | None
) -> Measured:
    loop = asyncio.get_running_loop()
    model = model or await first_model(http, load.timeout)
    version = await server_version(http, load.timeout)
    client = OpenAIClient(http, RequestFormat(model, load.endpoint, load.request_fields()), loop.time)
    left_out = await client.negotiate(load.required_fields(), load.timeout)
    for name in left_out:
        print(f"The server does not take {name}; requests go without it.", file=sys.stderr)
    rng = random.Random(load.seed)
    maker = await _prompt_maker(client, load)
    requests = dataset_requests(dataset, maker, rng, trace)
    warmups = list(itertools.islice(requests, load.num_warmups)) if trace is None else []
    generator = LoadGenerator(client, timeout=load.timeout, max_concurrency=load.max_concurrency)
    if warmups:
        await generator.closed_loop(warmups, load.concurrency or min(len(warmups), 8))
        generator = LoadGenerator(client, timeout=load.timeout, max_concurrency=load.max_concurrency)
    client.on_tokens = generator.live.add_tokens
    loop.add_signal_handler(signal.SIGINT, generator.stop.set)
    try:
        run = await _run(generator, load, requests, trace, random.Random(f"times {load.seed}"))
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    return Measured(run, model, version, left_out)


async def _run(
    generator: LoadGenerator,
    load: LoadSettings,
    requests: Iterator[BenchRequest],
    trace: Trace | None,
    rng: random.Random,
) -> LoadRun:
    """The measurement itself. Requests whose number is known are made before it begins."""
    shown = sys.stderr.isatty()
    if not load.is_open:
        chosen: Iterable[BenchRequest] = (
            requests if load.limit is None else [*itertools.islice(requests, load.limit)]
        )
        async with showing(generator.live, load.limit, shown):
            return await generator.closed_loop(
                chosen, load.concurrency or 1, ramp=load.ramp, duration=load.duration
            )
    times = planned_times(load, trace, rng)
    planned = list(itertools.islice(requests, len(times)))
    async with showing(generator.live, len(planned), shown):
        return await generator.open_loop(planned, times)


def planned_times(load: LoadSettings, trace: Trace | None, rng: random.Random) -> list[float]:
    """When the requests of an open loop are sent, in seconds from its beginning."""
    if trace is not None:
        times: Iterator[float] = (arrival.time * load.time_scale for arrival in trace.arrivals)
    else:
        times = send_times(load.request_rate or 1.0, rng, burstiness=load.burstiness, ramp=load.ramp)
    if load.duration is not None:
        end = load.duration
        times = itertools.takewhile(lambda time: time < end, times)
    return list(itertools.islice(times, load.limit))


async def _prompt_maker(client: OpenAIClient, load: LoadSettings) -> PromptMaker:
    if load.tokenizer is None:
        rate = await client.tokens_per_word(load.timeout)
        if rate is None:
            print("The server does not count tokens; each word is taken for one.", file=sys.stderr)
        return WordMaker(rate or 1.0)
    from ...engine.find import find_model
    from ...models.tokenizer import Tokenizer

    found = find_model(EngineConfig(model=load.tokenizer))
    tokenizer = Tokenizer.from_folder(found.folder)

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    if load.endpoint == "chat":
        return CountedWordMaker(encode)
    size = min(tokenizer.vocab_size, found.config.vocab_size)
    return TokenIdMaker([i for i in range(size) if i not in tokenizer.special_token_ids], encode)


def _read_trace(load: LoadSettings, dataset: DatasetSettings) -> Trace | None:
    if load.trace is None:
        return None
    for name in ("dataset_path", "input_len", "output_len"):
        if getattr(dataset, name) is not None:
            raise typer.BadParameter(
                f"{name} is given, and the trace has lengths of its own", param_hint="--trace"
            )
    if load.num_warmups:
        raise typer.BadParameter("a trace has no requests to spare for --num-warmups", param_hint="--trace")
    trace = read_trace(load.trace)
    if trace.num_skipped:
        print(f"{trace.num_skipped} requests without input or output are left out.", file=sys.stderr)
    return trace


def _allow_many_connections() -> None:
    """As many open files as the system lets this user have: a request in flight is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _without_password(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"

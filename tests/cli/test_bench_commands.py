"""`quire bench` as its user meets it: against quire's own server over a fake engine, and on a tiny model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from quire.cli import main
from quire.server.app import create_app
from quire.server.settings import ServerSettings

from ..server.fake_engine import FakeEngine


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs `quire bench` in this process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for name in ("QUIRE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str | Path) -> Done:
        capsys.readouterr()
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["quire", "bench", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        return Done(status, *capsys.readouterr())

    yield call
    root.handlers[:] = handlers
    root.setLevel(level)


@contextlib.contextmanager
def served(
    settings: ServerSettings | None = None, answer_tokens: int = 12
) -> Iterator[tuple[str, FakeEngine]]:
    """quire's application over a fake engine, in a thread of its own: its URL, and the engine."""
    started: queue.Queue[FakeEngine] = queue.Queue()

    def application(listening: socket.socket) -> None:
        async def serve() -> None:
            engine = FakeEngine(answer_tokens=answer_tokens)
            config = uvicorn.Config(create_app(engine, settings), log_config=None, lifespan="off")
            servers.append(uvicorn.Server(config))  # off the main thread, it leaves signals alone
            started.put(engine)
            await servers[0].serve(sockets=[listening])

        asyncio.run(serve())

    servers: list[uvicorn.Server] = []
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # clients wait from here on, rather than being refused
        thread = threading.Thread(target=application, args=(listening,))
        thread.start()
        engine = started.get()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", engine
        finally:
            servers[0].should_exit = True
            thread.join()


def report_of(path: Path) -> dict[str, object]:
    return json.loads(path.read_text())


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_quires_own_server(run: Run, tmp_path: Path, endpoint: str) -> None:
    json_file, html_file = tmp_path / "report.json", tmp_path / "report.html"
    with served() as (url, engine):
        done = run(
            "serve",
            "--base-url",
            f"{url}/v1",
            "--endpoint",
            endpoint,
            "--num-prompts",
            "20",
            "--concurrency",
            "4",
            "--input-len",
            "60:90",
            "--output-len",
            "5",
            "--token-ids",
            "--json",
            json_file,
            "--html",
            html_file,
            "--save-detailed",
            "--goodput",
            "ttft:60000",
            "tpot:60000",
        )
    assert done.status == 0, done.err
    assert "20 sent, 20 answered, 0 failed" in done.out
    report = report_of(json_file)
    assert (report["schema_version"], report["kind"]) == (1, "quire.bench.serve")
    assert report["settings"]["model"] == "fake"
    assert report["machine"]["usable_cores"] >= 1
    results = report["results"]
    assert (results["num_ok"], results["errors"], results["left_out_fields"]) == (20, {}, [])
    assert results["output_tokens"] == 100
    assert results["token_sources"] == {"usage": 20}
    assert results["goodput"]["num_good"] == 20
    assert results["itl_tokens"]["count"] == 20 * 4
    asked = engine.seen[-20:]
    assert results["prompt_tokens"] == sum(len(prompt) for prompt, _, _, _ in asked)
    assert all(params.ignore_eos and params.temperature == 0.0 for _, params, _, _ in asked)
    # A word has several tokens here, one per character: the lengths come out right nevertheless.
    assert 50 < results["prompt_tokens"] / 20 < 130
    assert len(report["requests"]) == 20
    assert all(len(each["chunk_times"]) == 5 for each in report["requests"])
    page = html_file.read_text()
    assert page.count("<svg") == 6
    assert "20 sent, 20 answered" in page


def test_the_open_loop_and_natural_ends(run: Run, tmp_path: Path) -> None:
    json_file = tmp_path / "report.json"
    with served(answer_tokens=3) as (url, engine):
        done = run(
            "serve",
            "--base-url",
            url,
            "--request-rate",
            "500",
            "--num-prompts",
            "10",
            "--no-ignore-eos",
            "--output-len",
            "9",
            "--json",
            json_file,
            "--extra-body",
            '{"top_p": 0.5}',
            "--num-warmups",
            "2",
        )
    assert done.status == 0, done.err
    results = report_of(json_file)["results"]
    assert results["num_ok"] == 10
    assert results["output_tokens"] == 10 * 4  # three, and the end
    assert results["lag"]["count"] == 10
    assert engine.seen[-1][1].top_p == 0.5


def test_a_trace_is_sent_with_its_lengths(run: Run, tmp_path: Path) -> None:
    trace, json_file = tmp_path / "trace.csv", tmp_path / "report.json"
    trace.write_text("time,input_tokens,output_tokens\n100,40,7\n101,60,3\n102,80,5\n")
    with served() as (url, engine):
        done = run(
            "serve",
            "--base-url",
            url,
            "--trace",
            trace,
            "--time-scale",
            "0.001",
            "--json",
            json_file,
            "--save-detailed",
        )
    assert done.status == 0, done.err
    # They are a millisecond apart: the server may see them in another order.
    assert sorted(params.max_tokens or 0 for _, params, _, _ in engine.seen[-3:]) == [3, 5, 7]
    intended = [each["intended"] for each in report_of(json_file)["requests"]]
    assert intended == pytest.approx([0.0, 0.001, 0.002], abs=1e-9)


def test_a_server_that_refuses_some_requests(run: Run, tmp_path: Path) -> None:
    json_file = tmp_path / "report.json"
    with served() as (url, _):  # whose context is 512 tokens
        done = run(
            "serve", "--base-url", url, "--num-prompts", "30", "--input-len", "100:900", "--json", json_file
        )
    assert done.status == 0, done.err
    results = report_of(json_file)["results"]
    assert results["num_ok"] > 0
    assert results["errors"] == {"http_400": 30 - results["num_ok"]}
    assert "http_400" in done.out
    assert "context" in results["error_examples"]["http_400"]


def test_the_key_comes_from_the_environment_and_stays_out_of_the_report(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    json_file = tmp_path / "report.json"
    with served(ServerSettings(api_key="s3cret")) as (url, _):
        refused = run("serve", "--base-url", url, "--model", "fake", "--num-prompts", "1")
        assert refused.status == 1
        assert "401" in refused.err
        assert len(refused.err.strip().splitlines()) == 1
        monkeypatch.setenv("QUIRE_API_KEY", "s3cret")
        done = run("serve", "--base-url", url, "--num-prompts", "2", "--json", json_file)
    assert done.status == 0, done.err
    assert "s3cret" not in json_file.read_text() + done.out + done.err


def test_ctrl_c_ends_with_what_was_measured(run: Run, tmp_path: Path) -> None:
    json_file = tmp_path / "report.json"
    with served() as (url, engine):

        def interrupt_later() -> None:
            while len(engine.seen) < 40:
                stopped.wait(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        stopped = threading.Event()
        interrupting = threading.Thread(target=interrupt_later)
        interrupting.start()
        before = signal.getsignal(signal.SIGINT)
        done = run("serve", "--base-url", url, "--duration", "3600", "--output-len", "4", "--json", json_file)
        interrupting.join()
    assert done.status == 130
    results = report_of(json_file)["results"]
    assert results["interrupted"]
    assert results["num_ok"] >= 30
    assert results["errors"] == {}
    assert "time to first token" in done.out
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--goodput", "itl:5"], "itl:5"),
        (["ttft:5"], "ttft:5"),
        (["--concurrency", "0"], "concurrency"),
        (["--request-rate", "2", "--concurrency", "2"], "concurrency"),
        (["--input-len", "9:3"], "input_len"),
        (["--json", "nowhere/report.json"], "nowhere"),
        (["--html", "nowhere/report.html"], "nowhere"),
        (["--save-detailed"], "--json"),
        (["--endpoint", "embeddings"], "embeddings"),
        (["--trace", "x.csv", "--input-len", "5"], "input_len"),
        (["--trace", "x.csv", "--num-warmups", "5"], "--num-warmups"),
    ],
)
def test_a_wrong_option_is_a_usage_error(run: Run, arguments: list[str], named: str) -> None:
    done = run("serve", "--base-url", "http://127.0.0.1:9", *arguments)
    assert done.status == 2
    assert named in done.err
    assert "Traceback" not in done.err


def test_a_server_that_is_not_there_is_one_line(run: Run) -> None:
    with served() as (url, _):
        pass
    for arguments in ([], ["--model", "m"]):
        done = run("serve", "--base-url", url, *arguments)
        assert done.status == 1
        assert "no connection" in done.err
        assert len(done.err.strip().splitlines()) == 1


def test_throughput_counts_what_was_generated(
    run: Run, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    json_file = tmp_path / "report.json"
    common = ["throughput", tiny_model(), "--threads", "1", "--num-blocks", "64", "--json", json_file]
    done = run(*common, "--num-prompts", "6", "--input-len", "10:20", "--output-len", "5")
    assert done.status == 0, done.err
    report = report_of(json_file)
    assert report["kind"] == "quire.bench.throughput"
    results = report["results"]
    assert (results["num_requests"], results["output_tokens"]) == (6, 30)
    assert 60 <= results["prompt_tokens"] <= 120
    assert results["output_tokens_per_second"] == pytest.approx(30 / results["seconds"])
    total = results["prompt_tokens"] + 30
    assert results["total_tokens_per_second"] == pytest.approx(total / results["seconds"])
    assert f"{results['output_tokens_per_second']:.1f} output tokens/s" in done.out
    shared = run(*common, "--num-prompts", "6", "--input-len", "8", "--output-len", "2", "--prefix-len", "64")
    assert shared.status == 0, shared.err
    assert report_of(json_file)["results"]["prompt_tokens"] == 6 * 72


def test_throughput_of_a_file(run: Run, tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    json_file, prompts = tmp_path / "report.json", tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo two\n")
    done = run(
        "throughput",
        tiny_model(),
        "--threads",
        "1",
        "--dataset-path",
        prompts,
        "--num-prompts",
        "3",
        "--output-len",
        "4",
        "--json",
        json_file,
    )
    assert done.status == 0, done.err
    assert report_of(json_file)["results"]["output_tokens"] == 12
    assert report_of(json_file)["settings"]["dataset_path"] == str(prompts)


def test_latency_of_a_batch(run: Run, tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    json_file = tmp_path / "report.json"
    done = run(
        "latency",
        tiny_model(),
        "--threads",
        "1",
        "--input-len",
        "8",
        "--output-len",
        "4",
        "--batch-size",
        "3",
        "--num-iters-warmup",
        "1",
        "--num-iters",
        "5",
        "--json",
        json_file,
    )
    assert done.status == 0, done.err
    results = report_of(json_file)["results"]
    assert len(results["seconds"]) == 5
    assert results["latency"]["p50"] == pytest.approx(sorted(results["seconds"])[2] * 1e3)
    assert results["latency"]["max"] == pytest.approx(max(results["seconds"]) * 1e3)


def test_lengths_beyond_the_context_are_one_line(run: Run, tiny_model: Callable[..., Path]) -> None:
    for command in ("throughput", "latency"):
        done = run(command, tiny_model(), "--threads", "1", "--input-len", "5000")
        assert done.status == 1
        assert "context" in done.err.splitlines()[-1]
        assert "Traceback" not in done.err

"""What the data plane gives over HTTP: a LightGBM of 100 trees on 30 features, single rows as JSON.

    python benchmarks/classic_http.py [--seconds 5] [--held-seconds 60] [--only peak,held,overload]

Needs wrk, which loads the server from the same machine: its CPU is included. Every figure stands beside that
of a bare ASGI handler under the same uvicorn, in the same run: the ceiling of what a server in Python can do.

peak      64 connections, each sends its next request when it has the answer to the last.
held      1,000 requests/s.
overload  192 connections, three times those of the peak, and a queue that holds as many requests as the peak
          has: the rest is refused with 429. Goodput is what is answered with 200.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))

from classic import FEATURES, train

CONNECTIONS = 64
URL = "/v2/models/trees/infer"
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '%s'
local delay_ms = %d
if delay_ms > 0 then
  function delay() return delay_ms end
end
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args) ok = 0; refused = 0; other = 0; refused_us = {} end
function response(status)
  if status == 200 then ok = ok + 1 elseif status == 429 then refused = refused + 1 else other = other + 1 end
end
function done(summary, latency, requests)
  local counts = {ok = 0, refused = 0, other = 0}
  for _, thread in ipairs(threads) do
    for name, _ in pairs(counts) do counts[name] = counts[name] + thread:get(name) end
  end
  local e = summary.errors
  local found = {us = summary.duration, ok = counts.ok, refused = counts.refused, other = counts.other,
    errors = e.connect + e.read + e.write + e.timeout,
    p50 = latency:percentile(50), p99 = latency:percentile(99), max = latency.max}
  local parts = {}
  for name, value in pairs(found) do table.insert(parts, string.format('"%%s": %%d', name, value)) end
  io.write('RESULT {' .. table.concat(parts, ', ') .. '}\\n')
end
"""


def body() -> str:
    """One row."""
    values = [round((number * 0.37) % 2 - 1, 6) for number in range(FEATURES)]
    tensor = {"name": "input", "shape": [1, FEATURES], "datatype": "FP64", "data": values}
    return json.dumps({"inputs": [tensor]})


async def bare(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Reads a body and answers with one, and nothing else."""
    await receive()
    answer = (
        b'{"model_name":"trees","model_version":"1","outputs":[{"name":"output","shape":[1],"data":[0.5]}]}'
    )
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def serve_bare(listening: socket.socket) -> None:
    """The ceiling."""
    import uvicorn

    config = uvicorn.Config(
        bare, log_config=None, access_log=False, lifespan="off", ws="none", http="httptools"
    )
    await uvicorn.Server(config).serve(sockets=[listening])


async def serve_model(listening: socket.socket, path: Path, max_queue_size: int) -> None:
    """The application as `quire serve` runs it, with the model and without a language model."""
    from quire.engine.batch_queue import BatchingConfig, QueuePolicy
    from quire.engine.classic_workers import WorkerConfig
    from quire.engine.data_plane import DataPlane
    from quire.engine.model_registry import ClassicModelConfig, ModelRegistry
    from quire.server.app import create_app
    from quire.server.draining import DrainingServer
    from quire.server.settings import ServerSettings

    registry = ModelRegistry()
    batching = BatchingConfig(default_queue_policy=QueuePolicy(max_queue_size=max_queue_size))
    await registry.load(ClassicModelConfig(name="trees", workers=WorkerConfig(path=path), batching=batching))
    settings = ServerSettings()
    app = create_app({}, settings, DataPlane(registry))
    gc.collect()
    gc.freeze()
    await DrainingServer(app, settings).serve(sockets=[listening])
    await registry.close()


def run_server(arguments: argparse.Namespace) -> None:
    """In a process of its own."""
    import logging

    from quire.server import logs
    from quire.server.main import _loop_factory

    logging.basicConfig(
        level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    listening = socket.socket(fileno=arguments.fd)
    if arguments.serve == "bare":
        work = serve_bare(listening)
    else:
        work = serve_model(listening, Path(arguments.model), arguments.queue)
    with logs.in_background(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(work)


@contextlib.contextmanager
def served(
    kind: str, model: Path, *, queue: int = 0, log_level: str = "warning"
) -> Iterator[tuple[str, int]]:
    """A server's address and its process id."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        port, fd = listening.getsockname()[1], listening.fileno()
        command = [sys.executable, __file__, "--serve", kind, "--fd", str(fd), "--model", str(model)]
        command += ["--queue", str(queue), "--log-level", log_level]
        process = subprocess.Popen(
            command, pass_fds=[fd], stderr=subprocess.DEVNULL if log_level != "warning" else None
        )
    try:
        for _ in range(600):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=5) as probe,
            ):
                probe.sendall(b"GET /v2/health/ready HTTP/1.1\r\nhost: a\r\n\r\n")
                if probe.recv(100):
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


def load(url: str, pid: int, *, connections: int, seconds: float, rate: float = 0) -> dict[str, float]:
    """Runs wrk; what it saw, and the CPU time of the server's processes."""
    delay = round(connections / rate * 1000) if rate else 0
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % (body(), delay))
        script.flush()
        threads = 1
        command = [
            "wrk",
            "-t",
            str(threads),
            "-c",
            str(connections),
            "-d",
            f"{seconds:g}s",
            "-s",
            script.name,
        ]
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        before = [sum(process.cpu_times()[:2]) for process in processes]
        done = subprocess.run(
            [*command, "--timeout", "10s", url + URL], capture_output=True, text=True, check=True
        )
        cpu = [sum(process.cpu_times()[:2]) - time for process, time in zip(processes, before, strict=True)]
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    result = json.loads(found[1])
    duration = result["us"] / 1e6
    answers = result["ok"] + result["refused"]
    return result | {
        "rate": result["ok"] / duration,
        "refusals": result["refused"] / duration,
        "server_us": cpu[0] / max(1, answers) * 1e6,
        "worker_us": sum(cpu[1:]) / max(1, answers) * 1e6,
    }


def show(name: str, result: dict[str, float], ceiling: float | None = None) -> None:
    """One line."""
    share = "" if ceiling is None else f"   {result['rate'] / ceiling:5.2f} of the bare one"
    milliseconds = {key: result[key] / 1000 for key in ("p50", "p99", "max")}
    print(
        f"{name:<20}{result['rate']:8.0f}/s"
        + "".join(f"  {key} {value:6.1f}" for key, value in milliseconds.items())
        + f" ms  refused {result['refusals']:6.0f}/s  failed {result['other'] + result['errors']:.0f}"
        + f"  CPU us: server {result['server_us']:4.0f} worker {result['worker_us']:3.0f}{share}",
        flush=True,
    )


def main(arguments: argparse.Namespace) -> None:
    """Prints a line for each case."""
    wanted = set(arguments.only.split(","))
    print(f"{os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.txt"
        train(model)
        with served("bare", model) as (url, pid):
            load(url, pid, connections=CONNECTIONS, seconds=1)
            ceiling = load(url, pid, connections=CONNECTIONS, seconds=arguments.seconds)
            show("bare ASGI handler", ceiling)
        peak = None
        if "peak" in wanted:
            for log_level in ("warning", "info"):
                with served("model", model, log_level=log_level) as (url, pid):
                    load(url, pid, connections=CONNECTIONS, seconds=1)
                    result = load(url, pid, connections=CONNECTIONS, seconds=arguments.seconds)
                    show(f"peak, log {log_level}", result, ceiling["rate"])
                peak = peak or result
        if "held" in wanted:
            with served("model", model, log_level="info") as (url, pid):
                load(url, pid, connections=CONNECTIONS, seconds=1)
                result = load(url, pid, connections=32, seconds=arguments.held_seconds, rate=1000)
                show("held, log info", result)
        if "overload" in wanted:
            with served("model", model, queue=CONNECTIONS) as (url, pid):
                load(url, pid, connections=CONNECTIONS, seconds=1)
                best = load(url, pid, connections=CONNECTIONS, seconds=arguments.seconds)
                show("before the overload", best, ceiling["rate"])
                result = load(url, pid, connections=3 * CONNECTIONS, seconds=arguments.seconds)
                show("overload", result, ceiling["rate"])
                print(f"goodput under overload: {result['rate'] / best['rate']:.1%} of the peak")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--held-seconds", type=float, default=60.0)
    parser.add_argument("--only", default="peak,held,overload")
    parser.add_argument("--serve", choices=("bare", "model"), help=argparse.SUPPRESS)
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--queue", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--log-level", default="warning", help=argparse.SUPPRESS)
    given = parser.parse_args()
    run_server(given) if given.serve else main(given)

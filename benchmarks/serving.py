"""What HTTP costs: the engine offline and behind `quire serve`, in turn, in one run.

    python benchmarks/serving.py [--shape qwen2.5-0.5b] [--quantization int4] [--streams 32] [--rounds 3]

Random weights and a byte-level vocabulary. Offline is `quire bench throughput`, which queues all requests at
once with as many seats as streams; over HTTP, `quire bench serve` keeps as many streams open against a server
of its own. Server, engine and load generator share the machine's cores, so the generator's own work counts
against the server.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from shapes import SHAPES, write_config
from structured import write_tokenizer

PORT = 18431
URL = f"http://127.0.0.1:{PORT}"
QUIRE = (sys.executable, "-m", "quire")


def run_json(report: Path, *command: str) -> dict[str, Any]:
    """Runs a quire command that writes its figures to a file; returns its results."""
    done = subprocess.run([*QUIRE, *command, "--json", str(report)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return json.loads(report.read_text())["results"]


def wait_until_ready(server: subprocess.Popen[bytes]) -> None:
    """Returns when the server takes requests."""
    while True:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with status {server.returncode}")
        try:
            with urllib.request.urlopen(f"{URL}/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)


def cpu_seconds(server: subprocess.Popen[bytes]) -> tuple[float, float]:
    """CPU time of the server's process, and of its engine's."""
    process = psutil.Process(server.pid)

    def used(one: psutil.Process) -> float:
        times = one.cpu_times()
        return times.user + times.system

    return used(process), sum(used(child) for child in process.children(recursive=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="qwen2.5-0.5b", choices=SHAPES)
    parser.add_argument("--quantization", default="int4", choices=("none", "int4", "int8"))
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-num-batched-tokens", type=int, help="tokens of a step; the engine's default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_config(folder, args.shape, "bfloat16")
        write_tokenizer(folder, SHAPES[args.shape]["vocab_size"])
        model = ["--load-format", "dummy", "--max-num-seqs", str(args.streams), "--no-weight-cache"]
        if args.quantization != "none":
            model += ["--quantization", args.quantization]
        if args.quantization == "int4":
            model += ["--group-size", str(args.group_size)]
        if args.max_num_batched_tokens is not None:
            model += ["--max-num-batched-tokens", str(args.max_num_batched_tokens)]
        load = ["--num-prompts", str(args.requests)]
        load += ["--input-len", str(args.input_len), "--output-len", str(args.output_len)]
        rows: list[tuple[float, dict[str, Any], float, float]] = []
        for round_ in range(args.rounds):
            seed = ["--seed", str(round_)]
            offline = run_json(folder / "offline.json", "bench", "throughput", name, *model, *load, *seed)
            serve = [*QUIRE, "serve", name, *model, "--port", str(PORT), "--log-level", "warning"]
            with subprocess.Popen(serve) as server:
                try:
                    wait_until_ready(server)
                    before = cpu_seconds(server)
                    over_http = run_json(
                        folder / "http.json",
                        *("bench", "serve", "--base-url", URL, "--endpoint", "completions", "--token-ids"),
                        *("--tokenizer", name, "--concurrency", str(args.streams), "--num-warmups", "2"),
                        *load,
                        *seed,
                    )
                    after = cpu_seconds(server)
                finally:
                    server.terminate()
            rows.append(
                (offline["output_tokens_per_second"], over_http, after[0] - before[0], after[1] - before[1])
            )
    print(f"{args.shape} {args.quantization}, {args.streams} streams, {args.requests} requests a round")
    print(f"{'offline tok/s':>14}{'HTTP tok/s':>12}{'share':>8}{'ITL p50 ms':>12}{'p99':>8}{'ratio':>7}")
    shares: list[float] = []
    for offline_rate, results, server_seconds, engine_seconds in rows:
        rate = results["output_tokens_per_second"]
        itl = results["itl_tokens"]
        shares.append(rate / offline_rate)
        print(
            f"{offline_rate:14.1f}{rate:12.1f}{shares[-1]:8.1%}{itl['p50']:12.1f}{itl['p99']:8.1f}"
            f"{itl['p99'] / itl['p50']:7.2f}"
            f"   CPU: server {server_seconds:.1f} s, engine {engine_seconds:.1f} s"
        )
    print(f"the server keeps {statistics.median(shares):.1%} of the engine's tokens per second")


if __name__ == "__main__":
    main()

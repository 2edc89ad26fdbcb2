"""What deployments cost and lose: a LightGBM in two versions, asked 200 times a second over HTTP.

    python benchmarks/deployments.py [--rate 200] [--seconds 5] [--rounds 6]

cost    The same requests to the model itself, to a blue-green deployment, and to a shadow deployment that
        mirrors all of them, in turns; latencies count from when a request was due. Medians over the rounds.
loss    While traffic is switched to and fro twice a second, and the version that has it is loaded anew every
        other second: requests that did not get a right answer.

The client runs on the same machine: its CPU, and the shadow's, is taken from the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from classic import FEATURES, train

CONFIG = """
[[models]]
name = "trees"
version = "1"
path = "model.txt"

[[models]]
name = "trees"
version = "2"
path = "model.txt"
"""
ROW = [round((number * 0.37) % 2 - 1, 6) for number in range(FEATURES)]
BODY = json.dumps(
    {"inputs": [{"name": "input", "shape": [1, FEATURES], "datatype": "FP64", "data": ROW}]}
).encode()


@contextlib.contextmanager
def served() -> Iterator[tuple[str, int]]:
    """The address of `quire serve` with both versions."""
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder) / "model.txt")
        (Path(folder) / "quire.toml").write_text(CONFIG)
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "quire", "serve", "--config", "quire.toml", "--port", "0"]
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=file)
        try:
            while not (found := re.search(r"on http://([\d.]+):(\d+)", log.read_text())):
                if process.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.05)
            yield found[1], int(found[2])
        finally:
            process.terminate()
            process.wait()


def ask(address: tuple[str, int], method: str, path: str, body: Any = None) -> Any:
    """One request of an operator."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"http://{address[0]}:{address[1]}{path}", data, headers, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read() or b"null")


class Client:
    """Keeps connections, and sends when it is time, whether or not earlier answers are there."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.num_failed = 0
        self.seen: set[float] = set()

    async def infer(self, model: str) -> None:
        """One request; counts it if its answer is not a number."""
        connection = self._idle.pop() if self._idle else await asyncio.open_connection(*self._address)
        reader, writer = connection
        writer.write(
            b"POST /v2/models/%b/infer HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (model.encode(), len(BODY), BODY)
        )
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert length
            answer = json.loads(await reader.readexactly(int(length[1])))
            self.seen.add(answer["outputs"][0]["data"][0])
        except (OSError, EOFError, KeyError):
            self.num_failed += 1
            writer.close()
            return
        self._idle.append(connection)

    async def load(self, model: str, rate: float, seconds: float) -> list[float]:
        """The latencies of an open loop, in seconds."""
        found: list[float] = []

        async def one(due: float) -> None:
            await self.infer(model)
            found.append(time.perf_counter() - due)

        start = time.perf_counter()
        tasks: list[asyncio.Task[None]] = []
        for number in range(int(rate * seconds)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(one(due)))
        await asyncio.gather(*tasks)
        return found

    async def close(self) -> None:
        """Ends the connections."""
        for _, writer in self._idle:
            writer.close()


def quantiles(latencies: list[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    cuts = statistics.quantiles(latencies, n=100)
    return cuts[49] * 1000, cuts[98] * 1000


async def cost(address: tuple[str, int], rate: float, seconds: float, rounds: int) -> None:
    """Prints what deployments add."""
    client = Client(address)
    names = {"trees": "the model itself", "switched": "blue-green", "shadowed": "shadow of all requests"}
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for name in names:
        await client.load(name, rate, 1.0)
    for turn in range(rounds):
        # In both directions by turns, so that none is always behind the same one.
        for name in list(names) if turn % 2 == 0 else reversed(names):
            rows[name].append(quantiles(await client.load(name, rate, seconds)))
    base = [statistics.median(column) for column in zip(*rows["trees"], strict=True)]
    for name, text in names.items():
        p50, p99 = (statistics.median(column) for column in zip(*rows[name], strict=True))
        print(
            f"{text:<24} p50 {p50:6.2f} ms ({p50 / base[0] - 1:+.1%})"
            f"   p99 {p99:6.2f} ms ({p99 / base[1] - 1:+.1%})"
            f"   p99 by round: {' '.join(f'{row[1]:.1f}' for row in rows[name])}",
            flush=True,
        )
    state = ask(address, "GET", "/admin/deployments/shadowed")["state"]
    print(
        f"mirrored and compared: {state['compared']}, agreed: {state['agreement']:.1%}, "
        f"dropped: {state['dropped']}; failed: {client.num_failed}; different answers: {len(client.seen)}"
    )
    await client.close()


async def loss(address: tuple[str, int], rate: float, seconds: float) -> None:
    """Prints what is lost by switches and swaps."""
    client = Client(address)
    counts = {"switches": 0, "swaps": 0}
    done = asyncio.Event()

    async def again(every: float, what: str, work: Callable[[], Awaitable[Any]]) -> None:
        while not done.is_set():
            await asyncio.sleep(every)
            await work()
            counts[what] += 1

    operators = [
        asyncio.create_task(
            again(
                0.5,
                "switches",
                lambda: asyncio.to_thread(ask, address, "POST", "/admin/deployments/switched/switch", {}),
            )
        ),
        asyncio.create_task(
            again(
                2.0,
                "swaps",
                lambda: asyncio.to_thread(ask, address, "POST", "/v2/repository/models/trees/load", {}),
            )
        ),
    ]
    latencies = await client.load("switched", rate, seconds)
    done.set()
    await asyncio.gather(*operators)
    p50, p99 = quantiles(latencies)
    print(
        f"{counts['switches']} switches and {counts['swaps']} hot swaps of both versions in {seconds:g} s: "
        f"{client.num_failed} of {len(latencies)} requests lost, p50 {p50:.2f} ms, p99 {p99:.2f} ms"
    )
    await client.close()


async def measure(address: tuple[str, int], arguments: argparse.Namespace) -> None:
    """Both parts."""
    versions = ["trees@1", "trees@2"]
    for name, strategy in (("switched", "blue-green"), ("shadowed", {"type": "shadow", "max_pending": 64})):
        body = {"name": name, "versions": versions, "strategy": strategy}
        ask(address, "POST", "/admin/deployments", body)
    await cost(address, arguments.rate, arguments.seconds, arguments.rounds)
    await loss(address, arguments.rate, arguments.seconds * 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f}")
    with served() as at:
        asyncio.run(measure(at, given))

"""Faults against real processes: a stopped engine, a full disk, a clock that jumps, readers who do not read.

Those of the engine's end, of clients that go, of too much load and of signals are in `test_end_to_end.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from .quire_process import (
    QuireProcess,
    answer,
    answers,
    blocks_are_free,
    metrics,
    question,
    until,
)

SEND_TIMEOUT = 3.0
MOST_BUFFERED = 256 * 1024
CLOCK_THAT_JUMPS = """
import itertools, time
_offsets = itertools.cycle((0.0, 3600.0, -3600.0))
_time = time.time
time.time = lambda: _time() + next(_offsets)
time.time_ns = lambda: int(time.time() * 1e9)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuireProcess]:
    folder = tmp_path_factory.mktemp("server")
    process = QuireProcess(folder, "--num-blocks", "2048", "--send-timeout", str(SEND_TIMEOUT))
    yield process
    process.stop()


async def status(client: httpx.AsyncClient, path: str) -> int:
    return (await client.get(path)).status_code


async def test_an_engine_that_is_stopped_is_not_live_and_one_that_is_busy_is(server: QuireProcess) -> None:
    async with server.client() as client:
        undisturbed = await answers(client, range(4), 400)
        busy = asyncio.create_task(answers(client, range(64), 400))
        while not busy.done():
            assert await status(client, "/health") == 200
            await asyncio.sleep(0.05)
        assert (await busy)[:4] == undisturbed

        # So many that none of this is over before the engine stops.
        streams = asyncio.create_task(answers(client, range(64), 400))

        async def runs() -> bool:
            return (await metrics(client))["num_requests_running"] >= 4

        await until(runs, "the streams run")
        engine = server.find_engine()
        engine.send_signal(signal.SIGSTOP)
        try:
            assert await status(client, "/health") == 200  # it may just be slow

            async def is_not_live() -> bool:
                return await status(client, "/health") == 503

            await until(is_not_live, "the server is not live")
            assert not streams.done()
        finally:
            engine.send_signal(signal.SIGCONT)
        assert (await streams)[:4] == undisturbed
        assert await status(client, "/health") == 200
        assert server.find_engine().pid == server.engine_pid
        await blocks_are_free(client)


async def test_a_full_disk_under_the_log_fails_no_request(tmp_path: Path) -> None:
    server = QuireProcess(tmp_path, "--num-blocks", "256", log="/dev/full")
    try:
        async with server.client() as client:
            before = (await metrics(client))["log_records_dropped_total"]
            first = await answers(client, range(4))
            assert await answers(client, range(4)) == first
            for _ in range(20):
                assert await status(client, "/v1/models") == 200
                assert await status(client, "/nothing") == 404
            # As many as there were requests: the start alone may have lost some, too.
            await until_dropped(client, before + 40)
            await blocks_are_free(client)
    finally:
        server.stop()


async def until_dropped(client: httpx.AsyncClient, number: float) -> None:
    async def dropped() -> bool:
        return (await metrics(client))["log_records_dropped_total"] >= number

    await until(dropped, f"{number} records are dropped")


async def test_a_clock_that_jumps_ends_nothing(tmp_path: Path) -> None:
    """One hour forward, one hour back, at every look at it: what is waited for goes by another clock."""
    (tmp_path / "sitecustomize.py").write_text(CLOCK_THAT_JUMPS)
    keys = tmp_path / "keys"
    keys.write_text("alice:sk-alice-0123456789:1:10000:10000000:64\n")
    server = QuireProcess(
        tmp_path,
        *("--num-blocks", "1024", "--request-timeout", "600", "--keep-alive-interval", "60"),
        *("--api-key-file", str(keys)),
        PYTHONPATH=os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))),
    )
    try:
        async with server.client() as client:
            client.headers["authorization"] = "Bearer sk-alice-0123456789"
            made = (await client.get("/v1/models")).json()["data"][0]["created"]
            answered = [
                (await client.post("/v1/completions", json={"prompt": "a", "timeout": 300})).json()["created"]
                for _ in range(6)
            ]
            assert max(abs(each - made) for each in answered) > 3000  # it does jump
            first = await answers(client, range(8), 200)
            timed = [question(number, 200) | {"timeout": 300} for number in range(8)]
            assert await asyncio.gather(*(answer(client, body) for body in timed)) == first
            for path in ("/health", "/ready"):
                assert await status(client, path) == 200
            figures = await metrics(client)
            assert figures["request_success_total"] >= 22
            assert figures["e2e_request_latency_seconds_sum"] < 3000
            assert server.find_engine().pid == server.engine_pid
            await blocks_are_free(client)
    finally:
        server.stop()


class Stuck:
    """A client that asks for a stream and reads nothing."""

    def __init__(self, url: str, body: dict[str, object]) -> None:
        address, content = httpx.URL(url), json.dumps(body).encode()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect((address.host, address.port))
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        self.socket.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )

    def rest(self) -> bytes:
        """What comes when it reads after all, up to the end."""
        data = b""
        self.socket.settimeout(60)
        try:
            while piece := self.socket.recv(1 << 16):
                data += piece
        except ConnectionResetError:
            pass
        finally:
            self.socket.close()
        return data


def num_open(server: QuireProcess) -> int:
    """The server's connections, also those that wait for their clients to be closed."""
    connections = psutil.Process(server.process.pid).net_connections("tcp")
    return sum(connection.status != psutil.CONN_LISTEN for connection in connections)


async def test_readers_that_never_read_hold_little_and_are_cut(server: QuireProcess) -> None:
    num_stuck = 8

    async def idle() -> bool:
        now = await metrics(client)
        return now["num_requests_running"] + now["num_requests_waiting"] == 0

    async with server.client() as client:
        undisturbed = await answers(client, range(4), 200)
        for logprobs in ({}, {"logprobs": True, "top_logprobs": 20}):
            for is_measured in (False, True):  # what is allocated once is not held by a reader
                before = psutil.Process(server.process.pid).memory_info().rss
                bodies = [question(number, 900) | logprobs for number in range(num_stuck)]
                stuck = [Stuck(server.url, body) for body in bodies]
                controls = [await answers(client, range(4), 200) for _ in range(2)]
                assert controls == [undisturbed] * 2
                await until(idle, "nothing runs")
                held = psutil.Process(server.process.pid).memory_info().rss - before
                print(f"{held / num_stuck / 1024:.0f} KiB for each reader", logprobs)
                if is_measured:
                    assert held < num_stuck * MOST_BUFFERED
                if logprobs:  # without, all may fit between here and there
                    await until(lambda: num_open(server) == 0, "they are cut")
                texts = await asyncio.gather(*(asyncio.to_thread(each.rest) for each in stuck))
                assert all(text.startswith(b"HTTP/1.1 200") for text in texts)
                assert not logprobs or not any(b"data: [DONE]" in text for text in texts)
                assert max(map(len, texts)) < MOST_BUFFERED
        assert await answers(client, range(4), 200) == undisturbed
        await blocks_are_free(client)
    assert server.find_engine().pid == server.engine_pid

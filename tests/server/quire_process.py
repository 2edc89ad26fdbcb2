"""A real `quire serve` process, and clients that stream from it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

PATIENCE = 120.0  # seconds until something that must come counts as never coming


class QuireProcess:
    """`quire serve`, by default with the embedded model, on a free port of 127.0.0.1."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        model: str | Path = "embedded",
        log: str | None = None,
        **variables: str,
    ) -> None:
        self.log = folder / "server.log" if log is None else Path(log)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("QUIRE_")}
        environment |= variables
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "quire", "serve", str(model), "--port", "0", *options],
                cwd=folder,
                env=environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.url = self._wait_for_url() if log is None else self._wait_for_port()
        self.engine_pid = self.find_engine().pid

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if found := re.search(r"on (https?://127\.0\.0\.1:\d+)", self.log.read_text()):
                return found[1]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"the server did not start:\n{self.log.read_text()}")

    def _wait_for_port(self) -> str:
        """The address, where there is no log to read it from."""
        process = psutil.Process(self.process.pid)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    return f"http://127.0.0.1:{connection.laddr.port}"
            assert self.process.poll() is None
            time.sleep(0.05)
        raise AssertionError("the server did not start")

    def find_engine(self) -> psutil.Process:
        """The engine's process: of the server's children the one that runs it."""
        children = psutil.Process(self.process.pid).children()
        (engine,) = (child for child in children if "quire.engine.engine_process" in child.cmdline())
        return engine

    def client(self) -> httpx.AsyncClient:
        """A client without a limit of connections."""
        return httpx.AsyncClient(
            base_url=self.url,
            timeout=PATIENCE,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    def stop(self) -> None:
        """Ends the process, however it is; the engine must go with it."""
        children = psutil.Process(self.process.pid).children() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(children, timeout=PATIENCE)
        assert alive == []


async def metrics(client: httpx.AsyncClient) -> dict[str, float]:
    """quire's metrics, by name without the prefix; the values of a name's labels are added."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families((await client.get("/metrics")).text):
        for sample in family.samples:
            name = sample.name.removeprefix("quire:")
            found[name] = found.get(name, 0.0) + sample.value
    return found


async def until(condition: Callable[[], object], what: str) -> None:
    """Waits for a condition, sync or async, that must come true."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        result = condition()
        if await result if asyncio.iscoroutine(result) else result:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"never: {what}")


async def blocks_are_free(client: httpx.AsyncClient) -> None:
    """Waits until no request holds a block, nothing runs and nothing waits."""

    async def idle() -> bool:
        now = await metrics(client)
        busy = now["num_requests_running"] + now["num_requests_waiting"]
        return busy == 0 and now["num_free_kv_cache_blocks"] == now["num_kv_cache_blocks"]

    await until(idle, "all blocks are free")


def question(number: int, max_tokens: int = 48) -> dict[str, object]:
    """A chat request whose answer is always the same; each number asks something else."""
    return {
        "messages": [{"role": "user", "content": f"Tell me story number {number}, please."}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


async def stream(client: httpx.AsyncClient, body: dict[str, object]) -> AsyncIterator[dict | str]:
    """The data of a chat completion's events."""
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, (response.status_code, await response.aread())
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                yield data if data == "[DONE]" else json.loads(data)


async def answer(client: httpx.AsyncClient, body: dict[str, object]) -> str:
    """The joined text of a stream, which must end as a stream does."""
    text, finish, last = "", None, None
    async for last in stream(client, body):
        if isinstance(last, dict):
            assert "error" not in last, last
            text += last["choices"][0]["delta"].get("content", "")
            finish = last["choices"][0]["finish_reason"] or finish
    assert (finish, last) == ("length", "[DONE]")
    return text


async def answers(client: httpx.AsyncClient, numbers: range, max_tokens: int = 48) -> list[str]:
    """The answers to several questions, asked at once."""
    return await asyncio.gather(*(answer(client, question(number, max_tokens)) for number in numbers))


async def drop(client: httpx.AsyncClient, body: dict[str, object], num_events: int) -> None:
    """Reads so many events, then goes away."""
    seen = 0
    async for _ in stream(client, body):
        seen += 1
        if seen >= num_events:
            return

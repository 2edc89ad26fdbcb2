"""What tests of `quire bench` share: simulated time, and a server that does as a script says."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from quire.cli.bench.http_client import Connection, HttpClient
from quire.cli.bench.openai_client import OpenAIClient, RequestFormat
from quire.cli.bench.sample import BenchRequest, Sample

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class _InstantSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Waits for nothing: when there is nothing to do, the time of the next timer has come."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits for something that never comes"
            self.now += max(0.0, timeout)
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose seconds pass as soon as nothing else is to be done."""

    def __init__(self) -> None:
        self._instant = _InstantSelector()
        super().__init__(self._instant)

    def time(self) -> float:
        return self._instant.now


def simulate(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in simulated time, which begins at 0."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(coroutine)


Step = float | bytes
"""Of a script: seconds to wait, or bytes to send."""


class ScriptedTransport(asyncio.Transport):
    """The server's end of a connection: once a request has come, it plays its script."""

    def __init__(self, connection: Connection, steps: list[Step], *, then_close: bool) -> None:
        super().__init__()
        self.received = b""
        self._connection = connection
        self._steps = steps
        self._then_close = then_close
        self._task: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.received += data
        self._task = asyncio.get_running_loop().create_task(self._play())

    def abort(self) -> None:
        if self._task is not None:
            self._task.cancel()
        asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)

    async def _play(self) -> None:
        for step in self._steps:
            if isinstance(step, bytes):
                self._connection.data_received(step)
            else:
                await asyncio.sleep(step)
        if self._then_close:
            self._connection.connection_lost(None)


def scripted_client(
    *scripts: list[Step], then_close: bool = True, **fields: Any
) -> tuple[OpenAIClient, list[ScriptedTransport]]:
    """A client whose connections play these scripts, one each, the last one for all that follow.

    Returns:
        The client, and the transports that it has opened so far.
    """
    opened: list[ScriptedTransport] = []

    async def connect(factory: Callable[[], Connection]) -> Connection:
        connection = factory()
        steps = scripts[min(len(opened), len(scripts) - 1)]
        transport = ScriptedTransport(connection, steps, then_close=then_close)
        opened.append(transport)
        connection.connection_made(transport)
        return connection

    http = HttpClient("http://scripted", connect=connect)
    clock = asyncio.get_running_loop().time
    return OpenAIClient(http, RequestFormat("m", "completions", fields), clock), opened


def text_event(text: str, **more: Any) -> bytes:
    """A chunk of a completion."""
    import json

    chunk = {"choices": [{"index": 0, "text": text}], **more}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def usage_event(num_prompt: int, num_output: int) -> bytes:
    """The last chunk of a completion with `include_usage`."""
    return b'data: {"choices": [], "usage": {"prompt_tokens": %d, "completion_tokens": %d}}\n\n' % (
        num_prompt,
        num_output,
    )


class FakeSender:
    """Answers as a function of the request's number and the time: `(seconds until token, ...)`."""

    def __init__(self, answer: Callable[[int, float], tuple[float, ...]]) -> None:
        self.sent: list[float] = []
        self._answer = answer

    async def send(self, request: BenchRequest, sample: Sample) -> None:
        loop = asyncio.get_running_loop()
        self.sent.append(loop.time())
        for wait in self._answer(sample.index, loop.time()):
            await asyncio.sleep(wait)
            sample.chunk_times.append(loop.time())
            sample.chunk_tokens.append(1)
        sample.finished = loop.time()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    """A server on a port of 127.0.0.1, for each of whose connections the handler is called."""

    handling: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            await handler(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
        await asyncio.gather(*(task for task in handling if task is not None))


async def read_request(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """The path and the body of one request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lines = head.split("\r\n")
    lengths = [int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")]
    return lines[0].split()[1], await reader.readexactly(lengths[0] if lengths else 0)

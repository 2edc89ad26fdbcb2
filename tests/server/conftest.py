"""Servers over the fake engine: in process, and on a port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import httpx
import pytest
import pytest_asyncio

from quire.server.app import create_app
from quire.server.context import ServerContext
from quire.server.draining import DrainingServer
from quire.server.settings import ServerSettings

from .fake_engine import FakeEngine

if TYPE_CHECKING:
    from quire.engine.data_plane import DataPlane

    from .classic_models import Trained


def events(text: str) -> list[dict | str]:
    """The data of a stream's events; comments are left out."""
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    data = [block.removeprefix("data: ") for block in blocks]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


async def until(condition: Callable[[], bool], what: str) -> None:
    """Waits, long, for something that must come."""
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never: {what}")


class Served:
    """A server under test: its engine, its context, and a client of it."""

    def __init__(self, engine: FakeEngine, context: ServerContext, client: httpx.AsyncClient) -> None:
        self.engine = engine
        self.context = context
        self.client = client

    async def complete(self, **body: object) -> httpx.Response:
        return await self.client.post("/v1/completions", json={"prompt": "hello"} | body)

    async def chat(self, **body: object) -> httpx.Response:
        defaults = {"messages": [{"role": "user", "content": "hello"}]}
        return await self.client.post("/v1/chat/completions", json=defaults | body)


@contextlib.asynccontextmanager
async def serve_in_process(
    engine: FakeEngine | None = None,
    settings: ServerSettings | None = None,
    models: DataPlane | None = None,
    **client: object,
) -> AsyncIterator[Served]:
    """The application without a socket; an exception that leaves it fails the test."""
    engine = engine or FakeEngine()
    app = create_app(engine, settings, models)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://quire", **client) as http:
        try:
            yield Served(engine, app.state.context, http)
        finally:
            await engine.close_grammars()


@contextlib.asynccontextmanager
async def serve_on_port(
    engine: FakeEngine | None = None,
    settings: ServerSettings | None = None,
    models: DataPlane | None = None,
) -> AsyncIterator[tuple[Served, DrainingServer]]:
    """The application behind uvicorn on a free port, in this event loop."""
    engine = engine or FakeEngine()
    settings = settings or ServerSettings()
    app = create_app(engine, settings, models)
    server = DrainingServer(app, settings)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve(sockets=[listening]))
        await until(lambda: server.started, "it listens")
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=url) as http:
                yield Served(engine, app.state.context, http), server
        finally:
            server.should_exit = True
            if isinstance(engine, FakeEngine):
                engine.going.set()
            await task


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve_in_process() as served:
        yield served


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Classic models, trained."""
    from .classic_models import Trained

    return Trained(tmp_path_factory.mktemp("models"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def plane(trained: Trained) -> AsyncIterator[DataPlane]:
    """They, loaded: once for all tests, which must run in the session's event loop."""
    from .classic_models import loaded

    async with loaded(trained.configs()) as plane:
        yield plane

"""`quire deploy` against a server on a port: what it prints, and what it says when something is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from quire.cli import app as cli
from quire.errors import QuireError
from quire.server.app import create_app
from quire.server.draining import DrainingServer
from quire.server.keys import ApiKey
from quire.server.settings import ServerSettings

from ..server.fake_engine import FakeEngine

KEY = "k-admin"
Run = Callable[..., Awaitable[str]]


@contextlib.asynccontextmanager
async def serve() -> AsyncIterator[str]:
    """A server with the models "old" and "new", and an admin key."""
    engines = {name: FakeEngine(name=name) for name in ("old", "new")}
    settings = ServerSettings(api_keys=(ApiKey("admin", KEY),))
    app = create_app(engines, settings)
    server = DrainingServer(app, settings)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
            app.state.context.deployments.close()
            for engine in engines.values():
                await engine.close_grammars()


@pytest.fixture
async def url(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setenv("COLUMNS", "200")
    async with serve() as url:
        yield url


@pytest.fixture
def run(url: str) -> Run:
    """`await run("list")` is what the command prints; it must succeed, or fail with the given error."""

    async def run(*words: str, key: str = KEY, status: int = 0) -> str:
        environment = {"QUIRE_URL": url, "QUIRE_ADMIN_KEY": key}
        result = await asyncio.to_thread(CliRunner().invoke, cli, ["deploy", *words], env=environment)
        if isinstance(result.exception, QuireError):
            raise result.exception
        assert result.exit_code == status, result.output
        return result.output

    return run


async def test_a_rollout_from_the_terminal(run: Run, url: str) -> None:
    assert "no deployments" in await run("list")
    made = await run("create", "chat", "old", "new", "--set", "steps=10,50,100", "--set", "alpha=0.02")
    assert "canary" in made
    assert "running, 10%" in made
    assert "chat" in await run("list")
    body = {"model": "chat", "prompt": "hello", "max_tokens": 2}
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as client:
        for _ in range(5):
            assert (await client.post("/v1/completions", json=body)).status_code == 200
    shown = json.loads(await run("show", "chat", "--json"))
    assert shown["strategy"]["steps"] == [10, 50, 100]
    assert shown["strategy"]["alpha"] == 0.02
    assert sum(version["requests"]["succeeded"] for version in shown["versions"]) == 5
    assert "paused" in await run("pause", "chat", "--why", "lunch")
    await run("resume", "chat")
    for percent in ("50%", "100%", "completed"):
        assert percent in await run("promote", "chat")
    assert "completed" in await run("watch", "chat")
    assert "rolled back" in await run("rollback", "chat", "--why", "complaints")
    assert "rolled back" in await run("watch", "chat", status=1)
    log = await run("audit", "chat")
    assert "complaints" in log
    assert log.index("created") < log.index("rolled_back")
    assert "admin" in log
    assert "deleted" in await run("delete", "chat")
    assert len(json.loads(await run("audit", "--json"))["entries"]) == 8


async def test_other_strategies_and_files(run: Run, tmp_path: Path) -> None:
    await run("create", "chat", "old", "new", "--strategy", "blue-green")
    assert "new is active" in await run("switch", "chat")
    assert "old is active" in await run("switch", "chat", "old")
    file = tmp_path / "quire.toml"
    file.write_text(
        '[[deployments]]\nname = "chat"\nversions = ["old", "new"]\nsticky = "key"\n'
        'strategy = { type = "shadow", sample = 0.5 }\n'
    )
    assert "in the shadow of old" in await run("create", "chat", "--file", str(file), "--replace")
    with pytest.raises(QuireError, match="'chat' already"):
        await run("create", "chat", "--file", str(file))
    with pytest.raises(QuireError, match="0 deployments of the name 'other'"):
        await run("create", "other", "--file", str(file))
    await run("create", "arms", "old", "new", "--strategy", "bandit")
    assert "new has all" in await run("promote", "arms", "new")


async def test_what_is_wrong_is_said_in_the_servers_words(run: Run) -> None:
    with pytest.raises(QuireError, match="no deployment 'chat'"):
        await run("show", "chat")
    with pytest.raises(QuireError, match="absent"):
        await run("create", "chat", "old", "absent")
    with pytest.raises(QuireError, match="colour"):
        await run("create", "chat", "old", "new", "--set", "colour=red")
    with pytest.raises(QuireError, match="API key"):
        await run("list", key="wrong")
    assert "NAME=VALUE" in await run("create", "chat", "old", "new", "--set", "steps", status=2)


async def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = await asyncio.to_thread(CliRunner().invoke, cli, ["deploy", "list", "--url", url])
    assert isinstance(result.exception, QuireError)
    assert url in result.exception.message

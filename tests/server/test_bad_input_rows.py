"""Bad inputs against a real server: after each class of them it is as if nothing had been sent.

The engine's process is the one it was, streams that ran meanwhile are what they are undisturbed, no request
holds a block, the event loop was never held up for 250 ms, and the memory has not grown by 16 MB.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import psutil
import pytest

from quire.server.app import create_app
from quire.server.settings import ServerSettings

from .attacked import (
    ADMIN_KEY,
    BODY_TIMEOUT,
    COMPLETIONS,
    HEADER_TIMEOUT,
    KEY,
    SMALLEST,
    Target,
    check_error_form,
    routes_of,
)
from .bad_inputs import ROWS, row
from .fake_engine import FakeEngine
from .quire_process import PATIENCE, QuireProcess, answer, blocks_are_free, metrics, question, until

CONTROLS = range(3)
CONTROL_TOKENS = 40
MOST_GROWTH = 16 << 20
OPEN = ("/health", "/ready", "/ping")


@row(28)
async def without_the_key(target: Target) -> None:
    app = create_app(FakeEngine())
    probes = {path.decode() for path in app.state.context.paths.probes}
    assert probes >= {*OPEN}
    async with httpx.AsyncClient(base_url=target.server.url, timeout=PATIENCE) as stranger:
        for method, path in routes_of(app, known=("/nothing", "/health/", "/ready?x", "/HEALTH")):
            for headers in ({}, {"host": "x/?"}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}):
                response = await stranger.request(method, path, headers=headers)
                if path.partition("?")[0] in probes:
                    assert response.status_code in (200, 405), path
                elif path.startswith("/ui/"):  # the web page's own files, which are no secret
                    assert response.status_code in (200, 404), path
                else:
                    assert response.status_code == 401, (method, path, headers, response.status_code)
                    if method != "HEAD":
                        check_error_form(path, response.json())


@row(29)
async def an_inference_key_on_admin_routes(target: Target) -> None:
    app = create_app(FakeEngine())
    rules = app.state.context.paths
    found = [(method, path) for method, path in routes_of(app) if rules.is_admin(method, path)]
    assert ("POST", "/reset_prefix_cache") in found
    for method, path in found:
        response = await target.client.request(method, path)
        assert response.status_code == 403, (method, path)
        check_error_form(path, response.json())
        spelled = path.replace("_", "%5f")  # the same route, for the router
        assert (await target.client.request(method, spelled)).status_code == 403
    admin = {"authorization": f"Bearer {ADMIN_KEY}"}
    assert (await target.client.post("/reset_prefix_cache", headers=admin)).status_code == 200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuireProcess]:
    folder = tmp_path_factory.mktemp("server")
    keys = folder / "keys"
    keys.write_text(f"alice:{KEY}\nadmin:{ADMIN_KEY}\n")
    process = QuireProcess(
        folder,
        *("--num-blocks", "1024", "--api-key-file", str(keys)),
        *("--header-timeout", str(HEADER_TIMEOUT), "--body-timeout", str(BODY_TIMEOUT)),
    )
    yield process
    process.stop()


@pytest.fixture
async def target(server: QuireProcess) -> AsyncIterator[Target]:
    async with server.client() as client:
        client.headers["authorization"] = f"Bearer {KEY}"
        yield Target(server, client)


@pytest.fixture(scope="module")
def undisturbed() -> dict[int, str]:
    """The controls' answers when nothing else is asked; filled by the first test."""
    return {}


async def memory(server: QuireProcess) -> dict[str, int]:
    """Bytes that the two processes hold."""
    return {
        name: psutil.Process(pid).memory_info().rss
        for name, pid in (("server", server.process.pid), ("engine", server.engine_pid))
    }


@pytest.mark.parametrize("number", sorted(ROWS), ids=lambda number: f"{number}-{ROWS[number].__name__}")
async def test_row(target: Target, undisturbed: dict[int, str], number: int) -> None:
    server, client = target.server, target.client
    if not undisturbed:
        for control in CONTROLS:
            undisturbed[control] = await answer(client, question(control, CONTROL_TOKENS))
        # What is imported or allocated once is no growth; and what rows change one field of is good.
        for path in SMALLEST:
            await target.accepts(path)
        await target.accepts(COMPLETIONS, guided_regex="a+")
        await ROWS[13](target)
    await blocks_are_free(client)
    before, held = await metrics(client), await memory(server)
    done = asyncio.Event()

    async def control(asked: int) -> int:
        num_answers = 0
        while num_answers == 0 or not done.is_set():
            assert await answer(client, question(asked, CONTROL_TOKENS)) == undisturbed[asked]
            num_answers += 1
        return num_answers

    controls = [asyncio.create_task(control(asked)) for asked in CONTROLS]
    try:
        await ROWS[number](target)
    finally:
        done.set()
        num_answers = sum(await asyncio.gather(*controls))
    await blocks_are_free(client)
    after, grown = await metrics(client), await memory(server)

    async def is_given_back() -> bool:
        grown.update(await memory(server))
        return all(grown[name] - held[name] < MOST_GROWTH for name in held)

    await until(is_given_back, f"what is held is about what was: {held}, {grown}")
    assert server.find_engine().pid == server.engine_pid
    growth = {name: grown[name] - held[name] for name in held}
    late = after["event_loop_lag_seconds_sum"] - before["event_loop_lag_seconds_sum"]
    print(
        f"{num_answers} control streams; the event loop was late by {late:.2f} s in all; memory grew by",
        ", ".join(f"{name} {size / (1 << 20):.1f} MiB" for name, size in growth.items()),
        *target.notes,
        sep="\n",
    )
    assert after["event_loop_stalls_total"] == before["event_loop_stalls_total"]


def test_every_row_is_there() -> None:
    assert sorted(ROWS) == list(range(1, 30))


def test_the_servers_own_time_limits() -> None:
    settings = ServerSettings()
    assert (settings.header_timeout, settings.body_timeout) == (10.0, 30.0)

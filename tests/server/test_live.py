"""`/engine/live`: what watchers see, what it costs when nobody watches, and how a watch ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import httpx

from quire.server.live import MOST_WATCHERS
from quire.server.recent import MOST_SAMPLES, WINDOW_SECONDS, RecentTimes
from quire.server.settings import ServerSettings

from .conftest import Served, serve_on_port, until


@contextlib.asynccontextmanager
async def watching(client: httpx.AsyncClient, **options: object) -> AsyncIterator[AsyncIterator[dict]]:
    """The events of the live view."""
    async with client.stream("GET", "/engine/live", **options) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")

        async def events() -> AsyncIterator[dict]:
            async for line in response.aiter_lines():
                if line:
                    yield json.loads(line.removeprefix("data: "))

        yield events()


async def nobody_watches(served: Served) -> None:
    await until(lambda: served.engine.block_map.num_watchers == 0, "nobody watches")


async def test_the_state_and_what_changes() -> None:
    async with serve_on_port() as (served, _):
        assert served.engine.watching == []
        await served.complete(max_tokens=4)
        async with watching(served.client) as events:
            first = await anext(events)
            assert first["pages"] == [[0, "f" * 100]]
            assert (first["model"], first["ready"], first["num_blocks"]) == ("fake", True, 100)
            assert first["generation_tokens"] == 4
            times = first["first_token"]
            assert times["count"] == 1
            assert 0 < times["p50"] == times["p90"] == times["p99"]
            assert first["next_token"]["count"] == 3
            served.engine.block_map.update([(5, b"os"), (40, b"c")], is_whole=False)
            second = await anext(events)
            assert second["pages"] == [[5, "os"], [40, "c"]]
            assert second["time"] > first["time"]
            assert (await anext(events))["pages"] == []
            async with watching(served.client) as others:
                (begin, letters) = (await anext(others))["pages"][0]
                assert (begin, letters[5:7], letters[40], len(letters)) == (0, "os", "c", 100)
        await nobody_watches(served)
        assert served.engine.watching == [True, False]


async def test_the_key_is_needed() -> None:
    async with serve_on_port(settings=ServerSettings(api_key="k-1")) as (served, _):
        assert (await served.client.get("/engine/live")).status_code == 401
        assert served.engine.watching == []
        async with watching(served.client, headers={"authorization": "Bearer k-1"}) as events:
            await anext(events)
        await nobody_watches(served)


async def test_watchers_are_limited() -> None:
    async with serve_on_port() as (served, _), contextlib.AsyncExitStack() as stack:
        watches = [
            await stack.enter_async_context(watching(served.client)) for _number in range(MOST_WATCHERS)
        ]
        for events in watches:
            await anext(events)
        async with served.client.stream("GET", "/engine/live") as refused:
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "10"
            assert json.loads(await refused.aread())["error"]["code"] == "too_many_watchers"


async def test_a_watch_ends_with_the_drain() -> None:
    async with serve_on_port() as (served, server):
        async with watching(served.client) as events:
            await anext(events)
            served.context.draining = True
            async for _state in events:
                pass
        await until(lambda: not server.started or served.context.num_in_flight == 0, "the watch is over")
        await asyncio.sleep(0)


def test_percentiles_by_nearest_rank_of_the_last_minute() -> None:
    now = [0.0]
    times = RecentTimes(lambda: now[0])
    assert (times.percentiles().count, times.percentiles().p50) == (0, None)
    for value in range(100, 0, -1):
        times.add(float(value))
    found = times.percentiles()
    assert (found.count, found.p50, found.p90, found.p99) == (100, 50.0, 90.0, 99.0)
    now[0] = WINDOW_SECONDS + 1
    times.add(7.0)
    found = times.percentiles()
    assert (found.count, found.p50, found.p99) == (1, 7.0, 7.0)
    for _ in range(2 * MOST_SAMPLES):
        times.add(1.0)
    assert times.percentiles().count == MOST_SAMPLES

"""The time that a request may take: what it may ask for, and how it is told that it is over."""

from __future__ import annotations

import pytest

from quire.errors import request_failure
from quire.server.settings import ServerSettings

from .conftest import Served, events, serve_in_process
from .fake_engine import FakeEngine


async def test_the_bodys_timeout_or_the_servers_goes_to_the_engine() -> None:
    async with serve_in_process(settings=ServerSettings(request_timeout=20.0)) as served:
        for ask in (served.complete, served.chat):
            assert (await ask()).status_code == 200
            assert (await ask(timeout=2.5)).status_code == 200
            assert (await ask(timeout=20)).status_code == 200
            assert (await ask(timeout=None)).status_code == 200
        assert served.engine.timeouts == [20.0, 2.5, 20.0, 20.0] * 2


@pytest.mark.parametrize("asked", [0, -1, 20.5, 1e300, "5", True])
async def test_a_timeout_that_cannot_be_kept_is_refused(asked: object) -> None:
    async with serve_in_process(settings=ServerSettings(request_timeout=20.0)) as served:
        for ask in (served.complete, served.chat):
            refused = await ask(timeout=asked)
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == "timeout"
        assert served.engine.seen == []


async def test_what_runs_out_of_time_gets_408(served: Served) -> None:
    served.engine.refuse_with = request_failure("deadline_exceeded")
    for stream in (False, True):
        response = await served.complete(stream=stream)
        assert response.status_code == 408
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("request_timeout", "deadline_exceeded")


async def test_a_stream_that_runs_out_of_time_ends_with_an_error_event() -> None:
    engine = FakeEngine()
    engine.fail_after = (3, request_failure("deadline_exceeded"))
    async with serve_in_process(engine) as served:
        for ask in (served.complete, served.chat):
            response = await ask(stream=True)
            assert response.status_code == 200
            *_, error, done = events(response.text)
            assert error["error"]["type"] == "request_timeout"
            assert done == "[DONE]"
        assert served.engine.running == set()

"""Streams that fail, stall or lose their reader."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from quire.errors import Overloaded
from quire.server.settings import ServerSettings

from .conftest import Served, events, serve_in_process, serve_on_port, until
from .fake_engine import FakeEngine, engine_died


@pytest.mark.parametrize("path", ["complete", "chat"])
async def test_death_in_mid_stream(served: Served, path: str) -> None:
    served.engine.fail_after = (3, engine_died())
    response = await getattr(served, path)(stream=True)
    assert response.status_code == 200
    *chunks, error, done = events(response.text)
    assert done == "[DONE]"
    assert len(chunks) >= 3
    assert error == {
        "error": {
            "message": "the engine process ended; it is being restarted",
            "type": "engine_error",
            "param": None,
            "code": "engine_died",
        }
    }


async def test_a_defect_in_mid_stream_is_opaque(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.engine.fail_after = (3, RuntimeError("secret"))
    *_, error, done = events((await served.complete(stream=True)).text)
    assert (error["error"]["code"], done) == ("internal_error", "[DONE]")
    assert "secret" not in json.dumps(error)
    assert "secret" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "type"),
    [(engine_died(), 500, "engine_error"), (Overloaded("full", retry_after=3), 429, "overloaded")],
)
async def test_failure_before_the_first_byte_is_plain_http(
    served: Served, error: Exception, status: int, type: str, stream: bool
) -> None:
    served.engine.refuse_with = error
    response = await served.chat(stream=stream)
    assert response.status_code == status
    assert response.json()["error"]["type"] == type
    assert response.headers.get("retry-after") == ("3" if status == 429 else None)


async def test_one_failing_prompt_ends_the_others(served: Served) -> None:
    response = await served.complete(prompt=[[1, 2], [999]])
    assert response.status_code == 400
    assert served.engine.running == set()


async def test_not_ready(served: Served) -> None:
    served.engine.is_ready = False
    response = await served.complete()
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "unavailable"


async def test_silent_streams_open_and_are_kept_alive() -> None:
    async with serve_in_process(settings=ServerSettings(keep_alive_interval=0.02)) as served:
        served.engine.going.clear()
        task = asyncio.create_task(served.chat(stream=True))
        await asyncio.sleep(0.2)
        served.engine.going.set()
        text = (await task).text
    assert text.count(": keep-alive") >= 2
    first, *_ = events(text)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text.index('"role"') < text.index(": keep-alive")


@pytest.mark.parametrize("body", [{"stream": True}, {"stream": False}, {"prompt": ["a", "b", "c"], "n": 2}])
async def test_clients_that_go_away_abort_their_requests(body: dict) -> None:
    async with serve_on_port() as (served, _):
        served.engine.going.clear()
        tasks = [asyncio.create_task(served.complete(**body)) for _ in range(5)]
        num = 15 if "prompt" in body else 5
        await until(lambda: len(served.engine.running) == num, "all run")
        for task in tasks:
            task.cancel()
        await until(lambda: not served.engine.running, "all are aborted")
        assert served.engine.stats.num_free_blocks == served.engine.stats.num_blocks
        await until(lambda: served.context.num_in_flight == 0, "none is in flight")


async def test_clients_that_go_away_in_mid_stream() -> None:
    async with serve_on_port(FakeEngine(answer_tokens=400)) as (served, _):
        served.engine.step_seconds = 0.005
        async with served.client.stream(
            "POST", "/v1/completions", json={"prompt": "a", "stream": True, "max_tokens": 400}
        ) as response:
            async for line in response.aiter_lines():
                if line:
                    break
        await until(lambda: not served.engine.running, "it is aborted")


async def test_a_body_that_never_ends_times_out() -> None:
    async with serve_on_port(settings=ServerSettings(body_timeout=0.1)) as (served, _):

        async def slow():
            yield b'{"prompt": '
            await asyncio.sleep(1)
            yield b'"a"}'

        headers = {"content-type": "application/json"}
        response = await served.client.post("/v1/completions", content=slow(), headers=headers)
    assert response.status_code == 408
    assert response.json()["error"]["type"] == "request_timeout"


async def test_a_reader_that_never_reads_is_cut_off() -> None:
    settings = ServerSettings(send_timeout=0.3)
    async with serve_on_port(FakeEngine(max_model_len=100_000, answer_tokens=100_000), settings) as (
        served,
        _,
    ):
        url = served.client.base_url
        body = json.dumps({"prompt": "a", "stream": True, "max_tokens": 90_000, "logprobs": 20}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (url.host, url.port))
            await loop.sock_sendall(client, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await until(lambda: served.engine.running, "it runs")
            await until(lambda: not served.engine.running, "it is cut off")
            assert (await served.complete()).status_code == 200

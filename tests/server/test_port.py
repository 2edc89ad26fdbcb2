"""A real socket: the official client, HTTP that is none, and the end of a server."""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
import openai
import pytest

from quire.server.settings import ServerSettings

from .conftest import serve_on_port, until
from .fake_engine import FakeEngine

HI: list = [{"role": "user", "content": "hi"}]


async def test_official_client() -> None:
    async with (
        serve_on_port() as (served, _),
        openai.AsyncOpenAI(base_url=f"{served.client.base_url}/v1", api_key="none") as client,
    ):
        assert [model.id async for model in client.models.list()] == ["fake"]
        chat = await client.chat.completions.create(
            model="fake", messages=HI, max_tokens=4, logprobs=True, top_logprobs=1
        )
        assert chat.choices[0].message.content == "[use"
        assert chat.choices[0].logprobs.content[0].token == "["
        assert chat.usage.total_tokens == chat.usage.prompt_tokens + 4
        text = await client.completions.create(model="fake", prompt="abc", max_tokens=3, logprobs=2)
        assert text.choices[0].text == "abc"
        assert text.choices[0].logprobs.tokens == ["a", "b", "c"]
        stream = await client.chat.completions.create(
            model="fake", messages=HI, max_tokens=4, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "[use"
        assert chunks[-1].usage.completion_tokens == 4
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="other", messages=HI)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="fake", messages=HI, temperature=9)
        assert caught.value.param == "temperature"


async def test_official_client_without_asyncio() -> None:
    def work(url: str) -> list[str]:
        with openai.OpenAI(base_url=url, api_key="none") as client:
            whole = client.completions.create(model="fake", prompt="abc", max_tokens=5).choices[0].text
            stream = client.completions.create(model="fake", prompt="abc", max_tokens=5, stream=True)
            return [whole, "".join(chunk.choices[0].text for chunk in stream)]

    async with serve_on_port() as (served, _):
        assert await asyncio.to_thread(work, f"{served.client.base_url}/v1") == ["abcab", "abcab"]


async def test_official_client_with_all_kinds_of_choices() -> None:
    """Choices, ranked, searched for and streamed, as the client's own types."""
    async with (
        serve_on_port() as (served, _),
        openai.AsyncOpenAI(base_url=f"{served.client.base_url}/v1", api_key="none") as client,
    ):
        ranked = await client.completions.create(model="fake", prompt="abc", n=1, best_of=3, max_tokens=2)
        assert [choice.text for choice in ranked.choices] == ["ca"]
        found = await client.completions.create(
            model="fake", prompt="abc", n=2, max_tokens=2, extra_body={"use_beam_search": True}
        )
        assert len({choice.text for choice in found.choices}) == 2
        stream = await client.chat.completions.create(
            model="fake",
            messages=HI,
            n=2,
            max_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"bad_words": ["zz"], "truncate_prompt_tokens": 4},
        )
        texts = ["", ""]
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        assert texts == ["ant", "nt]"]
        scored = await client.completions.create(
            model="fake",
            prompt="abc",
            echo=True,
            logprobs=0,
            max_tokens=1,
            extra_body={"return_tokens_as_token_ids": True},
        )
        ids = served.engine.tokenizer.encode("abca")
        assert scored.choices[0].logprobs.tokens == [f"token_id:{token}" for token in ids]
        for name, value in (("suffix", "x"), ("best_of", 0)):
            with pytest.raises(openai.BadRequestError) as caught:
                await client.completions.create(model="fake", prompt="abc", **{name: value})
            assert caught.value.param == name


async def raw(served, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Sends bytes as they are, and reads until the server closes."""
    url = served.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        return await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()


def parse(answer: bytes) -> tuple[int, dict]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


async def test_headers_that_are_too_large() -> None:
    async with serve_on_port() as (served, _):
        start = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        many = b"".join(b"X-%d: 1\r\n" % number for number in range(129))
        for pieces in (
            [start, b"X-Long: " + b"v" * 65_600 + b"\r\n\r\n"],
            [start, b"X-Long: " + b"v" * 1_000_000],  # never ends
            [start, b"X-Request-Id: " + b"v" * 1_000_000 + b"\r\n\r\n"],
            [start, many, b"\r\n"],
        ):
            status, error = parse(await raw(served, *pieces))
            assert (status, error["code"]) == (431, "headers_too_large")
        assert (await served.client.get("/health")).status_code == 200


async def test_what_is_not_http() -> None:
    async with serve_on_port() as (served, _):
        for data in (
            b"\x16\x03\x01\x02\x00",
            b"GET / HTTP/1.1\r\nX-Request-Id: a\rb\r\n\r\n",
        ):
            status, error = parse(await raw(served, data))
            assert (status, error["type"]) == (400, "invalid_request_error")


async def test_slow_headers_time_out() -> None:
    async with serve_on_port(settings=ServerSettings(header_timeout=0.2)) as (served, _):
        for pieces in ([], [b"GET /health HT", b"TP/1.1\r\n", b"Host: x\r\n"]):
            status, error = parse(await raw(served, *pieces, pause=0.05))
            assert (status, error["type"]) == (408, "request_timeout")
        # A request that is being answered is not cut off by the clock of the next one.
        served.engine.step_seconds = 0.1
        assert (await served.complete(max_tokens=5)).status_code == 200


async def test_a_refused_body_that_trickles_in_does_not_hold_the_connection() -> None:
    settings = ServerSettings(body_timeout=0.3, keep_alive_timeout=1)
    async with serve_on_port(settings=settings) as (served, _):
        start = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
        url = served.client.base_url
        for rest in (b"x", b"x" * 100_000):  # for ever, or at once: then the connection is idle
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(start)
            status = (await reader.readuntil(b"\r\n\r\n")).split()[1]
            assert status == b"415"
            reading = asyncio.create_task(reader.read())
            while not reading.done():
                with contextlib.suppress(ConnectionError):
                    if len(rest) == 1 or not writer.is_closing():
                        writer.write(rest[:100_000])
                        rest = rest[: len(rest) % 100_000]
                await asyncio.wait({reading}, timeout=0.05)
            assert b"unsupported_media_type" in await reading
            writer.close()


async def test_drain() -> None:
    """Requests that run are finished, new ones are refused, then the server ends by itself."""
    async with serve_on_port(FakeEngine(answer_tokens=60)) as (served, server):
        served.engine.step_seconds = 0.01
        running = [asyncio.create_task(served.chat(stream=index % 2 == 0)) for index in range(8)]
        await until(lambda: len(served.engine.running) == 8, "all run")
        served.context.draining = True
        assert (await served.client.get("/ready")).status_code == 503
        assert (await served.complete()).status_code == 503
        answers = [await task for task in running]
        assert all(answer.status_code == 200 for answer in answers)
        assert all(answer.text.rstrip().endswith(("[DONE]", "}")) for answer in answers)
        assert all("error" not in answer.text for answer in answers)
        await until(lambda: not server.servers[0].is_serving(), "the port is closed")
        with pytest.raises(httpx.TransportError):
            await served.client.get("/health")


async def test_drain_that_takes_too_long() -> None:
    settings = ServerSettings(drain_timeout=0.3)
    async with serve_on_port(FakeEngine(answer_tokens=10_000), settings) as (served, _):
        served.engine.step_seconds = 0.02
        streamed = asyncio.create_task(served.chat(stream=True))
        whole = asyncio.create_task(served.chat())
        await until(lambda: len(served.engine.running) == 2, "both run")
        served.context.draining = True
        *_, error, done = (await streamed).text.strip().split("\n\n")
        assert (json.loads(error.removeprefix("data: "))["error"]["code"], done) == (
            "draining",
            "data: [DONE]",
        )
        assert (await whole).status_code == 503

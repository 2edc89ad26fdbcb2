"""Real processes: `quire serve` with the embedded model, seen from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
from collections.abc import AsyncIterator, Iterator

import httpx
import openai
import psutil
import pytest

from .quire_process import (
    QuireProcess,
    answer,
    answers,
    blocks_are_free,
    drop,
    metrics,
    question,
    stream,
    until,
)

NUM_CONTROLS = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuireProcess]:
    process = QuireProcess(tmp_path_factory.mktemp("server"), "--num-blocks", "1024")
    yield process
    process.stop()


@pytest.fixture
async def client(server: QuireProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A client; afterwards all blocks must be free and the engine the one it was."""
    async with server.client() as client:
        yield client
        await blocks_are_free(client)
    assert server.find_engine().pid == server.engine_pid


async def test_every_dialect_has_the_same_model(server: QuireProcess, client: httpx.AsyncClient) -> None:
    """One greedy answer in three dialects, its tokens and back, and embeddings of it."""
    (model,) = [entry["id"] for entry in (await client.get("/v1/models")).json()["data"]]
    messages = [{"role": "user", "content": "Hello!"}]

    async def post(path: str, **body: object) -> dict:
        response = await client.post(path, json={"model": model} | body)
        assert response.status_code == 200, response.text
        return response.json()

    chat = await post("/v1/chat/completions", messages=messages, max_tokens=24, temperature=0)
    text = chat["choices"][0]["message"]["content"]
    response = await post("/v1/responses", input="Hello!", max_output_tokens=24, temperature=0)
    assert response["output"][0]["content"][0]["text"] == text
    message = await post("/v1/messages", messages=messages, max_tokens=24, temperature=0)
    assert message["content"][0]["text"] == text
    counted = await post("/v1/messages/count_tokens", messages=messages)
    tokenized = await post("/tokenize", messages=messages)
    assert counted["input_tokens"] == tokenized["count"] == chat["usage"]["prompt_tokens"]
    tokens = (await post("/tokenize", prompt=text, add_special_tokens=False))["tokens"]
    assert (await post("/detokenize", tokens=tokens))["prompt"] == text

    texts = [text, "Something else.", text]
    first, other, again = (each["embedding"] for each in (await post("/v1/embeddings", input=texts))["data"])
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-5)
    expected = sum(x * y for x, y in zip(first, other, strict=True))
    (score,) = (await post("/score", text_1=text, text_2=texts[1]))["data"]
    assert score["score"] == pytest.approx(expected, abs=1e-3)
    assert sum(x * y for x, y in zip(first, again, strict=True)) == pytest.approx(1, abs=1e-3)


async def test_official_client(server: QuireProcess, client: httpx.AsyncClient) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as official:
        (model,) = [model.id async for model in official.models.list()]
        messages: list = [{"role": "user", "content": "Hello!"}]
        whole = await official.chat.completions.create(
            model=model, messages=messages, temperature=0, max_tokens=24, logprobs=True, top_logprobs=3
        )
        assert whole.choices[0].message.content
        assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
        assert all(len(entry.top_logprobs) == 3 for entry in whole.choices[0].logprobs.content)
        chunks = [
            chunk
            async for chunk in await official.chat.completions.create(
                model=model,
                messages=messages,
                temperature=0,
                max_tokens=24,
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
        joined = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert joined == whole.choices[0].message.content
        assert len(chunks) > 2  # deltas that wait together are joined
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


async def test_scoring_agrees_with_generating(client: httpx.AsyncClient) -> None:
    """The log-probabilities of an answer are those that `echo` gives for the same text."""
    body = {
        "prompt": "Once upon a time",
        "max_tokens": 8,
        "temperature": 0,
        "logprobs": 1,
        "return_token_ids": True,
    }
    made = (await client.post("/v1/completions", json=body)).json()["choices"][0]
    tokens = made["prompt_token_ids"] + made["token_ids"]
    body = {"prompt": tokens, "max_tokens": 0, "echo": True, "logprobs": 1}
    scored = (await client.post("/v1/completions", json=body)).json()["choices"][0]
    assert scored["text"] == "Once upon a time" + made["text"]
    last = scored["logprobs"]["token_logprobs"][-8:]
    assert last == pytest.approx(made["logprobs"]["token_logprobs"], abs=0.05)


async def test_what_the_engine_makes_of_the_parameters(client: httpx.AsyncClient) -> None:
    """Over HTTP and between processes: forbidden words, cut prompts, ranked choices, beams."""

    async def complete(**fields: object) -> list[dict]:
        body = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0, "return_token_ids": True}
        response = await client.post("/v1/completions", json=body | fields)
        assert response.status_code == 200, response.text
        return response.json()["choices"]

    (plain,) = await complete()
    word = max(plain["text"].split(), key=len)
    (without,) = await complete(bad_words=[word])
    assert word in plain["text"]
    assert word not in without["text"]

    (cut,) = await complete(truncate_prompt_tokens=3)
    assert len(cut["prompt_token_ids"]) == 3
    (same,) = await complete(prompt=cut["prompt_token_ids"])
    assert same["text"] == cut["text"]

    drawn = {"temperature": 1, "seed": 7, "ignore_eos": True}
    every = await complete(n=5, logprobs=0, **drawn)
    (best,) = await complete(best_of=5, **drawn)
    likeliest = max(every, key=lambda choice: statistics.mean(choice["logprobs"]["token_logprobs"]))
    assert best["token_ids"] == likeliest["token_ids"]

    beams = await complete(use_beam_search=True, n=3, ignore_eos=True)
    assert len({tuple(beam["token_ids"]) for beam in beams}) == 3
    assert {len(beam["token_ids"]) for beam in beams} == {12}
    (greedy,) = await complete(use_beam_search=True, ignore_eos=True)
    assert greedy["text"] == (await complete(ignore_eos=True))[0]["text"]


BAD_INPUTS: list[tuple[int, dict | bytes]] = [
    (400, b'{"prompt": "\xff"}'),
    (400, b'{"prompt": "\\ud800"}'),
    (400, b'{"prompt": ' + b"[" * 65 + b"]" * 65 + b"}"),
    (400, b"[" * 100_000),
    (400, b'{"prompt": "a", "temperature": NaN}'),
    (400, b'{"prompt": "a", "temperature": 1e999}'),
    (400, b'{"prompt": "a", "seed": ' + b"1" * 5000 + b"}"),
    (400, {"n": "1"}),
    (400, {"n": 10**9}),
    (400, {"best_of": 10**9}),
    (400, {"max_tokens": -1}),
    (400, {"max_tokens": 2**63}),
    (400, {"max_tokens": 0}),
    (400, {"prompt": "word " * 5000}),
    (400, {"prompt": [5] * 1024}),
    (400, {"logprobs": -1}),
    (400, {"logprobs": 10**6}),
    (400, {"temperature": 2.5}),
    (400, {"top_p": 0}),
    (400, {"presence_penalty": 3}),
    (400, {"prompt": [-1]}),
    (400, {"prompt": [10**6]}),
    (400, {"prompt": [2**63]}),
    (400, {"logit_bias": {"1000000": 1}}),
    (400, {"stop_token_ids": [10**6]}),
    (400, {"allowed_token_ids": [-1]}),
    (400, {"stop": [str(number) for number in range(10_000)]}),
    (400, {"stop": ""}),
    (400, {"prompt": ""}),
    (400, {"prompt": ["a"] * 2000}),
    (400, {"prompt": "a" * 15_000_000}),
    (404, {"model": "../x"}),
    (404, {"model": "a\0b"}),
    (413, b" " * 17_000_000),
]


async def send_bad_inputs(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    for status, body in BAD_INPUTS:
        content = body if isinstance(body, bytes) else json.dumps({"prompt": "a"} | body).encode()
        response = await client.post("/v1/completions", content=content, headers=headers)
        assert response.status_code == status, (body if len(content) < 200 else content[:80], response.text)
        assert response.json()["error"]["type"]
    assert (await client.get("/v1/models/%2e%2e")).status_code == 404


async def test_bad_inputs_disturb_nobody(server: QuireProcess, client: httpx.AsyncClient) -> None:
    numbers = range(NUM_CONTROLS)
    undisturbed = await answers(client, numbers, 200)
    await send_bad_inputs(client)  # once before measuring, for what is allocated once
    memory = psutil.Process(server.process.pid).memory_info().rss
    controls = asyncio.create_task(answers(client, numbers, 200))
    await send_bad_inputs(client)
    assert await controls == undisturbed
    await blocks_are_free(client)
    assert psutil.Process(server.process.pid).memory_info().rss - memory < 16 << 20


@pytest.mark.parametrize("num_clients", [100, pytest.param(1000, marks=pytest.mark.nightly)])
async def test_clients_that_disconnect_disturb_nobody(client: httpx.AsyncClient, num_clients: int) -> None:
    numbers = range(NUM_CONTROLS)
    undisturbed = await answers(client, numbers, 200)
    controls = asyncio.create_task(answers(client, numbers, 200))
    together = asyncio.Semaphore(100)

    async def come_and_go(number: int) -> None:
        async with together:
            await drop(client, question(number, 400), num_events=3)

    await asyncio.gather(*(come_and_go(1000 + number) for number in range(num_clients)))
    assert await controls == undisturbed


async def test_32_streams_among_200_passers_by(client: httpx.AsyncClient) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    streams = asyncio.create_task(answers(client, range(32), 120))

    async def pass_by(number: int, delay: float, patience: float) -> None:
        await asyncio.sleep(delay)
        body = question(2000 + number, 300) | {"stream": number % 2 == 0}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await client.post("/v1/chat/completions", json=body)

    await asyncio.gather(*(pass_by(n, rng.uniform(0, 4), rng.uniform(0, 2)) for n in range(200)))
    assert all(await streams), f"seed {seed}"


async def test_death_of_the_engine(tmp_path) -> None:
    """Every stream gets an error event, the server recovers, and no process is left behind."""
    server = QuireProcess(tmp_path, "--num-blocks", "1024")
    try:
        async with server.client() as client:
            last: list[list] = [[] for _ in range(32)]

            async def read(number: int) -> None:
                async for event in stream(client, question(number, 700)):
                    last[number] = [*last[number][-1:], event]

            before = await answer(client, question(1))
            streams = [asyncio.create_task(read(number)) for number in range(32)]
            await until(lambda: all(last), "all stream")
            server.find_engine().kill()

            async def is_ready() -> bool:
                return (await client.get("/ready")).status_code == 200

            async def is_not_ready() -> bool:
                return not await is_ready()

            await until(is_not_ready, "the server is not ready")
            assert (await client.get("/health")).status_code == 200
            await asyncio.gather(*streams)
            for error, done in last:
                assert error["error"]["code"] == "engine_died"
                assert done == "[DONE]"
            await until(is_ready, "the server is ready again")
            assert server.find_engine().pid != server.engine_pid
            assert await answer(client, question(1)) == before
            await blocks_are_free(client)
    finally:
        server.stop()  # kill -9 of the server: the engine must be gone, too
    assert not psutil.pid_exists(server.engine_pid)


async def test_oversubscription_and_drain(tmp_path) -> None:
    """Far more than the cache holds: the admitted get their answers, the excess gets 429.

    Then SIGTERM under the same load: nothing in flight is lost, new requests are refused, exit 0.
    """
    # 24 blocks of 16 tokens; each request ends with some 140 tokens, or 9 blocks.
    server = QuireProcess(tmp_path, "--num-blocks", "24", "--max-num-waiting", "16", "--max-model-len", "256")
    try:
        async with server.client() as client:
            # At most 8 run and 16 wait: however fast the engine is, half of these come too early.
            numbers = range(48)
            undisturbed: list[str] = []
            for start in range(0, len(numbers), 2):  # two of them fit
                undisturbed += await answers(client, numbers[start : start + 2], 120)
            assert (await metrics(client))["num_preemptions_total"] == 0
            refused = 0

            async def ask(number: int) -> str | None:
                nonlocal refused
                body = question(number, 120) | {"stream": False}
                while (response := await client.post("/v1/chat/completions", json=body)).status_code == 429:
                    assert response.json()["error"]["type"] == "overloaded"
                    assert int(response.headers["retry-after"]) >= 1
                    refused += 1
                    await asyncio.sleep(0.5)
                assert response.status_code == 200, response.text
                return response.json()["choices"][0]["message"]["content"]

            assert await asyncio.gather(*(ask(number) for number in numbers)) == undisturbed
            await blocks_are_free(client)
            figures = await metrics(client)
            assert refused > 0
            assert 0 < figures["num_preemptions_total"] <= 5 * len(numbers)

            before = figures["request_success_total"]
            running = asyncio.create_task(answers(client, range(14), 120))

            async def all_in() -> bool:
                figures = await metrics(client)
                in_flight = figures["num_requests_running"] + figures["num_requests_waiting"]
                return in_flight > 0 and in_flight + figures["request_success_total"] - before == 14

            await until(all_in, "all requests are in the engine")
            # Terminals and service managers signal the whole group, the engine's process included.
            os.killpg(server.process.pid, signal.SIGTERM)

            async def is_draining() -> bool:
                return (await client.get("/ready")).json().get("error", {}).get("type") == "draining"

            await until(is_draining, "the server drains")
            response = await client.post("/v1/chat/completions", json=question(1))
            assert (response.status_code, response.json()["error"]["type"]) == (503, "draining")
            assert await running == undisturbed[:14]
        assert await asyncio.to_thread(server.process.wait, 60) == 0
        assert not psutil.pid_exists(server.engine_pid)
    finally:
        server.stop()


async def test_the_live_view_shows_the_cache(client: httpx.AsyncClient) -> None:
    """What a watcher saw page by page is, in the end, what the metrics count."""
    pages = bytearray()
    seen: set[int] = set()
    async with client.stream("GET", "/engine/live") as response:
        lines = (line async for line in response.aiter_lines() if line)
        work: asyncio.Task[list[str]] | None = None
        async for line in lines:
            state = json.loads(line.removeprefix("data: "))
            for first, letters in state["pages"]:
                pages[first : first + len(letters)] = letters.encode()
                seen.update(pages)
            # A fast engine may be done between two reports: then it works again.
            unseen = work is not None and work.done() and not {*b"o"} & seen
            if len(pages) == 1024 and (work is None or unseen):
                work = asyncio.create_task(answers(client, range(40, 48), 200))
            idle = state["num_running"] == 0 and not {*b"os"} & {*pages}
            if work is not None and work.done() and idle:
                break
        assert work is not None
        await work
    assert {*b"foc"} <= seen
    counted = await metrics(client)
    assert pages.count(b"c") == counted["num_cached_kv_cache_blocks"]
    assert len(pages) == counted["num_kv_cache_blocks"]

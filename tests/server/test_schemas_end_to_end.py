"""Random JSON schemas over HTTP: every answer is valid, streamed or not, and under preemption."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import jsonschema
import pytest

from random_schemas import random_schema

from .quire_process import QuireProcess, blocks_are_free, metrics, stream

TEMPERATURES = (0, 1, 2)
AT_ONCE = 24
"""Requests at a time."""

SMALL_CACHE = ("--num-blocks", "80")
"""Of 16 tokens: a few answers fill it, and some must give way to others."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuireProcess]:
    process = QuireProcess(tmp_path_factory.mktemp("large"), "--num-blocks", "2048")
    yield process
    process.stop()


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuireProcess]:
    process = QuireProcess(tmp_path_factory.mktemp("crowded"), *SMALL_CACHE)
    yield process
    process.stop()


async def whole_answer(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[str, str]:
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    return choice["message"]["content"], choice["finish_reason"]


async def streamed_answer(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[str, str]:
    text, reason = "", ""
    async for event in stream(client, body | {"stream": True}):
        if isinstance(event, dict):
            (choice,) = event["choices"]
            text += choice["delta"].get("content", "")
            reason = choice["finish_reason"] or reason
    return text, reason


async def check(server: QuireProcess, seeds: Sequence[int]) -> dict[tuple[int, int], str]:
    """The answers by seed and temperature, each valid, and the same streamed and whole."""
    turn = asyncio.Semaphore(AT_ONCE)
    answers: dict[tuple[int, int], str] = {}

    async def ask(client: httpx.AsyncClient, seed: int, temperature: int) -> None:
        schema = random_schema(random.Random(seed))
        body = {
            "messages": [{"role": "user", "content": "Tell me about a person."}],
            "temperature": temperature,
            "seed": seed,
            "max_tokens": 900,
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
        }
        async with turn:
            # Whole and streamed at once, so that each runs in company.
            results = await asyncio.gather(whole_answer(client, body), streamed_answer(client, body))
        for text, reason in results:
            shown = f"seed {seed}, temperature {temperature}: {text!r} for {schema}"
            assert reason == "stop", shown
            try:
                jsonschema.validate(json.loads(text), schema)
            except (ValueError, jsonschema.ValidationError) as error:
                raise AssertionError(shown) from error
        assert results[0] == results[1], f"seed {seed}, temperature {temperature}"
        answers[seed, temperature] = results[0][0]

    async with server.client() as client:
        await asyncio.gather(*(ask(client, seed, each) for seed in seeds for each in TEMPERATURES))
        await blocks_are_free(client)
    assert len(answers) == len(seeds) * len(TEMPERATURES)
    return answers


async def check_both(server: QuireProcess, crowded: QuireProcess, seeds: range, num_crowded: int) -> None:
    answers = await check(server, seeds)
    again = await check(crowded, seeds[:num_crowded])
    assert again == {key: answers[key] for key in again}, "preemption changes nothing"
    async with crowded.client() as client:
        preemptions = (await metrics(client))["num_preemptions_total"]
    print(
        f"{len(answers)} answers, whole and streamed; {len(again)} again, with {preemptions:.0f} preemptions"
    )
    assert preemptions > 0


async def test_answers_to_random_schemas_are_valid(server: QuireProcess, crowded: QuireProcess) -> None:
    start = random.randrange(1 << 30)
    print(f"seeds from {start}")
    await check_both(server, crowded, range(start, start + 16), 12)


@pytest.mark.nightly
async def test_answers_to_500_random_schemas_are_valid(server: QuireProcess, crowded: QuireProcess) -> None:
    await check_both(server, crowded, range(500), 100)

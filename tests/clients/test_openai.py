"""OpenAI's own client against a real server: all of the surface, sync and async, whole and streamed."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from .conftest import KEY, POOR_KEY

HELLO: Any = [{"role": "user", "content": "Hello!"}]
STORY: Any = [{"role": "user", "content": "Tell me a story."}]
GREEDY: Any = {"model": "quire", "temperature": 0, "max_tokens": 24}


@pytest.fixture
def client(embedded: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{embedded}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
async def asynchronous(embedded: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{embedded}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "quire"
    assert client.models.retrieve("quire").created == model.created
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


# Completions


def test_completions(client: openai.OpenAI) -> None:
    whole = client.completions.create(**GREEDY, prompt="Once upon a time", logprobs=2)
    (choice,) = whole.choices
    assert choice.finish_reason in ("stop", "length")
    assert "".join(choice.logprobs.tokens).startswith(choice.text[:10])
    assert len(choice.logprobs.token_logprobs) == whole.usage.completion_tokens
    assert all(2 <= len(top) <= 3 for top in choice.logprobs.top_logprobs)
    chunks = list(
        client.completions.create(
            **GREEDY, prompt="Once upon a time", stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == choice.text
    assert chunks[-1].usage == whole.usage


def test_prompts_in_all_shapes(client: openai.OpenAI) -> None:
    scored = client.completions.create(
        model="quire",
        prompt="Hello there",
        max_tokens=0,
        echo=True,
        logprobs=0,
        extra_body={"return_token_ids": True},
    ).choices[0]
    assert scored.text == "Hello there"
    assert scored.logprobs.token_logprobs[0] is None
    ids = scored.model_extra["prompt_token_ids"]
    several = client.completions.create(**GREEDY, prompt=["Hello there", "Good day"], n=2, seed=1)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    for prompt in (ids, [ids, ids]):
        answer = client.completions.create(**GREEDY, prompt=prompt)
        assert {choice.text for choice in answer.choices} == {several.choices[0].text}
    best = client.completions.create(model="quire", prompt="Hello", best_of=3, seed=2, max_tokens=5)
    assert len(best.choices) == 1


# Chat


def test_chat(client: openai.OpenAI) -> None:
    parts: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello!"}]},
    ]
    for messages in (HELLO, parts):
        whole = client.chat.completions.create(**GREEDY, messages=messages, logprobs=True, top_logprobs=3)
        (choice,) = whole.choices
        assert choice.message.role == "assistant"
        assert choice.message.content
        assert len(choice.logprobs.content) == whole.usage.completion_tokens
        assert all(len(entry.top_logprobs) == 3 for entry in choice.logprobs.content)
        chunks = list(
            client.chat.completions.create(
                **GREEDY, messages=messages, stream=True, stream_options={"include_usage": True}
            )
        )
        assert chunks[0].choices[0].delta.role == "assistant"
        joined = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert joined == choice.message.content
        assert chunks[-2].choices[0].finish_reason == choice.finish_reason
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_usage_says_what_was_cached(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Tell me a long story about the moon. " * 8}]
    client.chat.completions.create(**GREEDY, messages=messages)
    usage = client.chat.completions.create(**GREEDY, messages=messages).usage
    assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens
    assert usage.completion_tokens_details.reasoning_tokens == 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_choices_seeds_and_stops(client: openai.OpenAI) -> None:
    drawn: Any = {
        "model": "quire",
        "messages": STORY,
        "temperature": 1.2,
        "n": 3,
        "seed": 7,
        "max_tokens": 12,
    }
    first = client.chat.completions.create(**drawn)
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) > 1
    assert [choice.message.content for choice in client.chat.completions.create(**drawn).choices] == texts
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**drawn, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts
    whole = client.chat.completions.create(**GREEDY, messages=STORY).choices[0].message.content
    word = whole.split()[2]
    stopped = client.chat.completions.create(**GREEDY, messages=STORY, stop=[word]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (whole[: whole.index(word)], "stop")
    limited = client.chat.completions.create(model="quire", messages=STORY, max_completion_tokens=3)
    assert (limited.choices[0].finish_reason, limited.usage.completion_tokens) == ("length", 3)


def test_the_clients_own_stream_helper(client: openai.OpenAI) -> None:
    arguments = GREEDY | {"messages": HELLO, "max_tokens": 200}  # the helper takes no answer that is cut off
    whole = client.chat.completions.create(**arguments).choices[0].message.content
    with client.chat.completions.stream(**arguments, logprobs=True) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == whole
    assert final.choices[0].logprobs.content


def test_parameters_of_vllm(client: openai.OpenAI) -> None:
    body: Any = {
        "top_k": 5,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "prompt_logprobs": 1,
        "structured_outputs": {"regex": "[a-f]{3}"},
        "return_token_ids": True,
    }
    answer = client.chat.completions.create(**GREEDY, messages=HELLO, extra_body=body)
    assert set(answer.choices[0].message.content) <= set("abcdef")
    assert len(answer.model_extra["prompt_logprobs"]) == answer.usage.prompt_tokens
    chunks = list(client.chat.completions.create(**GREEDY, messages=HELLO, extra_body=body, stream=True))
    assert chunks[0].model_extra["prompt_logprobs"] == answer.model_extra["prompt_logprobs"]
    assert chunks[0].model_extra["prompt_token_ids"] == answer.model_extra["prompt_token_ids"]


async def test_many_at_once(asynchronous: openai.AsyncOpenAI) -> None:
    async def whole(number: int) -> str:
        messages: Any = [{"role": "user", "content": f"Tell me story number {number}."}]
        answer = await asynchronous.chat.completions.create(**GREEDY, messages=messages)
        return answer.choices[0].message.content

    async def streamed(number: int) -> str:
        messages: Any = [{"role": "user", "content": f"Tell me story number {number}."}]
        stream = await asynchronous.chat.completions.create(**GREEDY, messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert await asyncio.gather(*map(whole, range(8))) == await asyncio.gather(*map(streamed, range(8)))
    (model,) = [model.id async for model in asynchronous.models.list()]
    assert model == "quire"


# Forms


class Pet(BaseModel):
    name: str = Field(max_length=8)
    kind: Literal["cat", "dog"]


class Person(BaseModel):
    name: str = Field(max_length=8)
    age: int = Field(ge=0, le=120)
    pets: list[Pet] = Field(max_length=2)


@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_parse(client: openai.OpenAI, temperature: float) -> None:
    arguments: Any = {"model": "quire", "messages": HELLO, "temperature": temperature, "seed": 3}
    whole = client.chat.completions.parse(**arguments, response_format=Person)
    assert isinstance(whole.choices[0].message.parsed, Person)
    with client.chat.completions.stream(**arguments, response_format=Person) as stream:
        final = stream.get_final_completion().choices[0].message
    assert final.parsed == whole.choices[0].message.parsed
    assert final.content == whole.choices[0].message.content
    response = client.responses.parse(
        model="quire", input="Hello!", temperature=temperature, text_format=Person
    )
    assert isinstance(response.output_parsed, Person)


def test_json_mode(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        **GREEDY | {"max_tokens": 200}, messages=HELLO, response_format={"type": "json_object"}
    ).choices[0]
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content), dict)
    assert answer.message.content.startswith("{")


# Embeddings


def test_embeddings(client: openai.OpenAI) -> None:
    texts = ["Hello!", "Good day!"]
    # The client asks for base64 unless told otherwise, and decodes it.
    packed = client.embeddings.create(model="quire", input=texts)
    plain = client.embeddings.create(model="quire", input=texts, encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    raw = client.embeddings.create(model="quire", input=texts, encoding_format="base64")
    data = base64.b64decode(raw.data[0].embedding)
    assert list(struct.unpack(f"<{len(data) // 4}f", data)) == packed.data[0].embedding
    assert packed.usage.total_tokens > 0


# Responses


def test_responses(client: openai.OpenAI) -> None:
    arguments: Any = {"model": "quire", "temperature": 0, "max_output_tokens": 24}
    first = client.responses.create(
        **arguments, input="Hello!", include=["message.output_text.logprobs"], top_logprobs=2
    )
    text = first.output[0].content[0]
    assert text.text == first.output_text
    assert "".join(entry.token for entry in text.logprobs) == first.output_text
    assert all(len(entry.top_logprobs) == 2 for entry in text.logprobs)
    with client.responses.stream(**arguments, input="Hello!") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == first.output_text
    assert final.usage.output_tokens == first.usage.output_tokens
    second = client.responses.create(
        **arguments, input=[{"role": "user", "content": "And now?"}], previous_response_id=first.id
    )
    assert second.usage.input_tokens > first.usage.input_tokens
    assert client.responses.retrieve(second.id).output_text == second.output_text
    background = client.responses.create(**arguments, input="Hello!", background=True)
    assert client.responses.cancel(background.id).status in ("cancelled", "completed", "incomplete")
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


# Errors


def test_errors_have_the_clients_classes(client: openai.OpenAI, embedded: str) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as bad:
        create(model="quire", messages=HELLO, temperature=9)
    assert (bad.value.param, bad.value.type, bad.value.status_code) == (
        "temperature",
        "invalid_request_error",
        400,
    )
    with pytest.raises(openai.BadRequestError) as long:
        create(model="quire", messages=[{"role": "user", "content": "word " * 2000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="stream_options"):
        create(model="quire", messages=HELLO, stream_options={"include_usage": True})
    with pytest.raises(openai.NotFoundError) as missing:
        create(model="other", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-wrong-0123456789").models.list()
    with pytest.raises(openai.APIStatusError) as large:
        create(model="quire", messages=[{"role": "user", "content": "a" * 17_000_000}])
    assert large.value.status_code == 413
    poor = client.with_options(api_key=POOR_KEY)
    poor.completions.create(model="quire", prompt="Hello", max_tokens=1)
    with pytest.raises(openai.RateLimitError) as limited:
        poor.completions.create(model="quire", prompt="Hello", max_tokens=1)
    assert int(limited.value.response.headers["retry-after"]) >= 1
    raw = client.chat.completions.with_raw_response.create(**GREEDY, messages=HELLO)
    assert raw.headers["x-request-id"]
    assert raw.parse().choices[0].message.content

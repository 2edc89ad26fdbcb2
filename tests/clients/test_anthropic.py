"""Anthropic's own client against a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel, Field

from .conftest import KEY

HELLO: Any = [{"role": "user", "content": "Hello!"}]
# The newest of these clients have no argument for the temperature.
GREEDY: Any = {"model": "quire", "max_tokens": 24, "messages": HELLO, "extra_body": {"temperature": 0}}
WEATHER: Any = {
    "name": "get_weather",
    "description": "Rain or shine",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 10}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def connect(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0)


@pytest.fixture
def client(embedded: str) -> Iterator[anthropic.Anthropic]:
    with connect(embedded) as client:
        yield client


@pytest.fixture
async def asynchronous(embedded: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=embedded, api_key=KEY, max_retries=0) as client:
        yield client


def test_messages(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**GREEDY, system="Be brief.")
    (block,) = whole.content
    assert block.type == "text"
    assert block.text
    assert whole.stop_reason in ("end_turn", "max_tokens")
    with client.messages.stream(**GREEDY, system="Be brief.") as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == block.text
    assert final.usage.output_tokens == whole.usage.output_tokens
    counted = client.messages.count_tokens(model="quire", messages=HELLO, system="Be brief.")
    usage = whole.usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
    word = block.text.split()[1]
    stopped = client.messages.create(**GREEDY, system="Be brief.", stop_sequences=[word])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)
    begun = [*HELLO, {"role": "assistant", "content": block.text[:5]}]
    assert client.messages.create(**GREEDY | {"messages": begun}).content


async def test_asynchronous(asynchronous: anthropic.AsyncAnthropic) -> None:
    whole = await asynchronous.messages.create(**GREEDY)
    async with asynchronous.messages.stream(**GREEDY) as stream:
        assert "".join([text async for text in stream.text_stream]) == whole.content[0].text
    events = [event.type async for event in await asynchronous.messages.create(**GREEDY, stream=True)]
    assert events[0] == "message_start"
    assert events[-2:] == ["message_delta", "message_stop"]


class Person(BaseModel):
    name: str = Field(max_length=8)
    is_tall: bool


def test_forms(client: anthropic.Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "is_tall": {"type": "boolean"}},
        "required": ["name", "is_tall"],
        "additionalProperties": False,
    }
    form: Any = {"format": {"type": "json_schema", "schema": schema}}
    answer = client.messages.create(**GREEDY | {"max_tokens": 100}, output_config=form)
    Person(**json.loads(answer.content[0].text))


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_demanded_calls(caller: str, choice: Any) -> None:
    arguments = GREEDY | {
        "max_tokens": 100,
        "tools": [WEATHER],
        "tool_choice": choice | {"disable_parallel_tool_use": True},
    }
    with connect(caller) as client:
        whole = client.messages.create(**arguments)
        (call,) = [block for block in whole.content if block.type == "tool_use"]
        assert whole.stop_reason == "tool_use"
        assert set(call.input) == {"city"}
        with client.messages.stream(**arguments) as stream:
            final = stream.get_final_message()
        (streamed,) = [block for block in final.content if block.type == "tool_use"]
        assert streamed.input == call.input
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain."}
        turns = [
            *HELLO,
            {"role": "assistant", "content": whole.content},
            {"role": "user", "content": [result]},
        ]
        assert client.messages.create(**GREEDY | {"messages": turns}, tools=[WEATHER])
        assert client.messages.count_tokens(model="quire", messages=turns, tools=[WEATHER]).input_tokens > 0


def test_thoughts_words_and_calls(thinker: str) -> None:
    for strict in (True, False):
        arguments = GREEDY | {"max_tokens": 200, "tools": [WEATHER | {"strict": strict}]}
        with connect(thinker) as client:
            whole = client.messages.create(**arguments)
            with client.messages.stream(**arguments) as stream:
                streamed = stream.get_final_message()
        for message in (whole, streamed):
            thoughts, words, call = message.content
            assert thoughts.thinking == "I need the weather."
            assert words.text == "One moment."
            assert (call.name, call.input) == ("get_weather", {"city": "Bonn }"})
            assert message.stop_reason == "tool_use"


def test_errors_have_the_clients_classes(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        client.messages.create(**GREEDY | {"extra_body": {"temperature": 9}})
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**GREEDY | {"model": "other"})
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="sk-wrong-0123456789").messages.create(**GREEDY)

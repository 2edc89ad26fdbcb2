"""OpenAI's own client and tools, in each of the formats that models write calls in."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from .conftest import KEY

HELLO: Any = [{"role": "user", "content": "What is the weather in Bonn?"}]
DRAWN: Any = {"model": "quire", "messages": HELLO, "temperature": 1, "seed": 5}


class GetWeather(BaseModel):
    """Rain or shine."""

    city: str = Field(max_length=10)
    unit: Literal["celsius", "kelvin"]


class GetTime(BaseModel):
    """The time."""

    zone: int = Field(ge=-12, le=12)


TOOLS: Any = [openai.pydantic_function_tool(GetWeather), openai.pydantic_function_tool(GetTime)]
CLASSES: dict[str, Callable[..., BaseModel]] = {"GetWeather": GetWeather, "GetTime": GetTime}
NAMED: Any = {"type": "function", "function": {"name": "GetTime"}}


def weather(*, strict: bool = False) -> dict[str, Any]:
    """The function that the thinking model calls."""
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": "get_weather", "strict": strict, "parameters": parameters},
    }


def connect(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
@pytest.mark.parametrize("temperature", [0, 2])
def test_demanded_calls(caller: str, choice: Any, temperature: float) -> None:
    arguments = DRAWN | {
        "tools": TOOLS,
        "tool_choice": choice,
        "temperature": temperature,
        "parallel_tool_calls": False,
    }
    with connect(caller) as client:
        (whole,) = client.chat.completions.parse(**arguments).choices
        assert whole.finish_reason == ("tool_calls" if choice == "required" else "stop")
        (call,) = whole.message.tool_calls
        assert isinstance(call.function.parsed_arguments, tuple(CLASSES.values()))
        assert choice == "required" or call.function.name == "GetTime"
        with client.chat.completions.stream(**arguments) as stream:
            events = list(stream)
            (final,) = stream.get_final_completion().choices
        deltas = [
            event.arguments_delta for event in events if event.type == "tool_calls.function.arguments.delta"
        ]
        assert "".join(deltas) == call.function.arguments
        (streamed,) = final.message.tool_calls
        assert (streamed.function.name, streamed.function.parsed_arguments) == (
            call.function.name,
            call.function.parsed_arguments,
        )
        results = [{"role": "tool", "tool_call_id": call.id, "content": "fine"}]
        again = client.chat.completions.create(
            **DRAWN | {"messages": [*HELLO, whole.message, *results], "tools": TOOLS, "max_tokens": 8}
        )
        assert again.choices


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_demanded_calls_of_a_model_that_thinks(thinker: str, choice: Any) -> None:
    arguments: Any = {"model": "quire", "messages": HELLO, "tools": [weather()], "temperature": 0}
    with connect(thinker) as client:
        (whole,) = client.chat.completions.create(**arguments, tool_choice=choice).choices
        with client.chat.completions.stream(**arguments, tool_choice=choice) as stream:
            (streamed,) = stream.get_final_completion().choices
    for got in (whole, streamed):
        assert got.finish_reason == ("tool_calls" if choice == "required" else "stop")
        assert got.message.model_extra["reasoning"] == "I need the weather."
        (call,) = got.message.tool_calls
        assert set(json.loads(call.function.arguments)) == {"city"}


def test_strict_tools_hold_if_a_call_is_made(caller: str) -> None:
    """A model that has not learnt to call may do so by chance: what comes then fits all the same."""
    with connect(caller) as client:
        for seed in range(2):
            arguments = DRAWN | {"tools": TOOLS, "temperature": 2, "seed": seed, "max_tokens": 60, "n": 4}
            for choice in client.chat.completions.create(**arguments).choices:
                if choice.finish_reason == "tool_calls":
                    for call in choice.message.tool_calls:
                        CLASSES[call.function.name](**json.loads(call.function.arguments))


def test_calls_in_the_responses_api(caller: str) -> None:
    tools: Any = [
        {
            "type": "function",
            "name": "GetTime",
            "parameters": TOOLS[1]["function"]["parameters"],
            "strict": True,
        }
    ]
    arguments: Any = {"model": "quire", "input": "What is the time?", "tools": tools, "temperature": 0}
    with connect(caller) as client:
        response = client.responses.create(**arguments, tool_choice="required", parallel_tool_calls=False)
        (call,) = [item for item in response.output if item.type == "function_call"]
        GetTime(**json.loads(call.arguments))
        with client.responses.stream(
            **arguments, tool_choice="required", parallel_tool_calls=False
        ) as stream:
            final = stream.get_final_response()
        (streamed,) = [item for item in final.output if item.type == "function_call"]
        assert streamed.arguments == call.arguments
        answer = {"type": "function_call_output", "call_id": call.call_id, "output": "noon"}
        after = client.responses.create(
            **arguments | {"input": [answer], "previous_response_id": response.id}, max_output_tokens=8
        )
        assert after.output


def check_thoughts_words_and_calls(url: str, *, strict: bool) -> None:
    tools = [weather(strict=strict)]
    arguments: Any = {"model": "quire", "messages": HELLO, "tools": tools, "temperature": 0}
    with connect(url) as client:
        (whole,) = client.chat.completions.create(**arguments).choices
        with client.chat.completions.stream(**arguments) as stream:
            (streamed,) = stream.get_final_completion().choices
        for choice in (whole, streamed):
            assert choice.finish_reason == "tool_calls"
            assert choice.message.content == "One moment."
            assert choice.message.model_extra["reasoning"] == "I need the weather."
            (call,) = choice.message.tool_calls
            assert json.loads(call.function.arguments) == {"city": "Bonn }"}


@pytest.mark.parametrize("strict", [True, False])
def test_thoughts_words_and_calls(thinker: str, strict: bool) -> None:
    """A model that calls of its own accord, held to a schema that its call fits, or not held."""
    check_thoughts_words_and_calls(thinker, strict=strict)


def test_thoughts_words_and_calls_in_harmony(harmonist: str) -> None:
    check_thoughts_words_and_calls(harmonist, strict=False)


def test_thoughts_leave_room_for_what_must_follow(rambler: str) -> None:
    """Arguments and forms are whole, though the model would think on, or write, to its last token."""
    arguments: Any = {"model": "quire", "messages": HELLO, "temperature": 0}
    open_schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}}
    tool: Any = {"type": "function", "function": {"name": "get_weather", "parameters": open_schema}}
    with connect(rambler) as client:
        for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
            answer = client.chat.completions.create(
                **arguments, tools=[tool], tool_choice=choice, parallel_tool_calls=False
            ).choices[0]
            (call,) = answer.message.tool_calls
            assert set(json.loads(call.function.arguments)) <= {"city"}
        (parsed,) = client.chat.completions.parse(**arguments, response_format=GetTime).choices
        assert isinstance(parsed.message.parsed, GetTime)


def test_thoughts_keep_to_their_budget(rambler: str) -> None:
    with connect(rambler) as client:
        answer = client.chat.completions.create(
            model="quire",
            messages=HELLO,
            temperature=0,
            max_tokens=60,
            extra_body={"thinking_token_budget": 20},
        )
    marks = len("<think></think>")
    assert 20 <= answer.usage.completion_tokens_details.reasoning_tokens <= 20 + marks
    assert answer.choices[0].message.content


def test_a_form_that_the_model_thinks_about_first(thinker: str) -> None:
    """The thoughts are free, and the answer has the form."""
    with connect(thinker) as client:
        (choice,) = client.chat.completions.parse(
            model="quire", messages=HELLO, temperature=0, response_format=GetTime
        ).choices
        assert isinstance(choice.message.parsed, GetTime)
        assert choice.message.model_extra["reasoning"] == "I need the weather."

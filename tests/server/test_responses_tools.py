"""Calls and reasoning in the responses API."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from .conftest import Served, serve_in_process, serve_on_port
from .fake_engine import FakeEngine
from .test_anthropic_tools import ANSWER, SCHEMA, TEMPLATE
from .test_responses import create, ended, post, prompt, stream

WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Rain or shine",
    "parameters": SCHEMA,
    "strict": False,
}
TIME: dict[str, Any] = {"type": "function", "name": "get_time"}
ITEMS = [
    {
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "He asks about Bonn."}],
    },
    {
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Let me look.", "annotations": [], "logprobs": []}],
    },
    {
        "type": "function_call",
        "status": "completed",
        "name": "get_weather",
        "arguments": {"city": 'Bonn "}{🌧'},
    },
    {"type": "function_call", "status": "completed", "name": "get_time", "arguments": {}},
]


def engine(script: str = ANSWER) -> FakeEngine:
    return FakeEngine(max_model_len=4096, template=TEMPLATE, script=[script])


def plain(items: list[dict]) -> list[dict]:
    """Items without ids, arguments read."""
    found = [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in items]
    for item in found:
        if "arguments" in item:
            item["arguments"] = json.loads(item["arguments"])
    return found


async def test_items() -> None:
    async with serve_in_process(engine()) as served:
        response = await create(served, tools=[WEATHER, TIME])
        shown = {"name": "get_weather", "description": "Rain or shine", "parameters": SCHEMA}
        assert json.dumps(shown) in prompt(served)
        untooled = await create(served)
    assert plain(response["output"]) == ITEMS
    assert len({item["id"] for item in response["output"]}) == 4
    assert len({item["call_id"] for item in response["output"][2:]}) == 2
    assert (response["status"], response["tool_choice"], response["parallel_tool_calls"]) == (
        "completed",
        "auto",
        True,
    )
    assert response["tools"][0] == WEATHER
    thoughts = ">\nHe asks about Bonn.\n</think>"  # the tag is one when its last byte is there
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == len(thoughts)
    assert [item["type"] for item in untooled["output"]] == ["reasoning", "message"]


async def test_order_of_events() -> None:
    async with serve_in_process(engine()) as served:
        first, second, *events, last = await stream(served, tools=[WEATHER, TIME])
    assert [first["type"], second["type"]] == ["response.created", "response.in_progress"]
    assert last["type"] == "response.completed"
    assert plain(last["response"]["output"]) == ITEMS
    done: list[dict] = []
    order: list[list[str]] = []
    joined = ""
    for event in events:
        kind = event["type"].removeprefix("response.")
        assert event["output_index"] == len(done)
        if kind == "output_item.added":
            order.append([])
            joined = ""
            assert event["item"]["status"] == "in_progress"
            assert not event["item"].get("content") and not event["item"].get("arguments")  # noqa: PT018
        if not order[-1] or order[-1][-1] != kind:
            order[-1].append(kind)
        if kind.endswith("delta"):
            joined += event["delta"]
        elif kind.endswith(("text.done", "arguments.done")):
            assert joined == event.get("text", event.get("arguments"))
        elif kind == "output_item.done":
            done.append(event["item"])
        if "item_id" in event:
            assert event["item_id"] == last["response"]["output"][event["output_index"]]["id"]
    assert done == last["response"]["output"]

    def of_text(name: str) -> list[str]:
        parts = ["content_part.added", f"{name}.delta", f"{name}.done", "content_part.done"]
        return ["output_item.added", *parts, "output_item.done"]

    name = "function_call_arguments"
    call = ["output_item.added", f"{name}.delta", f"{name}.done", "output_item.done"]
    assert order == [of_text("reasoning_text"), of_text("output_text"), call, call]


async def test_official_client() -> None:
    async with (
        serve_on_port(engine()) as (served, _),
        openai.AsyncOpenAI(base_url=f"{served.client.base_url}/v1", api_key="none") as client,
    ):
        asked: dict[str, Any] = {"model": "fake", "tools": [WEATHER, TIME]}
        whole = await client.responses.create(**asked, input="The weather in Bonn?")
        async with client.responses.stream(**asked, input="The weather in Bonn?") as events:
            final = await events.get_final_response()
        for response in (whole, final):
            reasoning, message, *calls = response.output
            assert reasoning.content[0].text == "He asks about Bonn."
            assert message.content[0].text == response.output_text == "Let me look."
            assert [(call.name, json.loads(call.arguments)) for call in calls] == [
                (item["name"], item["arguments"]) for item in ITEMS[2:]
            ]
        results = [
            {"type": "function_call_output", "call_id": item.call_id, "output": "rain"}
            for item in whole.output[2:]
        ]
        await client.responses.create(**asked, previous_response_id=whole.id, input=results)
        remembered = prompt(served)
        assert "[assistant]Let me look.(He asks about Bonn.)<tool_call>" in remembered
        assert remembered.endswith("[tool]rain=get_weather\n[tool]rain=get_time\n[assistant]")
        sent: list[Any] = [{"role": "user", "content": "The weather in Bonn?"}]
        for final_item in whole.output:
            sent.append(final_item.model_dump(exclude_none=True))
        await client.responses.create(**asked, input=[*sent, *results])
        assert prompt(served) == remembered


async def test_background() -> None:
    async with serve_in_process(engine()) as served:
        queued = await create(served, tools=[WEATHER, TIME], background=True)
        assert plain((await ended(served, queued["id"]))["output"]) == ITEMS


async def test_strict_functions_are_held_to_their_form() -> None:
    async with serve_in_process(engine()) as served:
        response = await create(served, tools=[WEATHER | {"strict": True}, TIME])
        assert plain(response["output"]) == ITEMS
        assert '"required": ["city"]' in served.engine.seen[0][1].structured_outputs.grammar


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_time"}])
async def test_demanded_calls_are_held_to_their_form(choice: object) -> None:
    script = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    async with serve_in_process(engine(script)) as served:
        response = await create(served, tools=[WEATHER, TIME], tool_choice=choice)
        assert plain(response["output"]) == ITEMS[3:]
        assert response["tool_choice"] == choice
        assert served.engine.seen[0][1].structured_outputs is not None


async def test_what_is_cut_off_is_incomplete() -> None:
    async with serve_in_process(engine()) as served:
        for limit, kind in ((20, "reasoning"), (50, "message"), (140, "function_call")):
            response = await create(served, tools=[WEATHER, TIME], max_output_tokens=limit)
            last = response["output"][-1]
            assert (response["status"], last["type"], last["status"]) == ("incomplete", kind, "incomplete")
            assert all(item["status"] == "completed" for item in response["output"][:-1])


async def refused(served: Served, **body: object) -> str:
    response = await post(served, **body)
    assert response.status_code == 400, response.text
    return response.json()["error"]["param"]


async def test_refusals() -> None:
    async with serve_in_process(engine()) as served:
        assert await refused(served, tools=[{"type": "web_search"}]) == "tools[0].type"
        bad = WEATHER | {"strict": True, "parameters": {"properties": 1}}
        assert await refused(served, tools=[bad]) == "tools[0].parameters.properties"
        assert await refused(served, tools=[WEATHER], tool_choice={"type": "function", "name": "x"}) == (
            "tool_choice"
        )
        assert await refused(served, tool_choice="required") == "tool_choice"
        assert await refused(served, parallel_tool_calls=False) == "parallel_tool_calls"
        assert served.engine.seen == []
        await create(served, tools=[], tool_choice="auto", parallel_tool_calls=True)

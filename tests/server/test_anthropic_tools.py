"""Tools and thinking in Anthropic's form."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from .conftest import Served, serve_in_process, serve_on_port
from .fake_engine import FakeEngine
from .test_anthropic import error_of, post, prompt, stream_events

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {"name": "get_weather", "description": "Rain or shine", "input_schema": SCHEMA}
TIME: dict[str, Any] = {"name": "get_time", "input_schema": {"type": "object"}}
TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool.function | tojson }}{% endfor %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}"
    "{% for call in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>'
    "{% endfor %}{% if m.role == 'tool' %}={{ m.name }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
    "{% if enable_thinking %}<think>{% elif enable_thinking is false %}<think></think>{% endif %}"
)
ANSWER = (
    "<think>\nHe asks about Bonn.\n</think>\n\nLet me look.\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bonn \\"}{🌧"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
)
BLOCKS = [
    {"type": "thinking", "thinking": "He asks about Bonn.", "signature": ""},
    {"type": "text", "text": "Let me look.", "citations": None},
    {"type": "tool_use", "name": "get_weather", "input": {"city": 'Bonn "}{🌧'}},
    {"type": "tool_use", "name": "get_time", "input": {}},
]


def engine(script: str = ANSWER) -> FakeEngine:
    return FakeEngine(max_model_len=4096, template=TEMPLATE, script=[script])


async def ask(served: Served, **body: object) -> dict:
    response = await post(served, **{"max_tokens": 1000, "tools": [WEATHER, TIME]} | body)
    assert response.status_code == 200, response.text
    return response.json()


def without_ids(blocks: list[dict]) -> list[dict]:
    return [{name: value for name, value in block.items() if name != "id"} for block in blocks]


async def test_whole_answer() -> None:
    async with serve_in_process(engine()) as served:
        answer = await ask(served)
        shown = {"name": "get_weather", "description": "Rain or shine", "parameters": SCHEMA}
        assert json.dumps(shown) in prompt(served)
        assert len({block["id"] for block in answer["content"][2:]}) == 2
        assert without_ids(answer["content"]) == BLOCKS
        assert (answer["stop_reason"], answer["stop_sequence"]) == ("tool_use", None)
        untooled = await ask(served, tools=None)
        assert [block["type"] for block in untooled["content"]] == ["thinking", "text"]
        assert untooled["stop_reason"] == "end_turn"


async def test_what_holds_the_sampler() -> None:
    """Strict tools, demanded ones, and the form of an answer."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"output_config": {"format": {"type": "json_schema", "schema": schema}}, "tools": None}
    async with serve_in_process(engine()) as served:
        for body in ({"tools": [WEATHER | {"strict": True}]}, {"tool_choice": {"type": "any"}}):
            await ask(served, **body)
            assert '"required": ["city"]' in served.engine.seen[-1][1].structured_outputs.grammar
        await ask(served, **form)
        assert json.loads(served.engine.seen[-1][1].structured_outputs.json) == schema
        form["output_config"]["format"]["schema"] = {"not": {}}
        message = error_of(await post(served, **form), 400)["message"]
        assert message.startswith("output_config.format: the schema cannot be honoured")


async def test_order_of_events() -> None:
    async with serve_in_process(engine()) as served:
        found = stream_events((await post(served, max_tokens=1000, tools=[WEATHER, TIME], stream=True)).text)
    blocks: list[dict] = []
    inputs: dict[int, str] = {}
    is_open = False
    for event in found[2:-2]:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(blocks)
                blocks.append(event["content_block"])
                is_open = True
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(blocks) - 1
                delta = event["delta"]
                kind = {
                    "text": "text_delta",
                    "tool_use": "input_json_delta",
                    "thinking": "signature_delta" if "signature" in delta else "thinking_delta",
                }[blocks[-1]["type"]]
                assert delta["type"] == kind
                if kind == "input_json_delta":
                    inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
                elif kind != "signature_delta":
                    blocks[-1][blocks[-1]["type"]] += delta[blocks[-1]["type"]]
            case "content_block_stop":
                assert is_open
                assert event["index"] == len(blocks) - 1
                is_open = False
            case other:
                raise AssertionError(other)
    assert not is_open
    for index, text in inputs.items():
        blocks[index]["input"] = json.loads(text)
    assert without_ids(blocks) == BLOCKS
    assert found[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


async def test_official_client() -> None:
    async with (
        serve_on_port(engine()) as (served, _),
        anthropic.AsyncAnthropic(
            base_url=str(served.client.base_url), api_key="none", max_retries=0
        ) as client,
    ):
        asked: dict[str, Any] = {
            "model": "fake",
            "max_tokens": 1000,
            "tools": [WEATHER, TIME],
            "messages": [{"role": "user", "content": "The weather in Bonn?"}],
        }
        whole = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            final = await stream.get_final_message()
        for message in (whole, final):
            thinking, text, *calls = message.content
            assert (thinking.thinking, text.text) == ("He asks about Bonn.", "Let me look.")
            assert [(call.name, call.input) for call in calls] == [
                (block["name"], block["input"]) for block in BLOCKS[2:]
            ]
            assert message.stop_reason == "tool_use"
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": "rain"} for call in whole.content[2:]
        ]
        asked["messages"] += [
            {"role": "assistant", "content": whole.content},
            {"role": "user", "content": results},
        ]
        await client.messages.create(**asked)
        text = prompt(served)
        assert "(He asks about Bonn.)" in text
        assert "[assistant]Let me look." in text
        assert text.endswith("[tool]rain=get_weather\n[tool]rain=get_time\n[assistant]")


async def test_results_of_tools() -> None:
    use = {"type": "tool_use", "id": "a", "name": "get_time", "input": {}}
    async with serve_in_process(engine()) as served:
        await ask(
            served,
            messages=[
                {"role": "user", "content": "When?"},
                {"role": "assistant", "content": [use]},
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "a",
                            "is_error": True,
                            "content": [{"type": "text", "text": "no"}, {"type": "text", "text": "clock"}],
                        },
                        {"type": "text", "text": "Guess."},
                    ],
                },
            ],
        )
        assert prompt(served).endswith("[tool]Error: no\nclock=get_time\n[user]Guess.\n[assistant]")


@pytest.mark.parametrize("kind", ["any", "tool"])
async def test_demanded_calls_are_held_to_their_form(kind: str) -> None:
    async with serve_in_process(
        engine('<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>')
    ) as served:
        choice = {"type": kind} | ({"name": "get_time"} if kind == "tool" else {})
        answer = await ask(served, tool_choice=choice)
        assert answer["stop_reason"] == "tool_use"
        assert served.engine.seen[0][1].structured_outputs is not None


async def test_no_tools_are_shown_when_none_may_be_called() -> None:
    async with serve_in_process(engine("Well.")) as served:
        await ask(served, tool_choice={"type": "none"})
        assert "get_weather" not in prompt(served)


async def test_a_call_that_was_cut_off_is_left_out() -> None:
    async with serve_in_process(
        engine('Hm.\n<tool_call>\n{"name": "get_weather", "arguments": {"ci')
    ) as served:
        answer = await ask(served, max_tokens=58)
        assert [block["type"] for block in answer["content"]] == ["text"]


async def test_tokens_of_tools_are_counted() -> None:
    async with serve_in_process(engine()) as served:
        counted = (await post(served, "/v1/messages/count_tokens", tools=[WEATHER])).json()
        await ask(served, tools=[WEATHER])
        assert counted == {"input_tokens": len(served.engine.seen[0][0])}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"tools": [{"name": "f f", "input_schema": {}}]}, "name"),
        ({"tools": [{"name": "f"}]}, "input_schema"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "bash_20250124"),
        ({"tools": [WEATHER | {"strict": True, "input_schema": {"properties": 1}}]}, "properties"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tool_choice": {"type": "any", "name": "get_time"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "other"}}, "other"),
        ({"tools": None, "tool_choice": {"type": "any"}}, "tool_choice"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]}
                ]
            },
            "tool_use",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]},
            "tool_result",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}],
                    }
                ]
            },
            "calls",
        ),
    ],
)
async def test_refusals(body: dict, named: str) -> None:
    async with serve_in_process(engine()) as served:
        error = error_of(await post(served, **{"tools": [WEATHER, TIME]} | body), 400)
        assert named in error["message"]
        assert served.engine.seen == []


async def test_thinking_has_a_budget() -> None:
    def thinking(**fields: object) -> dict:
        return {"thinking": fields, "tools": None}

    async with serve_in_process(engine(ANSWER.removeprefix("<think>"))) as served:
        answer = await ask(served, **thinking(type="enabled", budget_tokens=500))
        assert answer["content"][0]["thinking"] == "He asks about Bonn."
        assert "max_tokens=500" in served.engine.seen[-1][1].structured_outputs.grammar
        assert prompt(served).endswith("[assistant]<think>")
        await ask(served, **thinking(type="adaptive"))
        assert served.engine.seen[-1][1].structured_outputs is None
        for fields in (
            {"type": "enabled"},
            {"type": "enabled", "budget_tokens": 0},
            {"type": "enabled", "budget_tokens": 1000},  # as many as the answer may have
            {"type": "disabled", "budget_tokens": 500},
        ):
            error = error_of(await post(served, max_tokens=1000, **thinking(**fields)), 400)
            assert "thinking.budget_tokens" in error["message"]
    async with serve_in_process(FakeEngine(max_model_len=4096)) as served:
        error = error_of(
            await post(served, max_tokens=1000, **thinking(type="enabled", budget_tokens=9)), 400
        )
        assert "not known to think" in error["message"]


async def test_thinking_can_be_disabled_where_the_template_can() -> None:
    off = {"thinking": {"type": "disabled"}}
    async with serve_in_process(engine("Well.")) as served:
        await ask(served, **off)
        assert prompt(served).endswith("[assistant]<think></think>")
        counted = (await post(served, "/v1/messages/count_tokens", tools=[WEATHER, TIME], **off)).json()
        assert counted == {"input_tokens": len(served.engine.seen[0][0])}
    always = TEMPLATE[: TEMPLATE.index("{% if enable_thinking")] + "<think>{# </think> #}"
    async with serve_in_process(FakeEngine(max_model_len=4096, template=always, script=["Well."])) as served:
        assert "thinking" in error_of(await post(served, **off), 400)["message"]

"""Tools over HTTP: what is refused, what the template and the model see, what clients get."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from quire.server.app import create_app
from quire.server.settings import ServerSettings

from .conftest import Served, events, serve_in_process
from .fake_engine import FakeEngine

HI: list[Any] = [{"role": "user", "content": "The weather in Bonn?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Rain or shine", "parameters": SCHEMA},
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "get_time"}}
TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ tool.function | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}"
    "{% for call in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>'
    "{% endfor %}{% if m.role == 'tool' %}={{ m.name }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
    "{% if enable_thinking %}<think>{% elif enable_thinking is false %}<think></think>{% endif %}"
    "{{ reasoning_effort }}{{ documents or '' }}"
)
ANSWER = (
    "<think>\nHe asks about Bonn.\n</think>\n\nLet me look.\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bonn \\"}{🌧"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
)
CALLS = [("get_weather", {"city": 'Bonn "}{🌧'}), ("get_time", {})]


def engine(*script: str, template: str = TEMPLATE, special_tokens: tuple[str, ...] = ()) -> FakeEngine:
    return FakeEngine(
        max_model_len=4096, template=template, special_tokens=special_tokens, script=script or [ANSWER]
    )


def prompt(served: Served) -> str:
    return served.engine.tokenizer.decode(served.engine.seen[-1][0], skip_special_tokens=False)


def calls_of(message: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message.get("tool_calls", [])
    ]


def joined(chunks: list[Any], index: int = 0) -> dict[str, Any]:
    """The message that the deltas of a choice make together, without ids, and its finish reason."""
    message: dict[str, Any] = {"content": "", "reasoning": "", "calls": []}
    mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
    for choice in mine:
        delta = choice["delta"]
        message["content"] += delta.get("content", "")
        message["reasoning"] += delta.get("reasoning", "")
        assert delta.get("reasoning") == delta.get("reasoning_content")
        for call in delta.get("tool_calls", []):
            if "id" in call:
                assert set(call) == {"index", "id", "type", "function"}
                assert call["index"] == len(message["calls"])
                message["calls"].append([call["function"]["name"], call["function"]["arguments"]])
            else:
                assert set(call) == {"index", "function"}
                message["calls"][call["index"]][1] += call["function"]["arguments"]
    return message | {"finish_reason": mine[-1]["finish_reason"]}


def flat(choice: dict[str, Any]) -> dict[str, Any]:
    """A whole answer in the shape of `joined`."""
    message = choice["message"]
    return {
        "content": message["content"] or "",
        "reasoning": message.get("reasoning", ""),
        "calls": [list(call["function"].values()) for call in message.get("tool_calls", [])],
        "finish_reason": choice["finish_reason"],
    }


async def test_an_answer_with_calls() -> None:
    async with serve_in_process(engine()) as served:
        answer = (await served.chat(messages=HI, tools=[WEATHER, TIME])).json()
    choice = answer["choices"][0]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert message["content"] == "Let me look."
    assert message["reasoning"] == message["reasoning_content"] == "He asks about Bonn."
    assert calls_of(message) == CALLS
    assert all(set(call) == {"id", "type", "function"} for call in message["tool_calls"])
    thoughts = ">\nHe asks about Bonn.\n</think>"  # the tag is one when its last byte is there
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == len(thoughts)
    shown = {"name": "get_time", "description": "", "parameters": {"type": "object", "properties": {}}}
    assert json.dumps(shown) in prompt(served)


async def test_an_answer_of_calls_alone_has_no_content() -> None:
    async with serve_in_process(engine(ANSWER[ANSWER.index("<tool") :])) as served:
        message = (await served.chat(messages=HI, tools=[WEATHER])).json()["choices"][0]["message"]
    assert message["content"] is None
    assert "reasoning" not in message


@pytest.mark.parametrize("extra", [{}, {"max_tokens": 100}, {"stop": '"city"'}, {"stop": "Bonn."}, {"n": 2}])
async def test_joined_deltas_equal_the_whole_answer(extra: dict[str, Any]) -> None:
    body = {"messages": HI, "tools": [WEATHER, TIME]} | extra
    async with serve_in_process(engine(ANSWER, "No calls at all. <tool_call>")) as served:
        whole = (await served.chat(**body)).json()
        options = {"include_usage": True}
        *chunks, last, _ = events((await served.chat(**body, stream=True, stream_options=options)).text)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    for choice in whole["choices"]:
        assert joined(chunks, choice["index"]) == flat(choice)
    assert last["usage"] == whole["usage"]


async def test_logprobs_and_tokens_of_a_stream_are_complete() -> None:
    body = {"messages": HI, "tools": [WEATHER, TIME], "logprobs": True, "return_token_ids": True}
    async with serve_in_process(engine()) as served:
        whole = (await served.chat(**body)).json()["choices"][0]
        chunks = events((await served.chat(**body, stream=True)).text)[:-1]
    parts = [chunk["choices"][0] for chunk in chunks]
    assert [t for part in parts for t in part.get("token_ids", [])] == whole["token_ids"]
    entries = [entry for part in parts for entry in (part["logprobs"] or {}).get("content", [])]
    assert entries == whole["logprobs"]["content"]


async def test_without_tools_calls_are_text() -> None:
    async with serve_in_process(engine()) as served:
        for body in ({}, {"tools": [WEATHER], "tool_choice": "none"}):
            choice = (await served.chat(messages=HI, **body)).json()["choices"][0]
            assert choice["message"]["content"] == ANSWER[ANSWER.index("Let me") :]
            assert choice["finish_reason"] == "stop"
            assert "get_weather" not in prompt(served)


async def test_one_call_at_most() -> None:
    async with serve_in_process(engine()) as served:
        body = {"messages": HI, "tools": [WEATHER], "parallel_tool_calls": False}
        choice = (await served.chat(**body)).json()["choices"][0]
    assert calls_of(choice["message"]) == CALLS[:1]
    assert choice["finish_reason"] == "tool_calls"


NAMED = {"type": "function", "function": {"name": "get_weather"}}


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f"} | function}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": []}, "tools"),
        ({"tools": [tool(name=f"f{number}") for number in range(129)]}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": NAMED}, "tool_choice"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"tools": [TIME], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": [TIME], "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": [TIME], "tool_choice": {"type": "custom"}}, "tool_choice.type"),
        (
            {"tools": [TIME], "tool_choice": "required", "response_format": {"type": "json_object"}},
            "response_format",
        ),
        ({"tools": [TIME], "tool_choice": "required", "guided_regex": "a"}, "guided_regex"),
        ({"tools": [tool(name="")]}, "tools[0].function.name"),
        ({"tools": [TIME, tool(name="a b")]}, "tools[1].function.name"),
        ({"tools": [tool(name="f" * 65)]}, "tools[0].function.name"),
        ({"tools": [TIME, TIME]}, "tools[1].function.name"),
        (
            {"tools": [tool(strict=True, parameters={"properties": {"a": {"not": {}}}})]},
            "tools",
        ),
        (
            {"tools": [tool(parameters={"properties": {"a": {"not": {}}}})], "tool_choice": "required"},
            "tools",
        ),
        ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters"),
        ({"tools": [tool(parameters={"type": "string"})]}, "tools[0].function.parameters.type"),
        ({"tools": [tool(parameters={"properties": 1})]}, "tools[0].function.parameters.properties"),
        ({"tools": [tool(parameters={"properties": {"a": 1}})]}, "tools[0].function.parameters.properties.a"),
        ({"tools": [tool(parameters={"required": "a"})]}, "tools[0].function.parameters.required"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [tool(extra=1)]}, "tools[0].function.extra"),
    ],
)
async def test_refusals(body: dict[str, Any], param: str) -> None:
    async with serve_in_process(engine()) as served:
        response = await served.chat(messages=HI, **body)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"] == param
        assert served.engine.seen == []


@pytest.mark.parametrize("choice", ["required", NAMED])
async def test_calls_that_are_demanded_hold_the_sampler(choice: Any) -> None:
    async with serve_in_process(engine()) as served:
        response = await served.chat(messages=HI, tools=[WEATHER, TIME], tool_choice=choice)
        assert response.status_code == 200, response.text
        constraint = served.engine.seen[0][1].structured_outputs
        assert "get_weather" in constraint.grammar
        assert ("get_time" in constraint.grammar) == (choice == "required")
        response = await served.chat(messages=HI, tools=[WEATHER, TIME], tool_choice="auto")
        assert served.engine.seen[1][1].structured_outputs is None


async def test_strict_functions_hold_the_sampler_where_nothing_is_demanded() -> None:
    strict = tool(name="get_weather", parameters=SCHEMA, strict=True)
    async with serve_in_process(engine()) as served:
        for extra in ({}, {"tool_choice": "auto"}):
            response = await served.chat(messages=HI, tools=[strict, tool(parameters=SCHEMA)], **extra)
            assert response.status_code == 200, response.text
            grammar = served.engine.seen[-1][1].structured_outputs.grammar
            # The other function is not strict: its arguments may be any object.
            assert grammar.count('"required": ["city"]') == 1
            assert grammar.count("%json") == 2
            assert calls_of(response.json()["choices"][0]["message"]) == CALLS


async def test_a_form_and_tools() -> None:
    """The model answers in the form, or calls; a format that does not mark calls cannot have both."""
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
    async with serve_in_process(engine()) as served:
        response = await served.chat(messages=HI, tools=[WEATHER], response_format=form)
        assert response.status_code == 200, response.text
        constraint = served.engine.seen[-1][1].structured_outputs
        assert json.loads(constraint.json) == SCHEMA
        assert "start: reasoning (calls | formed)" in constraint.frame
    settings = ServerSettings(tool_call_parser="llama3_json")
    async with serve_in_process(engine(), settings) as served:
        response = await served.chat(messages=HI, tools=[WEATHER], response_format=form)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "response_format")
        response = await served.chat(messages=HI, tools=[WEATHER], tool_choice="none", response_format=form)
        assert response.status_code == 200


async def test_a_model_whose_format_is_not_known() -> None:
    plain = TEMPLATE.replace("tool_call>", "call>")
    async with serve_in_process(engine(template=plain)) as served:
        error = (await served.chat(messages=HI, tools=[TIME])).json()["error"]
        assert (error["param"], error["code"]) == ("tools", "unsupported_parameter")
    settings = ServerSettings(tool_call_parser="hermes", reasoning_parser="none")
    async with serve_in_process(engine(template=plain), settings) as served:
        message = (await served.chat(messages=HI, tools=[TIME])).json()["choices"][0]["message"]
        assert calls_of(message) == CALLS
        assert message["content"].startswith("<think>")


async def test_a_conversation_with_calls_reaches_the_template() -> None:
    async with serve_in_process(engine()) as served:
        answer = (await served.chat(messages=HI, tools=[WEATHER, TIME])).json()["choices"][0]["message"]
        nulls = {"function_call": None, "audio": None, "annotations": []}
        nulls |= {"parsed": {"a": 1}, "provider_specific_fields": {"refusal": None}}  # clients' own
        first, second = answer["tool_calls"]
        messages = [
            *HI,
            answer | nulls,
            {"role": "tool", "tool_call_id": first["id"], "content": [{"type": "text", "text": "Rain."}]},
            {"role": "tool", "tool_call_id": second["id"], "content": "Noon."},
        ]
        response = await served.chat(messages=messages, tools=[WEATHER, TIME])
        assert response.status_code == 200, response.text
        conversation = prompt(served).split("[user]")[1]
        assert conversation == (
            "The weather in Bonn?\n[assistant]Let me look.(He asks about Bonn.)"
            '<tool_call>{"name": "get_weather", "arguments": {"city": "Bonn \\"}{🌧"}}</tool_call>'
            '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>\n'
            "[tool]Rain.=get_weather\n[tool]Noon.=get_time\n[assistant]"
        )


def call(**changes: Any) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}} | changes


def turn(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls)} | fields


def parts(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, ".tool_call_id"),
        ({"role": "tool", "content": "x", "tool_call_id": ""}, ".tool_call_id"),
        ({"role": "tool", "tool_call_id": "c"}, ".content"),
        ({"role": "assistant"}, ".content"),
        ({"role": "assistant", "content": None, "tool_calls": []}, ".content"),
        ({"role": "user", "content": "x", "tool_call_id": "c"}, ".tool_call_id"),
        ({"role": "user", "content": "x", "reasoning": "y"}, ".reasoning"),
        ({"role": "assistant", "content": "", "reasoning": "y", "reasoning_content": "z"}, ".reasoning"),
        (turn(call(function={"name": "f", "arguments": {}})), ".tool_calls[0].function.arguments"),
        (turn(call(function={"name": "f", "arguments": "{"})), ".tool_calls[0].function.arguments"),
        (turn(call(function={"name": "f", "arguments": "[1]"})), ".tool_calls[0].function.arguments"),
        (turn(call(type="custom")), ".tool_calls[0].type"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]},
            ".content[0].type",
        ),
        (
            {"role": "user", "content": [{"image_url": {"url": "file:///x"}, "type": "image_url"}]},
            ".content[0].type",
        ),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]},
            ".content[0].type",
        ),
        (parts({"type": "file", "file": {"file_id": "x"}}), ".content[0].type"),
        (parts({"type": "text"}), ".content[0].text"),
        (parts({"type": "text", "text": "a", "file": {}}), ".content[0].file"),
    ],
)
async def test_messages_that_are_refused(
    message: dict[str, Any], param: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    async with serve_in_process(engine()) as served:
        monkeypatch.setattr("builtins.open", lambda *args, **kwargs: opened.append(args))
        monkeypatch.setattr("socket.socket.connect", lambda *args: opened.append(args))
        response = await served.chat(messages=[*HI, message])
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == f"messages[1]{param}"
    assert opened == []


async def test_special_tokens_in_tools_and_calls_are_mere_text() -> None:
    async with serve_in_process(engine()) as served:
        parameters = {"type": "object", "properties": {"<eos>": {"description": "<eos>"}}}
        messages = [*HI, turn(call(function={"name": "<eos>", "arguments": '{"<eos>": "<eos>"}'}))]
        tools = [tool(description="<eos>", parameters=parameters)]
        assert (await served.chat(messages=messages, tools=tools)).status_code == 200
        ids = served.engine.seen[-1][0]
        assert not served.engine.tokenizer.special_token_ids.intersection(ids)
        assert prompt(served).count("<eos>") == 6


async def test_marks_that_are_special_tokens() -> None:
    """The engine must show them, and the client must not see them."""
    marks = ("[TOOL_CALLS]", "[ARGS]", "<|eot|>")
    said = 'Hi <|eot|>[TOOL_CALLS]get_weather[ARGS]{"city": "[ARGS"}<|eot|>'
    template = TEMPLATE.replace("<tool_call>", "[TOOL_CALLS]").replace("</tool_call>", "")
    async with serve_in_process(engine(said, template=template, special_tokens=marks)) as served:
        body = {"messages": HI, "tools": [WEATHER]}
        choice = (await served.chat(**body)).json()["choices"][0]
        assert served.engine.seen[0][1].skip_special_tokens is False
        assert choice["message"]["content"] == "Hi"
        assert calls_of(choice["message"]) == [("get_weather", {"city": "[ARGS"})]
        assert len(choice["message"]["tool_calls"][0]["id"]) == 9
        chunks = events((await served.chat(**body, stream=True)).text)[:-1]
        assert joined(chunks) == flat(choice)
        plain = (await served.chat(messages=HI)).json()["choices"][0]
        assert plain["message"]["content"] == 'Hi get_weather{"city": "[ARGS"}'


async def test_variables_of_the_template() -> None:
    async with serve_in_process(engine("ok")) as served:
        body = {"documents": [{"title": "a", "text": "b"}], "reasoning_effort": "high"}
        assert (await served.chat(messages=HI, **body)).status_code == 200
        assert prompt(served).endswith("[assistant]high[{'title': 'a', 'text': 'b'}]")
        differ = body | {"chat_template_kwargs": {"reasoning_effort": "low"}}
        assert (await served.chat(messages=HI, **differ)).json()["error"]["param"] == "reasoning_effort"
    async with serve_in_process() as served:
        for name, value in body.items():
            response = await served.chat(messages=HI, **{name: value})
            assert response.json()["error"]["param"] == name
        assert (await served.chat(tools=[TIME])).json()["error"]["param"] == "tools"


async def test_templates_of_requests_need_trust() -> None:
    body = {"messages": HI, "chat_template": "<{{ messages[0].content }}>"}
    async with serve_in_process(engine("ok")) as served:
        assert (await served.chat(**body)).json()["error"]["param"] == "chat_template"
    async with serve_in_process(engine("ok"), ServerSettings(trust_request_chat_template=True)) as served:
        assert (await served.chat(**body)).status_code == 200
        assert prompt(served) == "<The weather in Bonn?>"
        malformed = await served.chat(messages=HI, chat_template="{% if")
        assert malformed.json()["error"]["param"] == "chat_template"


async def test_official_client() -> None:
    app = create_app(engine())
    transport = httpx.ASGITransport(app)
    async with (
        httpx.AsyncClient(transport=transport) as http,
        openai.AsyncOpenAI(base_url="http://quire/v1", api_key="none", http_client=http) as client,
    ):
        arguments: Any = {"model": "fake", "messages": HI, "tools": [WEATHER, TIME]}
        whole = (await client.chat.completions.create(**arguments)).choices[0]
        assert whole.finish_reason == "tool_calls"
        assert [
            (c.function.name, json.loads(c.function.arguments)) for c in whole.message.tool_calls
        ] == CALLS
        async with client.chat.completions.stream(**arguments) as stream:
            final = (await stream.get_final_completion()).choices[0]
        assert [
            (c.function.name, json.loads(c.function.arguments)) for c in final.message.tool_calls
        ] == CALLS
        assert final.message.content == whole.message.content
        assert final.finish_reason == "tool_calls"
        assert whole.message.model_extra["reasoning_content"] == "He asks about Bonn."
        results = [
            {"role": "tool", "tool_call_id": c.id, "content": "fine"} for c in final.message.tool_calls
        ]
        again = arguments | {"messages": [*HI, final.message, *results]}
        assert (await client.chat.completions.create(**again)).choices[0].message.tool_calls

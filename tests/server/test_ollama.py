"""Ollama's API on the wire: shapes, what reaches the engine, and what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import ollama
import pytest

from quire.errors import Overloaded
from quire.models.config import GenerationDefaults
from quire.server.app import create_app
from quire.server.settings import ServerSettings

from .conftest import Served, serve_in_process, until
from .fake_engine import FakeEngine, engine_died
from .test_tools_api import ANSWER, CALLS, TIME, WEATHER, engine

HI: list[Any] = [{"role": "user", "content": "hi"}]


async def post(served: Served, path: str, **body: object) -> httpx.Response:
    return await served.client.post(f"/api/{path}", json={"model": "fake"} | body)


async def chat(served: Served, **body: object) -> httpx.Response:
    return await post(served, "chat", **{"messages": HI, "stream": False} | body)


async def generate(served: Served, **body: object) -> httpx.Response:
    return await post(served, "generate", **{"prompt": "hello", "stream": False} | body)


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


def prompt(served: Served) -> str:
    return served.engine.tokenizer.decode(served.engine.seen[-1][0], skip_special_tokens=False)


def check_figures(line: dict[str, Any], *, num_prompt: int, num_new: int, reason: str) -> None:
    assert (line["done"], line["done_reason"]) == (True, reason)
    assert (line["prompt_eval_count"], line["eval_count"]) == (num_prompt, num_new)
    spent = line["prompt_eval_duration"] + line["eval_duration"] + line["load_duration"]
    assert 0 < line["prompt_eval_duration"] <= spent <= line["total_duration"]


async def test_chat(served: Served) -> None:
    answer = (await chat(served, options={"num_predict": 4})).json()
    assert answer["model"] == "fake"
    assert answer["created_at"].endswith("Z")
    assert answer["message"] == {"role": "assistant", "content": "[use"}
    assert prompt(served) == "[user]hi\n[assistant]"
    check_figures(answer, num_prompt=len(prompt(served)), num_new=4, reason="length")


async def test_a_stream_says_the_same(served: Served) -> None:
    whole = (await chat(served)).json()
    *parts, last = lines(await post(served, "chat", messages=HI))
    assert "".join(part["message"]["content"] for part in parts) == whole["message"]["content"]
    assert not any(part["done"] for part in parts)
    assert last["message"] == {"role": "assistant", "content": ""}
    check_figures(last, num_prompt=len(prompt(served)), num_new=whole["eval_count"], reason="stop")

    whole = (await generate(served)).json()
    *parts, last = lines(await post(served, "generate", prompt="hello"))
    assert "".join(part["response"] for part in parts) == whole["response"]
    assert last["response"] == ""
    assert last["context"] == whole["context"]


async def test_generate_is_a_chat_of_one_message(served: Served) -> None:
    first = (await generate(served, system="be brief", options={"num_predict": 3})).json()
    assert prompt(served) == "[system]be brief\n[user]hello\n[assistant]"
    assert first["response"] == "[sy"
    assert served.engine.tokenizer.decode(first["context"]) == prompt(served) + "[sy"
    await generate(served, prompt="more", context=first["context"])
    assert prompt(served) == "[system]be brief\n[user]hello\n[assistant][sy[user]more\n[assistant]"


async def test_a_raw_prompt_is_taken_as_it_is(served: Served) -> None:
    answer = (await generate(served, raw=True)).json()
    assert prompt(served) == "hello"
    assert "context" not in answer
    for field in ({"system": "x"}, {"context": [1]}, {"think": True}):
        assert (await generate(served, raw=True, **field)).status_code == 400


async def test_the_assistants_last_message_is_continued(served: Served) -> None:
    await chat(served, messages=[*HI, {"role": "assistant", "content": "Well, "}])
    assert prompt(served) == "[user]hi\n[assistant]Well, "


async def test_a_request_without_a_prompt_loads(served: Served) -> None:
    for path, key in (("chat", "message"), ("generate", "response")):
        answer = (await post(served, path)).json()
        assert key in answer
        assert (answer["done"], answer["done_reason"]) == (True, "load")
    assert served.engine.seen == []
    assert (await post(served, "generate", keep_alive=0)).status_code == 400
    assert (await post(served, "chat", tools=[WEATHER])).status_code == 400


async def test_options_reach_the_sampler(served: Served) -> None:
    options = {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.6,
        "min_p": 0.05,
        "seed": 3,
        "num_predict": 5,
        "num_ctx": 512,
        "num_keep": 4,
        "repeat_penalty": 1.25,
        "repeat_last_n": -1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "stop": ["\n\n"],
        "low_vram": False,
    }
    assert (await chat(served, options=options)).status_code == 200
    params = served.engine.seen[0][1]
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.5, 7, 0.6, 0.05)
    assert (params.seed, params.max_tokens, list(params.stop)) == (3, 5, ["\n\n"])
    assert (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) == (1.25, 0.5, -0.5)


async def test_defaults_are_the_models_then_ollamas(served: Served) -> None:
    await chat(served)
    served.engine.model_config.generation = GenerationDefaults(temperature=0.3, repetition_penalty=1.1)
    await chat(served, options={"seed": -1, "repeat_last_n": 0, "num_predict": -1})
    (_, first, _, _), (tokens, second, _, _) = served.engine.seen
    assert (first.temperature, first.top_k, first.top_p, first.repetition_penalty) == (0.8, 40, 0.9, 1.0)
    assert (second.temperature, second.seed, second.repetition_penalty) == (0.3, None, 1.0)
    assert second.max_tokens == served.engine.max_model_len - len(tokens)


async def test_the_context_bounds_the_answer(served: Served) -> None:
    answer = await generate(served, raw=True, options={"num_ctx": 8, "num_predict": 100})
    assert (answer.json()["eval_count"], answer.json()["done_reason"]) == (3, "length")
    refused = await generate(served, raw=True, options={"num_ctx": 5})
    assert refused.status_code == 400
    assert "5 tokens" in refused.json()["error"]


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ({"options": {"num_ctx": 513}}, "num_ctx"),
        ({"options": {"num_gpu": 1}}, "num_gpu"),
        ({"options": {"mirostat": 1}}, "mirostat"),
        ({"options": {"typical_p": 0.5}}, "typical_p"),
        ({"options": {"made_up": 1}}, "made_up"),
        ({"options": {"top_k": "7"}}, "top_k"),
        ({"options": {"temperature": 3}}, "temperature"),
        ({"options": {"repeat_penalty": 99}}, "repeat_penalty"),
        ({"options": {"repeat_penalty": 1.1, "repeat_last_n": 64}}, "repeat_last_n"),
        ({"options": {"num_predict": -3}}, "num_predict"),
        ({"options": {"num_keep": -2}}, "num_keep"),
        ({"format": "yaml"}, "format"),
        ({"format": {"type": "no such type"}}, "format"),
        ({"think": True}, "think"),
        ({"think": "high"}, "think"),
        ({"think": "hard"}, "think"),
        ({"keep_alive": 0}, "keep_alive"),
        ({"keep_alive": "0s"}, "keep_alive"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "logprobs"),
        ({"truncate": True}, "truncate"),
        ({"made_up": 1}, "made_up"),
        ({"messages": [{"role": "user", "content": "hi", "images": ["aGk="]}]}, "images"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "hi", "tool_name": "x"}]}, "tool_name"),
    ],
)
async def test_what_cannot_be_honoured_is_refused(
    served: Served, field: dict[str, object], named: str
) -> None:
    for stream in (False, True):
        response = await chat(served, stream=stream, **field)
        assert response.status_code == 400, response.text
        assert list(response.json()) == ["error"]
        assert named in response.json()["error"]
    assert served.engine.seen == []


@pytest.mark.parametrize(
    "field", [{"images": ["aGk="]}, {"suffix": "x"}, {"template": "x"}, {"width": 8}, {"context": [999]}]
)
async def test_what_generate_refuses(served: Served, field: dict[str, object]) -> None:
    assert (await generate(served, **field)).status_code == 400


async def test_values_that_ask_for_nothing_are_taken(served: Served) -> None:
    fields = {"think": False, "format": "", "keep_alive": "5m", "tools": [], "truncate": False}
    assert (await chat(served, **fields)).status_code == 200
    for keep_alive in (-1, 300, "-1m", "1h30m"):
        assert (await chat(served, keep_alive=keep_alive)).status_code == 200
    fields = {"suffix": "", "template": "", "system": "", "images": [], "context": [], "format": None}
    assert (await generate(served, **fields)).status_code == 200


async def test_formats_hold_the_sampler(served: Served) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    await chat(served, format="json")
    await generate(served, format=schema)
    first, second = (seen[1].structured_outputs for seen in served.engine.seen)
    assert first.json_object is True
    assert json.loads(second.json) == schema


async def test_logprobs(served: Served) -> None:
    answer = (await chat(served, logprobs=True, top_logprobs=2, options={"num_predict": 2})).json()
    first, second = answer["logprobs"]
    assert (first["token"], first["bytes"], len(first["top_logprobs"])) == ("[", [91], 2)
    streamed = lines(await chat(served, stream=True, logprobs=True, options={"num_predict": 2}))
    assert [entry["token"] for line in streamed for entry in line.get("logprobs", [])] == ["[", "u"]
    assert second["logprob"] == streamed[1]["logprobs"][0]["logprob"] < 0


async def test_thinking_and_calls_are_kept_apart() -> None:
    async with serve_in_process(engine()) as served:
        whole = (await chat(served, tools=[WEATHER, TIME])).json()
        *parts, last = lines(await chat(served, tools=[WEATHER, TIME], stream=True))
    message = whole["message"]
    assert message["thinking"].strip() == "He asks about Bonn."
    assert message["content"].strip() == "Let me look."
    calls = [call for part in parts for call in part["message"].get("tool_calls", [])]
    for found in (message["tool_calls"], calls):
        assert [(call["function"]["name"], call["function"]["arguments"]) for call in found] == CALLS
        assert len({call["id"] for call in found}) == 2
    for key in ("content", "thinking"):
        assert "".join(part["message"].get(key, "") for part in parts) == message[key]
    assert (whole["done_reason"], last["done_reason"]) == ("stop", "stop")


async def test_a_call_that_is_cut_off_is_left_out() -> None:
    async with serve_in_process(engine()) as served:
        cut = len(ANSWER.encode()) - len("}}\n</tool_call>")
        answer = (await chat(served, tools=[WEATHER, TIME], options={"num_predict": cut})).json()
    assert answer["done_reason"] == "length"
    assert [call["function"]["name"] for call in answer["message"]["tool_calls"]] == ["get_weather"]


async def test_results_of_calls_reach_the_template() -> None:
    call = {"function": {"name": "get_weather", "arguments": {"city": "Bonn"}}}
    messages = [
        *HI,
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [call]},
        {"role": "tool", "tool_name": "get_weather", "content": "rain"},
    ]
    async with serve_in_process(engine()) as served:
        assert (await chat(served, messages=messages, tools=[WEATHER])).status_code == 200
        assert (
            "[assistant](Hm.)<tool_call>"
            '{"name": "get_weather", "arguments": {"city": "Bonn"}}</tool_call>\n[tool]rain=get_weather\n'
        ) in prompt(served)
        messages[-1]["tool_name"] = "get_time"
        assert (await chat(served, messages=messages, tools=[WEATHER])).status_code == 400


async def test_think_turns_the_templates_switch() -> None:
    async with serve_in_process(engine()) as served:
        for think, end in ((True, "[assistant]<think>"), (False, "[assistant]<think></think>")):
            assert (await chat(served, think=think)).status_code == 200
            assert prompt(served).endswith(end)
        assert (await chat(served, think="high")).status_code == 200
        assert prompt(served).endswith("[assistant]high")
        await generate(served, think=False)
        assert prompt(served).endswith("<think></think>")


async def test_names_of_models(served: Served) -> None:
    for name in ("fake", "fake:latest"):
        assert (await chat(served, model=name)).json()["model"] == name
    for path in ("chat", "generate", "show"):
        response = await post(served, path, model="fake:7b")
        assert response.status_code == 404
        assert "'fake:7b'" in response.json()["error"]
    assert (await served.client.post("/api/chat", json={"messages": HI})).status_code == 400


async def test_failures_have_ollamas_shape(served: Served) -> None:
    served.engine.refuse_with = Overloaded("the queue is full", retry_after=7)
    response = await chat(served, stream=True)
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")
    assert response.json() == {"error": "the queue is full"}
    served.engine.refuse_with = RuntimeError("secret")
    response = await chat(served)
    assert response.status_code == 500
    assert "secret" not in response.text
    served.engine.refuse_with = None
    served.engine.fail_after = (3, engine_died())
    *parts, last = lines(await chat(served, stream=True))
    assert len(parts) == 3
    assert list(last) == ["error"]
    bad = await served.client.post("/api/chat", content="{", headers={"content-type": "application/json"})
    assert (bad.status_code, list(bad.json())) == (400, ["error"])


async def test_json_under_whatever_media_type(served: Served) -> None:
    """curl calls it a form, and some clients call it nothing; pages of other sites may not."""
    body = json.dumps({"model": "fake", "prompt": "hi", "stream": False})
    for kind in ("application/x-www-form-urlencoded", "text/plain", None):
        headers = {} if kind is None else {"content-type": kind}
        answered = await served.client.post("/api/generate", content=body, headers=headers)
        assert answered.status_code == 200, answered.text
        for other in ({"origin": "http://elsewhere"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            refused = await served.client.post("/api/generate", content=body, headers=headers | other)
            assert (refused.status_code, list(refused.json())) == (403, ["error"])
    assert len(served.engine.seen) == 3


async def test_other_routes(served: Served) -> None:
    root = await served.client.get("/")
    assert root.text == "Ollama is running"
    assert (await served.client.head("/")).status_code == 200
    assert (await served.client.get("/api/version")).json()["version"]
    for method, path in (
        ("POST", "pull"),
        ("POST", "push"),
        ("POST", "create"),
        ("POST", "copy"),
        ("DELETE", "delete"),
        ("POST", "blobs/sha256:00"),
    ):
        response = await served.client.request(method, f"/api/{path}", json={"model": "fake"})
        assert (response.status_code, list(response.json())) == (400, ["error"])


async def call(fake: FakeEngine, receive: Any, send: Any, **settings: Any) -> int:
    """Sends a chat straight to the application; returns how many requests it then believes to hold."""
    app = create_app(fake, ServerSettings(**settings))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/api/chat",
        "raw_path": b"/api/chat",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"content-type", b"application/json")],
    }
    await app(scope, receive, send)
    return app.state.context.num_in_flight


BODY = {"type": "http.request", "body": json.dumps({"model": "fake", "messages": HI}).encode()}


async def test_a_client_that_goes_before_the_first_token_ends_its_request() -> None:
    fake = FakeEngine()
    fake.going.clear()
    received = [BODY, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return received.pop(0)

    async def send(message: dict[str, Any]) -> None:
        raise AssertionError(message)

    assert await call(fake, receive, send) == 0
    assert len(fake.seen) == 1
    await until(lambda: not fake.running, "the request is aborted")
    await fake.close_grammars()


@pytest.mark.parametrize("goes", [True, False])
async def test_a_client_that_goes_or_takes_nothing_ends_its_stream(*, goes: bool) -> None:
    fake = FakeEngine(answer_tokens=100_000, max_model_len=1_000_000)
    gone = asyncio.Event()
    received = [BODY]

    async def receive() -> dict[str, Any]:
        if received:
            return received.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    lines: list[bytes] = []

    async def send(message: dict[str, Any]) -> None:
        lines.append(message.get("body", b""))
        if len(lines) > 3:
            assert fake.running
            if not goes:
                await asyncio.Event().wait()
            gone.set()

    assert await call(fake, receive, send, send_timeout=0.05) == 0
    assert len(lines) < 1000
    await until(lambda: not fake.running, "the request is aborted")
    await fake.close_grammars()


async def test_official_client() -> None:
    """The client in process, over the application's own transport."""
    fake = engine()
    transport = httpx.ASGITransport(create_app(fake))
    client = ollama.AsyncClient(host="http://quire", transport=transport)
    try:
        whole = await client.chat("fake", HI, tools=[WEATHER, TIME], think=True)
        assert [(call.function.name, call.function.arguments) for call in whole.message.tool_calls] == CALLS
        again = await client.chat(
            "fake",
            [*HI, whole.message, {"role": "tool", "tool_name": "get_weather", "content": "rain"}],
            tools=[WEATHER, TIME],
        )
        assert again.done_reason == "stop"
        text = [part.response async for part in await client.generate("fake", "hello", stream=True)]
        assert "Let me look." in "".join(text)
        with pytest.raises(ollama.ResponseError, match="quire serve") as refused:
            await client.pull("other")
        assert refused.value.status_code == 400
        with pytest.raises(ollama.ResponseError, match="no model 'other'") as absent:
            await client.chat("other", HI)
        assert absent.value.status_code == 404
    finally:
        await client._client.aclose()
        await fake.close_grammars()

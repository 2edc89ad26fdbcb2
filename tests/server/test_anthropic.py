"""Anthropic's messages: the official client, shapes, the order of events, refusals."""

from __future__ import annotations

import json

import anthropic
import httpx
import pytest

from quire.errors import Overloaded
from quire.server.settings import ServerSettings

from .conftest import Served, serve_in_process, serve_on_port
from .fake_engine import FakeEngine, engine_died

HI: list = [{"role": "user", "content": "hi"}]
KEY = "k-123"


async def post(served: Served, path: str = "/v1/messages", **body: object) -> httpx.Response:
    defaults = {"model": "fake", "messages": HI}
    if path == "/v1/messages":
        defaults["max_tokens"] = 4
    return await served.client.post(path, json=defaults | body)


def stream_events(text: str) -> list[dict]:
    """The data of a stream's events, each of which must be named as its type says."""
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def prompt(served: Served) -> str:
    """What the engine was given last, as text."""
    return served.engine.tokenizer.decode(served.engine.seen[-1][0])


def error_of(response: httpx.Response, status: int) -> dict:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"type", "error"}
    assert response.json()["type"] == "error"
    assert set(response.json()["error"]) == {"type", "message"}
    return response.json()["error"]


async def test_official_client() -> None:
    settings = ServerSettings(api_key=KEY)
    async with serve_on_port(settings=settings) as (served, _):
        url = str(served.client.base_url)
        async with anthropic.AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0) as client:
            whole = await client.messages.create(model="fake", max_tokens=4, messages=HI, system="be brief")
            assert [block.text for block in whole.content] == ["[sys"]
            assert (whole.stop_reason, whole.usage.output_tokens) == ("max_tokens", 4)
            counted = await client.messages.count_tokens(model="fake", messages=HI, system="be brief")
            assert counted.input_tokens == whole.usage.input_tokens
            async with client.messages.stream(
                model="fake", max_tokens=4, messages=HI, system="be brief"
            ) as stream:
                assert "".join([text async for text in stream.text_stream]) == "[sys"
                final = await stream.get_final_message()
            assert [block.text for block in final.content] == ["[sys"]
            assert (final.stop_reason, final.usage) == (whole.stop_reason, whole.usage)
            with pytest.raises(anthropic.NotFoundError):
                await client.messages.create(model="other", max_tokens=4, messages=HI)
            with pytest.raises(anthropic.BadRequestError) as caught:
                await client.messages.create(
                    model="fake", max_tokens=4, messages=HI, extra_body={"temperature": 9}
                )
            assert "temperature" in caught.value.message
            assert caught.value.body["error"]["type"] == "invalid_request_error"
        async with anthropic.AsyncAnthropic(base_url=url, auth_token=KEY, max_retries=0) as client:
            assert (await client.messages.create(model="fake", max_tokens=4, messages=HI)).content
        async with anthropic.AsyncAnthropic(base_url=url, api_key="wrong", max_retries=0) as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.create(model="fake", max_tokens=4, messages=HI)


async def test_answer(served: Served) -> None:
    served.engine.num_cached_tokens = 3
    answer = (await post(served)).json()
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": [{"type": "text", "text": "[use", "citations": None}],
        "stop_reason": "max_tokens",
        "stop_sequence": None,
        "usage": {
            "input_tokens": len("[user]hi\n[assistant]") - 3,
            "output_tokens": 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
        },
    }


async def test_order_of_events(served: Served) -> None:
    served.engine.num_cached_tokens = 3
    start, ping, block, *deltas, stop, end, last = stream_events((await post(served, stream=True)).text)
    whole = (await post(served)).json()
    assert start["type"] == "message_start"
    assert start["message"]["content"] == []
    assert start["message"]["stop_reason"] is None
    assert start["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert ping == {"type": "ping"}
    assert block == {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": "", "citations": None},
    }
    assert [delta["delta"] for delta in deltas] == [{"type": "text_delta", "text": text} for text in "[use"]
    assert stop == {"type": "content_block_stop", "index": 0}
    assert end == {
        "type": "message_delta",
        "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
        "usage": whole["usage"],
    }
    assert last == {"type": "message_stop"}


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": 100},
        {"max_tokens": 100, "stop_sequences": ["zzz", "r]h"]},
        {"max_tokens": 100, "stop_sequences": ["["]},
        {"max_tokens": 33, "messages": [{"role": "user", "content": "日本語 ça va 🎉"}]},
    ],
)
async def test_joined_deltas_equal_the_whole_answer(body: dict) -> None:
    async with serve_in_process(FakeEngine(answer_tokens=40)) as served:
        whole = (await post(served, **body)).json()
        found = stream_events((await post(served, **body, stream=True)).text)
    joined = "".join(each["delta"]["text"] for each in found if each["type"] == "content_block_delta")
    assert joined == "".join(block["text"] for block in whole["content"])
    assert sum(each["type"] == "content_block_start" for each in found) == len(whole["content"])
    assert found[-2]["delta"] == {name: whole[name] for name in ("stop_reason", "stop_sequence")}


async def test_stop_reasons(served: Served) -> None:
    async def stop(**body: object) -> tuple[str, str | None]:
        answer = (await post(served, **body)).json()
        return answer["stop_reason"], answer["stop_sequence"]

    assert await stop(max_tokens=3) == ("max_tokens", None)
    assert await stop(max_tokens=100) == ("end_turn", None)
    assert await stop(max_tokens=100, stop_sequences=["r]h"]) == ("stop_sequence", "r]h")
    assert (await post(served, stop_sequences=["["])).json()["content"] == []


async def test_conversations_reach_the_template(served: Served) -> None:
    def text(content: str, **more: object) -> dict:
        return {"type": "text", "text": content, **more}

    await post(
        served,
        system=[text("be brief", cache_control={"type": "ephemeral"}), text("be kind")],
        messages=[
            {"role": "user", "content": "a"},
            {"role": "user", "content": [text("b"), text("c")]},
            {"role": "assistant", "content": [text("d", citations=None)]},
            {"role": "user", "content": "e"},
        ],
    )
    assert prompt(served) == "[system]be brief\nbe kind\n[user]a\nb\nc\n[assistant]d\n[user]e\n[assistant]"


async def test_the_answer_goes_on_with_the_assistants_turn(served: Served) -> None:
    await post(served, messages=[*HI, {"role": "assistant", "content": "Well,"}])
    assert prompt(served) == "[user]hi\n[assistant]Well,"


async def test_sampling_parameters_reach_the_engine(served: Served) -> None:
    await post(served, temperature=0.5, top_k=7, top_p=0.25, stop_sequences=["x"], max_tokens=9)
    params = served.engine.seen[0][1]
    assert (params.temperature, params.top_k, params.top_p) == (0.5, 7, 0.25)
    assert (list(params.stop), params.max_tokens) == (["x"], 9)


async def test_the_user_is_in_the_log(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "quire.access")
    await post(served, metadata={"user_id": "Ann"})
    assert 'user="Ann"' in caplog.text


async def test_counted_tokens_are_those_of_the_prompt(served: Served) -> None:
    counted = await post(served, "/v1/messages/count_tokens", system="be brief")
    assert counted.json() == {"input_tokens": len("[system]be brief\n[user]hi\n[assistant]")}
    assert served.engine.seen == []


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "a"}]}, "system"),
        ({"messages": [*HI, {"role": "assistant", "content": " "}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "image"),
        ({"tools": [{"name": "f", "input_schema": {}}]}, "tools"),  # this model has no form for calls
        ({"tool_choice": {"type": "auto"}}, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, "1h"),
        ({"service_tier": "fast"}, "service_tier"),
        ({"stop_sequences": [""]}, "stop"),
        ({"top_k": -2}, "top_k"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
async def test_refusals(served: Served, body: dict, named: str) -> None:
    error = error_of(await post(served, **body), 400)
    assert error["type"] == "invalid_request_error"
    assert named in error["message"]
    assert served.engine.running == set()


async def test_what_asks_for_nothing_special_is_accepted(served: Served) -> None:
    response = await post(served, thinking={"type": "disabled"}, service_tier="auto", tools=[], top_p=None)
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_errors_of_the_server_are_in_the_dialects_form(path: str) -> None:
    async with serve_in_process(settings=ServerSettings(api_key=KEY)) as served:
        assert error_of(await post(served, path), 401)["type"] == "authentication_error"
        served.client.headers["x-api-key"] = KEY
        assert error_of(await post(served, path, model="other"), 404)["type"] == "not_found_error"
        error_of(await served.client.get(path), 405)
        error_of(await served.client.post(path, content=b"{"), 415)
        error_of(
            await served.client.post(path, content=b"{", headers={"content-type": "application/json"}), 400
        )
        served.context.draining = True
        assert error_of(await post(served, path), 503)["type"] == "overloaded_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_failures_before_the_first_byte(served: Served, stream: bool) -> None:
    served.engine.refuse_with = Overloaded("full", retry_after=3)
    response = await post(served, stream=stream)
    assert error_of(response, 429)["type"] == "rate_limit_error"
    assert response.headers["retry-after"] == "3"
    served.engine.refuse_with = engine_died()
    assert error_of(await post(served, stream=stream), 500)["type"] == "api_error"


async def test_death_in_mid_stream(served: Served) -> None:
    served.engine.fail_after = (3, engine_died())
    *_, last = stream_events((await post(served, stream=True, max_tokens=9)).text)
    assert last == {
        "type": "error",
        "error": {"type": "api_error", "message": "the engine process ended; it is being restarted"},
    }

"""The responses API: the official client, the order of events, memory, the background, refusals."""

from __future__ import annotations

import asyncio
import json

import httpx
import openai
import pytest

from quire import StructuredOutputsParams
from quire.errors import Overloaded
from quire.server.settings import ServerSettings

from .conftest import Served, serve_in_process, serve_on_port, until
from .fake_engine import FakeEngine, engine_died
from .test_anthropic_tools import TEMPLATE


async def post(served: Served, **body: object) -> httpx.Response:
    return await served.client.post("/v1/responses", json={"model": "fake", "input": "hi"} | body)


async def create(served: Served, **body: object) -> dict:
    response = await post(served, **body)
    assert response.status_code == 200, response.text
    return response.json()


async def stream(served: Served, **body: object) -> list[dict]:
    """The data of a stream's events, each of which must be named as its type says."""
    found = []
    for block in (await post(served, stream=True, **body)).text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    assert [each.pop("sequence_number") for each in found] == list(range(len(found)))
    return found


def text_of(response: dict) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


def prompt(served: Served) -> str:
    """What the engine was given last, as text."""
    return served.engine.tokenizer.decode(served.engine.seen[-1][0])


async def get(served: Served, response_id: str) -> dict:
    return (await served.client.get(f"/v1/responses/{response_id}")).json()


async def ended(served: Served, response_id: str) -> dict:
    """A background response, once it has ended."""
    await until(lambda: served.context.num_in_flight == 0, "it ends")
    return await get(served, response_id)


async def test_official_client() -> None:
    async with (
        serve_on_port() as (served, _),
        openai.AsyncOpenAI(base_url=f"{served.client.base_url}/v1", api_key="none") as client,
    ):
        first = await client.responses.create(model="fake", input="hi", max_output_tokens=4)
        assert (first.output_text, first.status) == ("[use", "incomplete")
        assert first.incomplete_details.reason == "max_output_tokens"
        assert first.usage.total_tokens == len("[user]hi\n[assistant]") + 4
        events = [
            event
            async for event in await client.responses.create(
                model="fake", input="hi", max_output_tokens=4, stream=True
            )
        ]
        assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "[use"
        assert events[-1].response.output_text == "[use"
        async with client.responses.stream(model="fake", input="hi") as typed:
            final = await typed.get_final_response()
        assert (final.status, final.output_text) == ("completed", "[user]hi\n[as")
        second = await client.responses.create(
            model="fake", input="go on", previous_response_id=first.id, max_output_tokens=1
        )
        assert second.previous_response_id == first.id
        assert prompt(served) == "[user]hi\n[assistant][use\n[user]go on\n[assistant]"
        later = await client.responses.create(model="fake", input="hi", background=True)
        assert later.status == "queued"
        await until(lambda: served.context.num_in_flight == 0, "it ends")
        assert (await client.responses.retrieve(later.id)).output_text == "[user]hi\n[as"
        assert (await client.responses.cancel(later.id)).status == "completed"
        await client.responses.delete(later.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(later.id)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="fake", input="hi", max_output_tokens=10**6)
        assert caught.value.param == "max_output_tokens"


async def test_answer(served: Served) -> None:
    served.engine.num_cached_tokens = 3
    body = {"instructions": "be brief", "max_output_tokens": 100, "metadata": {"a": "b"}, "user": "Ann"}
    response = await create(served, **body, temperature=0.5, top_p=0.25)
    assert response.pop("id").startswith("resp_")
    assert isinstance(response.pop("created_at"), int)
    (item,) = response.pop("output")
    assert item.pop("id").startswith("msg_")
    assert item == {
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "[system]be b", "annotations": [], "logprobs": []}],
    }
    num_prompt = len("[system]be brief\n[user]hi\n[assistant]")
    assert response == {
        "object": "response",
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": "be brief",
        "max_output_tokens": 100,
        "metadata": {"a": "b"},
        "model": "fake",
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 0.25,
        "truncation": "disabled",
        "usage": {
            "input_tokens": num_prompt,
            "input_tokens_details": {"cached_tokens": 3},
            "output_tokens": 13,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": num_prompt + 13,
        },
        "user": "Ann",
    }


async def test_order_of_events(served: Served) -> None:
    created, progress, item_added, part_added, *deltas, text, part, item, last = await stream(
        served, max_output_tokens=4
    )
    response_id, item_id = created["response"]["id"], item_added["item"]["id"]
    at = {"item_id": item_id, "output_index": 0, "content_index": 0}
    whole = {"type": "output_text", "text": "[use", "annotations": [], "logprobs": []}
    assert (created["type"], progress["type"]) == ("response.created", "response.in_progress")
    assert created["response"]["status"] == "in_progress"
    assert created["response"]["output"] == []
    assert created["response"]["usage"] is None
    assert item_added["type"] == "response.output_item.added"
    assert (item_added["item"]["status"], item_added["item"]["content"]) == ("in_progress", [])
    assert part_added == {"type": "response.content_part.added", **at, "part": whole | {"text": ""}}
    assert deltas == [
        {"type": "response.output_text.delta", **at, "delta": letter, "logprobs": []} for letter in "[use"
    ]
    assert text == {"type": "response.output_text.done", **at, "text": "[use", "logprobs": []}
    assert part == {"type": "response.content_part.done", **at, "part": whole}
    assert item["type"] == "response.output_item.done"
    assert item["item"] == {
        "id": item_id,
        "type": "message",
        "status": "incomplete",
        "role": "assistant",
        "content": [whole],
    }
    assert last["type"] == "response.incomplete"
    assert last["response"]["output"] == [item["item"]]
    assert last["response"]["usage"]["output_tokens"] == 4
    assert await get(served, response_id) == last["response"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"max_output_tokens": 3},
        {"stop": "r]h"},
        {"stop": "["},
        {"input": "日本語 ça va 🎉", "max_output_tokens": 33},
    ],
)
async def test_joined_deltas_equal_the_whole_answer(body: dict) -> None:
    async with serve_in_process(FakeEngine(answer_tokens=40)) as served:
        whole = await create(served, **body)
        found = await stream(served, **body)
    joined = "".join(each["delta"] for each in found if each["type"] == "response.output_text.delta")
    assert joined == text_of(whole) == text_of(found[-1]["response"])
    for name in ("status", "incomplete_details", "usage"):
        assert found[-1]["response"][name] == whole[name]


async def test_conversations_reach_the_template(served: Served) -> None:
    answer = (await create(served, max_output_tokens=4))["output"][0]
    turns = [
        {"role": "developer", "content": "be kind"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        answer,  # as it came
        {"role": "user", "content": "b"},
    ]
    await create(served, input=turns, instructions="be brief")
    assert prompt(served) == (
        "[system]be brief\n[system]be kind\n[user]a\n[assistant][use\n[user]b\n[assistant]"
    )


async def test_instructions_do_not_carry_over(served: Served) -> None:
    first = await create(served, instructions="be brief", max_output_tokens=4)
    second = await create(served, previous_response_id=first["id"], instructions="sing", input="b")
    assert prompt(served) == "[system]sing\n[user]hi\n[assistant][sys\n[user]b\n[assistant]"
    await create(served, previous_response_id=second["id"], input="c")
    assert prompt(served).startswith("[user]hi\n[assistant][sys\n[user]b\n[assistant]")
    assert prompt(served).endswith("\n[user]c\n[assistant]")


async def test_only_what_shall_be_stored_is(served: Served) -> None:
    kept, lost = await create(served), await create(served, store=False)
    assert (kept["store"], lost["store"]) == (True, False)
    assert await get(served, kept["id"]) == kept
    assert (await served.client.get(f"/v1/responses/{lost['id']}")).status_code == 404
    answer = (await post(served, previous_response_id=lost["id"])).json()["error"]
    assert (answer["param"], answer["code"]) == ("previous_response_id", "previous_response_not_found")


async def test_the_longest_unused_is_forgotten_first() -> None:
    async with serve_in_process(settings=ServerSettings(max_stored_responses=2)) as served:
        first, second = await create(served), await create(served)
        await get(served, first["id"])
        third = await create(served)
        status = {
            each["id"]: (await served.client.get(f"/v1/responses/{each['id']}")).status_code
            for each in (first, second, third)
        }
    assert list(status.values()) == [200, 404, 200]


async def test_the_memory_of_responses_is_bounded() -> None:
    async with serve_in_process(settings=ServerSettings(max_stored_bytes=4000)) as served:
        made = [await create(served, input="x" * 400) for _ in range(20)]
        codes = [(await served.client.get(f"/v1/responses/{each['id']}")).status_code for each in made]
    assert codes.count(200) == 2  # of two messages each, 512 bytes and their texts
    assert codes[-2:] == [200, 200]


async def test_background(served: Served) -> None:
    served.engine.going.clear()
    queued = await create(served, background=True, max_output_tokens=4)
    assert (queued["status"], queued["background"], queued["output"]) == ("queued", True, [])
    await until(lambda: bool(served.engine.running), "it runs")
    assert (await get(served, queued["id"]))["status"] == "in_progress"
    early = await post(served, previous_response_id=queued["id"])
    assert early.json()["error"]["param"] == "previous_response_id"
    assert served.context.num_in_flight == 1  # the server's end waits for it
    served.engine.going.set()
    done = await ended(served, queued["id"])
    assert (done["status"], text_of(done), done["usage"]["output_tokens"]) == ("incomplete", "[use", 4)
    await create(served, previous_response_id=queued["id"], input="b")
    assert prompt(served) == "[user]hi\n[assistant][use\n[user]b\n[assistant]"


@pytest.mark.parametrize("has_begun", [False, True])
async def test_cancel(served: Served, has_begun: bool) -> None:
    served.engine.going.clear()
    queued = await create(served, background=True)
    if has_begun:
        await until(lambda: bool(served.engine.running), "it runs")
    for _ in range(2):
        cancelled = (await served.client.post(f"/v1/responses/{queued['id']}/cancel")).json()
        assert (cancelled["status"], cancelled["output"]) == ("cancelled", [])
    assert served.engine.running == set()
    assert (await ended(served, queued["id"]))["status"] == "cancelled"


async def test_only_background_responses_can_be_cancelled(served: Served) -> None:
    made = await create(served)
    response = await served.client.post(f"/v1/responses/{made['id']}/cancel")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "response_id"


async def test_delete(served: Served) -> None:
    made = await create(served)
    served.engine.going.clear()
    queued = await create(served, background=True)
    await until(lambda: bool(served.engine.running), "it runs")
    for each in (made, queued):
        path = f"/v1/responses/{each['id']}"
        assert (await served.client.delete(path)).json() == {
            "id": each["id"],
            "object": "response",
            "deleted": True,
        }
        assert (await served.client.get(path)).status_code == 404
        assert (await served.client.delete(path)).status_code == 404
        assert (await served.client.post(f"{path}/cancel")).status_code == 404
    assert served.engine.running == set()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (engine_died(), "server_error"),
        (Overloaded("full"), "rate_limit_exceeded"),
        (RuntimeError("secret"), "server_error"),
    ],
)
async def test_failure_in_the_background(served: Served, error: Exception, code: str) -> None:
    served.engine.refuse_with = error
    failed = await ended(served, (await create(served, background=True))["id"])
    assert (failed["status"], failed["error"]["code"]) == ("failed", code)
    assert "secret" not in json.dumps(failed)


async def test_only_so_many_run_in_the_background() -> None:
    async with serve_in_process(settings=ServerSettings(max_stored_responses=2)) as served:
        served.engine.going.clear()
        made = [await create(served, background=True) for _ in range(2)]
        assert (await post(served, background=True)).status_code == 429
        served.engine.going.set()
        for each in made:
            assert (await ended(served, each["id"]))["status"] == "completed"


async def test_death_in_mid_stream(served: Served) -> None:
    served.engine.fail_after = (3, engine_died())
    first, *_, last = await stream(served)
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"] == {
        "code": "server_error",
        "message": "the engine process ended; it is being restarted",
    }
    assert (await served.client.get(f"/v1/responses/{first['response']['id']}")).status_code == 404


@pytest.mark.parametrize("streamed", [False, True])
async def test_failure_before_the_first_byte_is_plain_http(served: Served, streamed: bool) -> None:
    served.engine.refuse_with = Overloaded("full", retry_after=3)
    response = await post(served, stream=streamed)
    assert response.status_code == 429
    assert response.json()["error"]["type"] == "overloaded"


async def test_a_client_that_goes_ends_the_work() -> None:
    async with serve_on_port(FakeEngine(answer_tokens=10_000)) as (served, _):
        served.engine.step_seconds = 0.01
        task = asyncio.create_task(post(served, stream=True))
        await until(lambda: bool(served.engine.running), "it runs")
        task.cancel()
        await until(lambda: not served.engine.running, "it is aborted")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "a", "output": "b"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 10**6}, "max_output_tokens"),
        ({"input": "x" * 5000}, "input"),
        ({"temperature": 9}, "temperature"),
        ({"background": True, "stream": True}, "background"),
        ({"background": True, "store": False}, "background"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"tools": [{"type": "function", "name": "f"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "b"}]}, "input[0].arguments"),
        ({"input": [{"role": "user", "content": "a", "call_id": "b"}]}, "input[0].call_id"),
        ({"input": [{"content": "a"}]}, "input[0].role"),
        ({"text": {"format": {"type": "json_schema", "name": "s", "schema": {"not": {}}}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 100}, "top_logprobs"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
async def test_refusals(served: Served, body: dict, param: str) -> None:
    response = await post(served, **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert served.engine.running == set()


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, StructuredOutputsParams(json_object=True)),
        (
            {"type": "json_schema", "name": "s", "schema": SCHEMA, "strict": True, "description": "d"},
            StructuredOutputsParams(json=SCHEMA),
        ),
    ],
)
async def test_the_form_of_the_text(
    served: Served, form: dict, expected: StructuredOutputsParams | None
) -> None:
    response = await create(served, text={"format": form})
    assert served.engine.seen[-1][1].structured_outputs == expected
    assert response["text"]["format"] == form


async def test_log_probabilities() -> None:
    """Those of the message's tokens, in the whole answer as in the stream, and of no others."""
    body = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    async with serve_in_process(FakeEngine(script=["Grüße!"])) as served:
        plain = (await create(served, **body))["output"][0]["content"][0]
    # One token is a byte.
    assert bytes(b for entry in plain["logprobs"] for b in entry["bytes"]).decode() == "Grüße!"
    assert [entry["logprob"] for entry in plain["logprobs"]] == [-1.0] * 8
    assert all(len(entry["top_logprobs"]) == 2 for entry in plain["logprobs"])
    thoughtful = FakeEngine(
        template=TEMPLATE, max_model_len=4096, script=["<think>\n Hello!\n</think>\n\n Hello! Ä\n"]
    )
    async with serve_in_process(thoughtful) as served:
        response = await create(served, **body)
        events = await stream(served, **body)
    (_, message) = response["output"]
    entries = message["content"][0]["logprobs"]
    assert bytes(b for entry in entries for b in entry["bytes"]).decode() == "Hello! Ä\n"
    deltas = [each for each in events if each["type"] == "response.output_text.delta"]
    assert [entry for delta in deltas for entry in delta["logprobs"]] == entries
    for delta in deltas:
        said = bytes(b for entry in delta["logprobs"] for b in entry["bytes"]).decode()
        assert said == delta["delta"]
    assert events[-1]["response"]["output"][1]["content"] == message["content"]
    async with serve_in_process(FakeEngine(script=["a"])) as served:
        again = [{"role": "user", "content": "hi"}, *(await create(served, **body))["output"]]
        assert (await create(served, input=again))["status"] == "completed"


async def test_a_response_is_not_streamed_again(served: Served) -> None:
    path = f"/v1/responses/{(await create(served))['id']}"
    assert (await served.client.get(path, params={"stream": "false"})).status_code == 200
    for params in ({"stream": "true"}, {"include": "x"}, {"starting_after": "3"}):
        response = await served.client.get(path, params=params)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == next(iter(params))

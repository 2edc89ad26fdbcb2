"""TGI's API on the wire: shapes, what reaches the engine, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from quire.errors import EngineError, Overloaded

from .conftest import Served, serve_in_process
from .fake_engine import EOS, FakeEngine, engine_died

# What the text-generation package sends with every request.
CLIENT_PARAMETERS = {
    "best_of": None,
    "decoder_input_details": False,
    "details": True,
    "do_sample": False,
    "frequency_penalty": None,
    "grammar": None,
    "max_new_tokens": 20,
    "repetition_penalty": None,
    "return_full_text": False,
    "seed": None,
    "stop": [],
    "temperature": None,
    "top_k": None,
    "top_n_tokens": None,
    "top_p": None,
    "truncate": None,
    "typical_p": None,
    "watermark": False,
}


async def generate(served: Served, path: str = "/generate", **parameters: object) -> httpx.Response:
    return await served.client.post(path, json={"inputs": "hello", "parameters": parameters})


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = [block for block in response.text.split("\n\n") if block]
    return [json.loads(block.removeprefix("data:")) for block in blocks]


def params(served: Served) -> Any:
    return served.engine.seen[-1][1]


async def test_answer(served: Served) -> None:
    response = await served.client.post("/generate", json={"inputs": "hello"})
    assert response.json() == {"generated_text": "hellohellohe"}
    assert (params(served).temperature, params(served).max_tokens) == (0.0, 100)


async def test_details(served: Served) -> None:
    answer = (await generate(served, **CLIENT_PARAMETERS)).json()
    details = answer["details"]
    tokens = details.pop("tokens")
    assert details == {"finish_reason": "eos_token", "generated_tokens": 13, "seed": None, "prefill": []}
    assert "".join(token["text"] for token in tokens if not token["special"]) == answer["generated_text"]
    assert tokens[-1] == {"id": EOS, "text": "<eos>", "logprob": -1.0, "special": True}


async def test_the_prompt_and_the_most_likely_tokens(served: Served) -> None:
    answer = await generate(
        served, details=True, decoder_input_details=True, top_n_tokens=3, max_new_tokens=2
    )
    details = answer.json()["details"]
    assert [token["text"] for token in details["prefill"]] == list("hello")
    assert [token["logprob"] is None for token in details["prefill"]] == [True, False, False, False, False]
    assert [len(top) for top in details["top_tokens"]] == [3, 3]
    assert all(top[0]["logprob"] >= top[1]["logprob"] for top in details["top_tokens"])


async def test_a_stream_says_the_same(served: Served) -> None:
    whole = (await generate(served, details=True, top_n_tokens=2, stop=["lo"])).json()
    *first, last = parts = events(
        await generate(served, "/generate_stream", details=True, top_n_tokens=2, stop=["lo"])
    )
    assert [part["token"] for part in parts] == whole["details"]["tokens"]
    assert [part["top_tokens"] for part in parts] == whole["details"]["top_tokens"]
    assert [part["index"] for part in parts] == list(range(1, len(parts) + 1))
    assert all(part["generated_text"] is None and part["details"] is None for part in first)
    assert last["generated_text"] == whole["generated_text"] == "hello"
    assert last["details"] == {
        "finish_reason": "stop_sequence",
        "generated_tokens": 5,
        "seed": None,
        "input_length": 5,
    }


async def test_characters_of_several_tokens(served: Served) -> None:
    body = {"inputs": "🌍é", "parameters": {"max_new_tokens": 7}}
    parts = events(await served.client.post("/generate_stream", json=body))
    assert [part["token"]["text"] for part in parts] == ["", "", "", "🌍", "", "é", "�"]
    assert parts[-1]["generated_text"] == "🌍é�"


async def test_the_root_answers_in_both_ways(served: Served) -> None:
    body = {"inputs": "hello", "parameters": {"max_new_tokens": 3}}
    assert (await served.client.post("/", json=body)).json() == [{"generated_text": "hel"}]
    assert (await served.client.post("/", json=body | {"stream": False})).json()[0]["generated_text"] == "hel"
    parts = events(await served.client.post("/", json=body | {"stream": True}))
    assert parts[-1]["generated_text"] == "hel"
    for path, stream in (("/generate", True), ("/generate_stream", False)):
        assert (await served.client.post(path, json=body | {"stream": stream})).status_code == 422


async def test_parameters_reach_the_sampler(served: Served) -> None:
    await generate(
        served,
        temperature=0.5,
        top_k=7,
        top_p=0.6,
        repetition_penalty=1.25,
        frequency_penalty=0.5,
        max_new_tokens=5,
        seed=3,
        stop=["x"],
    )
    found = params(served)
    assert (found.temperature, found.top_k, found.top_p) == (0.5, 7, 0.6)
    assert (found.repetition_penalty, found.frequency_penalty) == (1.25, 0.5)
    assert (found.max_tokens, found.seed, list(found.stop)) == (5, 3, ["x"])


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        ({}, 0.0),
        ({"do_sample": False, "temperature": 1.0}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"temperature": 0.7}, 0.7),
        ({"top_k": 5}, 1.0),
        ({"top_p": 0.5}, 1.0),
    ],
)
async def test_what_asks_for_sampling(
    served: Served, parameters: dict[str, object], temperature: float
) -> None:
    answer = (await generate(served, details=True, **parameters)).json()
    assert params(served).temperature == temperature
    # The seed by which the answer can be had again.
    assert answer["details"]["seed"] == params(served).seed
    assert (params(served).seed is not None) == (temperature > 0)


async def test_best_of(served: Served) -> None:
    """The fake engine's second choice is the likelier one."""
    answer = (await generate(served, details=True, best_of=2, do_sample=True, seed=5)).json()
    (other,) = answer["details"]["best_of_sequences"]
    assert answer["generated_text"] == "ellohellohel"
    assert other["generated_text"] == "hellohellohe"
    assert (other["seed"], answer["details"]["seed"]) == (5, 6)
    short = (await generate(served, best_of=2, do_sample=True)).json()
    assert short == {"generated_text": "ellohellohel"}


async def test_the_prompt_can_be_cut_and_repeated(served: Served) -> None:
    answer = (await generate(served, truncate=3, return_full_text=True, max_new_tokens=4)).json()
    assert served.engine.tokenizer.decode(served.engine.seen[-1][0]) == "llo"
    assert answer["generated_text"] == "hello" + "llol"
    parts = events(await generate(served, "/generate_stream", return_full_text=True, max_new_tokens=1))
    assert parts[0]["generated_text"] == "helloh"


async def test_grammars_hold_the_sampler(served: Served) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for grammar in (
        {"type": "json", "value": schema},
        {"type": "json", "value": json.dumps(schema)},
        {"type": "json_schema", "value": {"name": "a", "schema": schema}},
    ):
        assert (await generate(served, grammar=grammar)).status_code == 200
        assert json.loads(params(served).structured_outputs.json) == schema
    await generate(served, grammar={"type": "regex", "value": "[a-z]+"})
    assert params(served).structured_outputs.regex == "[a-z]+"


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"watermark": True}, "watermark"),
        ({"typical_p": 0.9}, "typical_p"),
        ({"adapter_id": "x"}, "adapter_id"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": 9.0}, "temperature"),
        ({"top_p": 2.0}, "top_p"),
        ({"top_k": "3"}, "top_k"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 600}, "max_new_tokens"),
        ({"truncate": 0}, "truncate"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 0}, "best_of"),
        ({"top_n_tokens": 21, "details": True}, "top_n_tokens"),
        ({"top_n_tokens": 2}, "top_n_tokens"),
        ({"decoder_input_details": True}, "decoder_input_details"),
        ({"stop": [""]}, "stop"),
        ({"grammar": {"type": "regex", "value": "["}}, "grammar"),
        ({"grammar": {"type": "regex", "value": 5}}, "grammar"),
        ({"grammar": {"type": "json", "value": 5}}, "grammar"),
        ({"grammar": {"type": "json_schema", "value": {}}}, "grammar"),
        ({"made_up": 1}, "made_up"),
    ],
)
async def test_what_cannot_be_honoured_is_refused(
    served: Served, parameters: dict[str, object], named: str
) -> None:
    response = await generate(served, **parameters)
    assert response.status_code == 422, response.text
    assert response.json()["error_type"] == "validation"
    assert named in response.json()["error"]
    assert served.engine.seen == []


async def test_what_a_stream_refuses(served: Served) -> None:
    for parameters in ({"best_of": 2, "do_sample": True}, {"details": True, "decoder_input_details": True}):
        assert (await generate(served, "/generate_stream", **parameters)).status_code == 422
    for body in ({}, {"inputs": ""}, {"prompt": "hello"}, {"inputs": "x", "model": "fake"}):
        assert (await served.client.post("/generate", json=body)).status_code == 422


async def test_failures_have_tgis_shape(served: Served) -> None:
    for error, status, kind in (
        (Overloaded("the queue is full", retry_after=7), 429, "overloaded"),
        (EngineError("it failed"), 424, "generation"),
        (RuntimeError("secret"), 500, "generation"),
    ):
        served.engine.refuse_with = error
        for path in ("/generate", "/generate_stream"):
            response = await generate(served, path)
            assert (response.status_code, response.json()["error_type"]) == (status, kind)
            assert "secret" not in response.text
    served.engine.refuse_with = None
    served.engine.fail_after = (3, engine_died())
    *parts, last = events(await generate(served, "/generate_stream"))
    assert len(parts) == 3
    assert (list(last), last["error_type"]) == (["error", "error_type"], "generation")


async def test_the_default_length_gives_way_to_a_long_prompt() -> None:
    async with serve_in_process(FakeEngine(max_model_len=8)) as served:
        assert (await generate(served)).json() == {"generated_text": "hel"}


async def test_info(served: Served) -> None:
    info = (await served.client.get("/info")).json()
    assert (info["model_id"], info["max_total_tokens"], info["max_input_tokens"]) == ("fake", 512, 511)
    assert (await served.client.get("/health")).status_code == 200


async def test_chat_tokenize(served: Served) -> None:
    body = {"model": "tgi", "messages": [{"role": "user", "content": "h🌍"}]}
    answer = (await served.client.post("/chat_tokenize", json=body)).json()
    text = answer["templated_text"]
    assert text == "[user]h🌍\n[assistant]"
    tokens = answer["tokenize_response"]
    assert [token["id"] for token in tokens] == served.engine.tokenizer.encode(text)
    assert "".join(text[token["start"] : token["stop"]] for token in tokens) == text
    refused = await served.client.post("/chat_tokenize", json=body | {"model": "other"})
    assert (refused.status_code, refused.json()["error_type"]) == (404, "validation")

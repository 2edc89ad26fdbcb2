"""The llama.cpp server's API on the wire: shapes, what reaches the engine, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from quire.errors import EngineError, Overloaded, Unavailable
from quire.models.config import GenerationDefaults

from .conftest import Served, serve_in_process
from .fake_engine import EOS, FakeEngine, engine_died

# What llama.cpp's own web page sends with every completion.
CLIENT_FIELDS = {
    "temperature": 0.8,
    "dynatemp_range": 0,
    "dynatemp_exponent": 1,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "typical_p": 1,
    "xtc_probability": 0,
    "xtc_threshold": 0.1,
    "repeat_last_n": 64,
    "repeat_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "dry_multiplier": 0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": -1,
    "mirostat": 0,
    "n_keep": 0,
    "n_predict": -1,
    "id_slot": -1,
    "cache_prompt": True,
    "seed": -1,
    "n_probs": 0,
    "stop": [],
    "grammar": "",
}


async def complete(served: Served, **body: object) -> httpx.Response:
    return await served.client.post("/completion", json={"prompt": "hello"} | body)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(block.removeprefix("data: ")) for block in response.text.split("\n\n") if block]


def params(served: Served) -> Any:
    return served.engine.seen[-1][1]


async def test_answer(served: Served) -> None:
    answer = (await complete(served, **CLIENT_FIELDS)).json()
    assert (answer["content"], answer["tokens"]) == ("hellohellohe", [])
    assert (answer["stop"], answer["stop_type"], answer["stopping_word"]) == (True, "eos", "")
    assert (answer["tokens_evaluated"], answer["tokens_predicted"], answer["tokens_cached"]) == (5, 13, 0)
    assert (answer["prompt"], answer["model"], answer["truncated"]) == ("hello", "fake", False)
    settings = answer["generation_settings"]
    assert (settings["n_predict"], settings["seed"]) == (-1, params(served).seed)
    assert params(served).max_tokens == served.engine.max_model_len - 5


async def test_timings_tell_cached_tokens_from_computed_ones(served: Served) -> None:
    served.engine.num_cached_tokens = 2
    answer = (await complete(served)).json()
    timings = answer["timings"]
    assert (timings["cache_n"], timings["prompt_n"], timings["predicted_n"]) == (2, 3, 13)
    assert answer["tokens_cached"] == 2
    assert timings["prompt_per_token_ms"] * 3 == pytest.approx(timings["prompt_ms"])
    assert timings["predicted_per_second"] * timings["predicted_ms"] == pytest.approx(13_000)


async def test_a_stream_says_the_same(served: Served) -> None:
    whole = (await complete(served, n_probs=2, return_tokens=True, seed=3)).json()
    *parts, last = events(await complete(served, n_probs=2, seed=3, stream=True))
    assert "".join(part["content"] for part in parts) == whole["content"]
    assert [token for part in parts for token in part["tokens"]] == whole["tokens"]
    probabilities = [entry for part in parts for entry in part["completion_probabilities"]]
    assert probabilities == whole["completion_probabilities"]
    assert not any(part["stop"] for part in parts)
    assert (last["content"], last["stop"]) == ("", True)
    for name in ("stop_type", "tokens_predicted", "tokens_evaluated", "prompt", "has_new_line"):
        assert last[name] == whole[name]
    assert last["generation_settings"] == whole["generation_settings"] | {"stream": True}


async def test_probabilities(served: Served) -> None:
    answer = (await complete(served, n_probs=3, n_predict=2)).json()
    first, _ = answer["completion_probabilities"]
    assert (first["token"], first["bytes"], first["logprob"]) == ("h", [104], -1.0)
    top = [entry["logprob"] for entry in first["top_logprobs"]]
    assert len(top) == 3
    assert top[0] == max(top)
    assert "completion_probabilities" not in (await complete(served)).json()


@pytest.mark.parametrize(
    ("fields", "kind", "word", "content"),
    [
        ({"n_predict": 3}, "limit", "", "hel"),
        ({"stop": ["lo"]}, "word", "lo", "hel"),
        ({}, "eos", "", "hellohellohe"),
    ],
)
async def test_why_it_stopped(
    served: Served, fields: dict[str, object], kind: str, word: str, content: str
) -> None:
    for stream in (False, True):
        response = await complete(served, stream=stream, **fields)
        last = events(response)[-1] if stream else response.json()
        assert (last["stop_type"], last["stopping_word"]) == (kind, word)
    assert (await complete(served, **fields)).json()["content"] == content


async def test_prompts_of_tokens_and_texts(served: Served) -> None:
    ids = served.engine.tokenizer.encode("ab")
    await complete(served, prompt=[*ids, "cd", ids[0]])
    assert served.engine.tokenizer.decode(served.engine.seen[-1][0]) == "abcda"
    await complete(served, prompt=["one"])
    assert served.engine.tokenizer.decode(served.engine.seen[-1][0]) == "one"


async def test_parameters_reach_the_sampler(served: Served) -> None:
    await complete(
        served,
        temperature=0.5,
        top_k=7,
        top_p=0.6,
        min_p=0.1,
        repeat_penalty=1.25,
        repeat_last_n=-1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=3,
        ignore_eos=True,
        n_predict=5,
        logit_bias=[[65, 2.5]],
    )
    found = params(served)
    assert (found.temperature, found.top_k, found.top_p, found.min_p) == (0.5, 7, 0.6, 0.1)
    assert (found.repetition_penalty, found.presence_penalty, found.frequency_penalty) == (1.25, 0.5, -0.5)
    assert (found.seed, found.ignore_eos, found.max_tokens, found.logit_bias) == (3, True, 5, {65: 2.5})
    await complete(served, logit_bias={"66": -1.0}, repeat_penalty=1.25, repeat_last_n=0)
    assert (params(served).logit_bias, params(served).repetition_penalty) == ({66: -1.0}, 1.0)


async def test_defaults_are_the_models_then_llama_cpps(served: Served) -> None:
    await complete(served)
    found = params(served)
    assert (found.temperature, found.top_k, found.top_p, found.min_p) == (0.8, 40, 0.95, 0.05)
    served.engine.model_config.generation = GenerationDefaults(temperature=0.3)
    await complete(served)
    assert params(served).temperature == 0.3


async def test_without_cache_prompt_nothing_cached_is_found(served: Served) -> None:
    for cache_prompt in (True, False, False):
        await complete(served, cache_prompt=cache_prompt)
    salts = [seen[3] for seen in served.engine.seen]
    assert salts[0] is None
    assert len(set(salts)) == 3


async def test_grammars_hold_the_sampler(served: Served) -> None:
    await complete(served, grammar='root ::= "yes" | "no"')
    assert params(served).structured_outputs.grammar == 'root ::= "yes" | "no"'
    await complete(served, json_schema={"type": "object"})
    assert json.loads(params(served).structured_outputs.json) == {"type": "object"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mirostat": 2}, "mirostat"),
        ({"typical_p": 0.9}, "typical_p"),
        ({"dry_multiplier": 0.8}, "dry_multiplier"),
        ({"xtc_probability": 0.5}, "xtc_probability"),
        ({"samplers": ["top_k"]}, "samplers"),
        ({"id_slot": 0}, "id_slot"),
        ({"response_fields": ["content"]}, "response_fields"),
        ({"lora": [{"id": 0, "scale": 1.0}]}, "lora"),
        ({"temperature": -1}, "temperature"),
        ({"top_k": "7"}, "top_k"),
        ({"repeat_penalty": 99}, "repeat_penalty"),
        ({"repeat_penalty": 1.1, "repeat_last_n": 64}, "repeat_last_n"),
        ({"n_predict": 0}, "n_predict"),
        ({"n_predict": -2}, "n_predict"),
        ({"n_keep": -2}, "n_keep"),
        ({"n_probs": 21}, "n_probs"),
        ({"logit_bias": [[65, False]]}, "logit_bias"),
        ({"logit_bias": {"A": 1.0}}, "logit_bias"),
        ({"logit_bias": {"9999": 1.0}}, "logit_bias"),
        ({"grammar": "no grammar"}, "grammar"),
        ({"grammar": 'root ::= "a"', "json_schema": {}}, "grammar"),
        ({"prompt": ["one", "two"]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [99_999]}, "prompt"),
        ({"made_up": 1}, "made_up"),
    ],
)
async def test_what_cannot_be_honoured_is_refused(
    served: Served, fields: dict[str, object], named: str
) -> None:
    for stream in (False, True):
        response = await complete(served, stream=stream, **fields)
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert (error["code"], error["type"]) == (400, "invalid_request_error")
        assert named in error["message"]
    assert served.engine.seen == []


async def test_failures_have_llama_cpps_shape(served: Served) -> None:
    for error, status, kind in (
        (Overloaded("the queue is full", retry_after=7), 503, "unavailable_error"),
        (Unavailable("loading"), 503, "unavailable_error"),
        (EngineError("it failed"), 500, "server_error"),
        (RuntimeError("secret"), 500, "server_error"),
    ):
        served.engine.refuse_with = error
        for stream in (False, True):
            response = await complete(served, stream=stream)
            found = response.json()["error"]
            assert (response.status_code, found["code"], found["type"]) == (status, status, kind)
            assert "secret" not in response.text
    served.engine.refuse_with = None
    served.engine.fail_after = (3, engine_died())
    *parts, last = events(await complete(served, stream=True))
    assert len(parts) == 3
    assert last["error"]["type"] == "server_error"
    too_long = (await complete(served, prompt="x" * 512)).json()["error"]
    assert (too_long["code"], too_long["type"]) == (400, "exceed_context_size_error")
    assert (await complete(served, model="other")).json()["error"]["type"] == "not_found_error"


async def test_tokens_by_the_bodys_keys(served: Served) -> None:
    async def post(path: str, **body: object) -> httpx.Response:
        return await served.client.post(path, json=body)

    ids = served.engine.tokenizer.encode("hé")
    assert (await post("/tokenize", content="hé")).json() == {"tokens": ids}
    pieces = (await post("/tokenize", content="hé", with_pieces=True, add_special=False)).json()["tokens"]
    assert pieces == [
        {"id": ids[0], "piece": "h"},
        {"id": ids[1], "piece": [0xC3]},
        {"id": ids[2], "piece": [0xA9]},
    ]
    placed = (await post("/tokenize", inputs="hé")).json()
    assert [token["id"] for token in placed] == ids
    assert [(token["start"], token["stop"]) for token in placed] == [(0, 1), (1, 1), (1, 2)]
    text = (await post("/detokenize", tokens=[*ids, EOS])).json()
    assert text == {"content": "hé<eos>", "prompt": "hé<eos>"}

    for body in ({"content": "x", "parse_special": False}, {"content": 5}):
        response = await post("/tokenize", **body)
        assert (response.status_code, response.json()["error"]["code"]) == (400, 400)
    # Without these keys it is vLLM's form, with the errors of OpenAI's API.
    assert (await post("/tokenize")).json()["error"]["code"] == "missing_parameter"
    refused = await post("/tokenize", inputs=5)
    assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
    assert "99999" in (await post("/detokenize", tokens=[99999])).json()["error"]["message"]


async def test_apply_template(served: Served) -> None:
    messages = [{"role": "user", "content": "hi"}]
    answer = await served.client.post("/apply-template", json={"messages": messages})
    assert answer.json() == {"prompt": "[user]hi\n[assistant]"}
    assert (await served.client.post("/apply-template", json={"messages": []})).status_code == 400


async def test_props_and_slots() -> None:
    fake = FakeEngine()
    async with serve_in_process(fake) as served:
        props = (await served.client.get("/props")).json()
        slots = (await served.client.get("/slots")).json()
        assert props["total_slots"] == len(slots) == fake.config.max_num_seqs
        assert props["default_generation_settings"]["params"]["temperature"] == 0.8
        assert props["default_generation_settings"]["n_ctx"] == slots[0]["n_ctx"] == 512
        assert props["eos_token"] == "<eos>"
        fake.stats.num_running = 2
        slots = (await served.client.get("/slots?fail_on_no_slot=1")).json()
        assert [slot["is_processing"] for slot in slots[:3]] == [True, True, False]
        fake.stats.num_running = len(slots)
        assert (await served.client.get("/slots?fail_on_no_slot=1")).status_code == 503
        assert (await served.client.get("/slots?fail_on_no_slot=x")).status_code == 400


async def test_routes_that_are_refused(served: Served) -> None:
    for path in ("infill", "props", "slots/0", "lora-adapters"):
        response = await served.client.post(f"/{path}", json={})
        assert (response.status_code, response.json()["error"]["type"]) == (501, "not_supported_error")

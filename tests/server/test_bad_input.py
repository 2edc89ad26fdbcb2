"""Values that cannot be honoured: each is refused with the field's name, and the engine never sees it."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from quire.server.settings import ServerSettings

from .conftest import Served, serve_in_process, until

HUGE = 2**63


async def refusal(response, status: int = 400) -> dict:
    """The error object, which must be OpenAI's."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (name, error), *others = response.json().items()
    assert (name, others) == ("error", [])
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 10**9}, "n"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": "1"}, "n"),
        ({"n": 1.5}, "n"),
        ({"best_of": 10**9}, "best_of"),
        ({"best_of": 2, "n": 0}, "n"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": HUGE}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": 10**6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": HUGE}, "seed"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [257]}, "prompt"),
        ({"prompt": [HUGE]}, "prompt"),
        ({"prompt": ["a", [1]]}, "prompt"),
        ({"prompt": [[1], "a"]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [1, True]}, "prompt[1]"),
        ({"prompt": [[1, "a"]]}, "prompt[0][1]"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": ["a"] * 2000}, "prompt"),
        ({"prompt": ["a"] * 1000, "n": 2}, "n"),
        ({"logit_bias": {"257": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"1": None}}, "logit_bias[...]"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"stop_token_ids": [257]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"allowed_token_ids": [HUGE]}, "allowed_token_ids"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"stop": [str(number) for number in range(10_000)]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": "x" * 100_000}, "stop"),
        ({"stop": 5}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"other": True}}, "stream_options.other"),
        ({"stream": "yes"}, "stream"),
        ({"suffix": "end"}, "suffix"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"guided_regex": "foo**"}, "guided_regex"),
        ({"guided_regex": "a{1,100000}"}, "guided_regex"),
        ({"guided_regex": "(a"}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_json": {"type": "nothing"}}, "guided_json"),
        ({"guided_json": "[" * 1000 + "]" * 1000}, "guided_json"),
        ({"guided_grammar": "start: ((("}, "guided_grammar"),
        ({"guided_json": {"enum": list(range(100_000))}}, "guided_json"),
        ({"guided_json": {"$ref": "http://169.254.169.254/x.json"}}, "guided_json"),
        ({"guided_json": {"patternProperties": {f"^p{i}$": {} for i in range(1000)}}}, "guided_json"),
        ({"guided_json": {"not": {}}}, "guided_json"),
        ({"guided_json": {"x-guidance": {"lenient": True}}}, "guided_json"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "other": 1}}, "structured_outputs.other"),
        ({"structured_outputs": {"structural_tag": {"structures": []}}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a"}, "ignore_eos": True}, "ignore_eos"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"use_beam_search": True, "n": 21}, "beam_width"),
        ({"use_beam_search": True, "temperature": 0.5}, "temperature"),
        ({"use_beam_search": True, "stream": True}, "stream"),
        ({"use_beam_search": True, "stop": "x"}, "stop"),
        ({"use_beam_search": True, "logit_bias": {"1": 1}}, "logit_bias"),
        ({"use_beam_search": True, "guided_regex": "a"}, "guided_regex"),
        ({"use_beam_search": True, "prompt_logprobs": 0}, "prompt_logprobs"),
        ({"use_beam_search": True, "max_tokens": 1000}, "max_tokens"),
        ({"use_beam_search": True, "length_penalty": 11}, "length_penalty"),
        ({"use_beam_search": 1}, "use_beam_search"),
        ({"length_penalty": 0.5}, "length_penalty"),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats",
        ),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 513}, "truncate_prompt_tokens"),
        ({"return_tokens_as_token_ids": 1}, "return_tokens_as_token_ids"),
        ({"bad_words": [""]}, "bad_words"),
        ({"bad_words": ["  "]}, "bad_words"),
        ({"bad_words": ["x" * 1000]}, "bad_words"),
        ({"bad_words": ["x"] * 1000}, "bad_words"),
        ({"bad_words": "x"}, "bad_words"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"request_id": "a\r\nb"}, "request_id"),
        ({"request_id": ""}, "request_id"),
        ({"user": "x" * 300}, "user"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"priority": HUGE}, "priority"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"messages": []}, "messages"),
    ],
)
async def test_completions(served: Served, body: dict, param: str) -> None:
    error = await refusal(await served.complete(**body))
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert served.engine.running == set()
    assert served.engine.stats.generation_tokens == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": []}]}, "messages[0].tool_calls"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}
                ]
            },
            "messages[0].content[0].type",
        ),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 10**6}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "none"}, "tool_choice"),
        ({"parallel_tool_calls": True}, "parallel_tool_calls"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 1}}}},
            "response_format",
        ),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"documents": [{}]}, "documents"),
        ({"audio": {}}, "audio"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"store": True}, "store"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True}, "echo"),
        ({"prompt": "x"}, "prompt"),
    ],
)
async def test_chat(served: Served, body: dict, param: str) -> None:
    error = await refusal(await served.chat(**body))
    assert error["param"] == param
    assert served.engine.seen == []


async def test_what_asks_for_nothing_is_accepted(served: Served) -> None:
    neutral = {
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "service_tier": "auto",
        "store": False,
        "use_beam_search": False,
        "bad_words": [],
        "tools": None,
    }
    assert (await served.chat(**neutral)).status_code == 200


async def test_prompts_that_exceed_the_context(served: Served) -> None:
    for body in ({"prompt": "x" * 512}, {"prompt": [1] * 512}, {"prompt": "x" * 500, "max_tokens": 13}):
        error = await refusal(await served.complete(**body))
        assert error["code"] == "context_length_exceeded"
    message = {"role": "user", "content": "x" * 600}
    assert (await refusal(await served.chat(messages=[message])))["code"] == "context_length_exceeded"


async def test_length_is_checked_before_tokenising(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*args: object, **kwargs: object) -> None:
        raise AssertionError("tokenised")

    monkeypatch.setattr(served.engine.tokenizer, "encode_batch", encode)
    monkeypatch.setattr(type(served.engine.chat_template), "render", encode)
    text = "a" * 15_000_000
    for response in (
        await served.complete(prompt=text),
        await served.complete(prompt=[text, text[:10]]),
        await served.chat(messages=[{"role": "user", "content": text}]),
        await served.chat(messages=[{"role": "user", "content": [{"type": "text", "text": text}]}]),
    ):
        assert (await refusal(response))["code"] == "context_length_exceeded"


@pytest.mark.parametrize("name", ["other", "../x", "", "/etc/passwd", "a\0b", "x" * 100_000])
async def test_unknown_models(served: Served, name: str) -> None:
    error = await refusal(await served.complete(model=name), 404)
    assert (error["type"], error["code"], error["param"]) == ("not_found_error", "model_not_found", "model")
    assert len(error["message"]) < 2000


@pytest.mark.parametrize("path", ["other", "../x", "%2e%2e", "%2e%2e%2fx", "a%00b", "..%5cx", "%ff"])
async def test_unknown_models_by_path(served: Served, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: opened.append(args))
    error = await refusal(await served.client.get(f"/v1/models/{path}"), 404)
    assert error["type"] == "not_found_error"
    assert opened == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"prompt"',
        b'{"prompt": "a",}',
        b"{'prompt': 'a'}",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\\udc00\\ud800"}',
        b'{"\\udfff": "a"}',
        b'\xef\xbb\xbf{"prompt": "a"}',
        '{"prompt": "a"}'.encode("utf-16"),
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": -Infinity}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "seed": ' + b"1" * 5000 + b"}",
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "logit_bias": {"1": 1, "1": 2}}',
        b'{"prompt": "a\nb"}',
        b'{"prompt": ' + b"[" * 65 + b"]" * 65 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"prompt": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" + b"[]," * 1_100_000 + b"[]]",
    ],
    ids=lambda body: repr(body[:40]),
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_what_is_not_strict_json(served: Served, path: str, body: bytes) -> None:
    response = await served.client.post(path, content=body, headers={"content-type": "application/json"})
    assert (await refusal(response))["type"] == "invalid_request_error"


async def stream_of(num_bytes: int) -> AsyncIterator[bytes]:
    """A body whose length is not announced."""
    for _ in range(num_bytes // 100_000):
        yield b" " * 100_000


async def test_large_bodies(served: Served) -> None:
    headers = {"content-type": "application/json"}
    for content in (b" " * 17_000_000, stream_of(17_000_000)):
        error = await refusal(
            await served.client.post("/v1/completions", content=content, headers=headers), 413
        )
        assert error["type"] == "request_too_large"


async def test_bodies_in_memory_are_limited_together() -> None:
    """While one long body is being read, another one is refused; afterwards it is accepted."""
    async with serve_in_process(settings=ServerSettings(max_buffered_bytes=150_000)) as served:
        going = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b" " * 100_000
            await going.wait()
            yield b'{"prompt": "a"}'

        headers = {"content-type": "application/json"}

        def send(content: AsyncIterator[bytes]) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(
                served.client.post("/v1/completions", content=content, headers=headers)
            )

        first = send(slow())
        await until(lambda: served.context.num_body_bytes == 100_000, "the first is being read")
        error = await refusal(await send(stream_of(100_000)), 429)
        assert error["type"] == "overloaded"
        going.set()
        assert (await first).status_code == 200
        assert served.context.num_body_bytes == 0


async def test_media_types(served: Served) -> None:
    body = json.dumps({"prompt": "a"}).encode()
    for headers in (
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=latin-1"},
        {},
    ):
        content = gzip.compress(body) if "content-encoding" in headers else body
        await refusal(await served.client.post("/v1/completions", content=content, headers=headers), 415)
    fine = {"content-type": "application/json; charset=utf-8"}
    assert (await served.client.post("/v1/completions", content=body, headers=fine)).status_code == 200


async def test_routes(served: Served) -> None:
    await refusal(await served.client.get("/nothing"), 404)
    error = await refusal(await served.client.get("/v1/completions"), 405)
    assert error["code"] == "method_not_allowed"


async def test_control_streams_are_as_if_nothing_had_happened() -> None:
    """Good requests beside bad ones get what they get alone."""
    async with serve_in_process() as served:
        alone = (await served.chat(stream=True, max_tokens=50)).text
    async with serve_in_process() as served:
        served.engine.step_seconds = 0.001
        good = [asyncio.create_task(served.chat(stream=True, max_tokens=50)) for _ in range(4)]
        for body in ({"n": 10**9}, {"messages": []}, {"temperature": 9}, {"nonsense": 1}) * 10:
            await refusal(await served.chat(**body))
        texts = [(await task).text for task in good]
    strip = [json.loads(line[6:])["choices"] for line in alone.split("\n\n") if line.startswith("data: {")]
    for text in texts:
        assert strip == [
            json.loads(line[6:])["choices"] for line in text.split("\n\n") if line.startswith("data: {")
        ]

"""`/v1/completions` on the wire: shapes, order, defaults."""

from __future__ import annotations

import pytest

from .conftest import Served, events, serve_in_process
from .fake_engine import EOS, FakeEngine, engine_died


async def test_answer(served: Served) -> None:
    response = await served.complete(model="fake")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert answer["id"] == f"cmpl-{response.headers['x-request-id']}"
    assert answer["object"] == "text_completion"
    assert answer["model"] == "fake"
    assert answer["choices"] == [
        {"index": 0, "text": "hellohellohe", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    ]
    assert answer["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 13,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


async def test_default_is_16_tokens_or_what_the_context_leaves(served: Served) -> None:
    await served.complete(ignore_eos=True)
    await served.complete(ignore_eos=True, prompt="x" * 509)
    assert [params.max_tokens for _, params, _, _ in served.engine.seen] == [16, 3]


async def test_cached_tokens_are_reported(served: Served) -> None:
    served.engine.num_cached_tokens = 4
    usage = (await served.complete()).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 4


@pytest.mark.parametrize("stream", [False, True])
async def test_prompts_times_choices(served: Served, stream: bool) -> None:
    response = await served.complete(prompt=["abc", "xyz"], n=2, max_tokens=3, stream=stream)
    texts = dict.fromkeys(range(4), "")
    if stream:
        for event in events(response.text)[:-1]:
            assert len(event["choices"]) == 1
            texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    else:
        texts = {choice["index"]: choice["text"] for choice in response.json()["choices"]}
    assert texts == {0: "abc", 1: "bca", 2: "xyz", 3: "yzx"}


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("ab", [[65, 66]]),
        ([65, 66], [[65, 66]]),
        (["ab", "c"], [[65, 66], [67]]),
        ([[65, 66], [67]], [[65, 66], [67]]),
    ],
)
async def test_prompt_shapes(served: Served, prompt: object, tokens: list[list[int]]) -> None:
    assert (await served.complete(prompt=prompt)).status_code == 200
    # The fake's tokenizer numbers the printable characters from "!" = 0 on.
    offset = served.engine.tokenizer.encode("a")[0] - 65 if isinstance(prompt, str) or "c" in prompt else 0
    assert [[token - offset for token in seen[0]] for seen in served.engine.seen] == tokens


async def test_stream(served: Served) -> None:
    response = await served.complete(stream=True, max_tokens=3)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["h", "e", "l"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


async def test_stream_with_usage(served: Served) -> None:
    response = await served.complete(stream=True, max_tokens=3, stream_options={"include_usage": True})
    *chunks, last, done = events(response.text)
    assert done == "[DONE]"
    assert [chunk["usage"] for chunk in chunks] == [None] * 3
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 8


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs(served: Served, stream: bool) -> None:
    response = await served.complete(logprobs=2, max_tokens=2, stream=stream)
    merged: dict[str, list] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for answer in events(response.text)[:-1] if stream else [response.json()]:
        for name, values in answer["choices"][0]["logprobs"].items():
            merged[name] += values
    assert merged["tokens"] == ["h", "e"]
    assert merged["token_logprobs"] == [-1.0, -1.0]
    assert merged["text_offset"] == [0, 1]
    first, second = (served.engine.tokenizer.token_text(token) for token in (65, 66))
    assert merged["top_logprobs"][0] == {"h": -1.0, first: -0.1, second: -0.2}


async def test_logprobs_of_parts_of_characters(served: Served) -> None:
    logprobs = (await served.complete(prompt="é!", logprobs=0, max_tokens=3)).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["bytes:\\xc3", "bytes:\\xa9", "!"]
    assert logprobs["text_offset"] == [0, 0, 1]
    assert logprobs["top_logprobs"][0] == {"bytes:\\xc3": -1.0}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["hey", "ids"])
async def test_echo_scores_the_prompt(served: Served, prompt: str, stream: bool) -> None:
    given = served.engine.tokenizer.encode("hey") if prompt == "ids" else prompt
    response = await served.complete(prompt=given, echo=True, logprobs=1, max_tokens=0, stream=stream)
    choice = (events(response.text)[0] if stream else response.json())["choices"][0]
    assert choice["text"] == "hey"
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"]["tokens"] == ["h", "e", "y"]
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0, -1.0]
    assert choice["logprobs"]["top_logprobs"][0] is None
    assert choice["logprobs"]["text_offset"] == [0, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_and_continue(served: Served, stream: bool) -> None:
    response = await served.complete(prompt="hey", echo=True, logprobs=0, max_tokens=2, stream=stream)
    answers = events(response.text)[:-1] if stream else [response.json()]
    assert "".join(answer["choices"][0]["text"] for answer in answers) == "heyhe"
    offsets = [offset for answer in answers for offset in answer["choices"][0]["logprobs"]["text_offset"]]
    assert offsets == [0, 1, 2, 3, 4]
    without = await served.complete(prompt="hey", echo=True, max_tokens=2, stream=stream)
    assert (events(without.text)[0] if stream else without.json())["choices"][0]["logprobs"] is None


async def test_offsets_after_a_prompt_that_ends_within_a_character(served: Served) -> None:
    letter, first_byte = served.engine.tokenizer.encode("aé")[:2]
    response = await served.complete(prompt=[letter, first_byte], echo=True, logprobs=0, max_tokens=1)
    choice = response.json()["choices"][0]
    assert choice["text"] == "a\ufffda"
    assert choice["logprobs"]["text_offset"] == [0, 1, 2]


async def test_best_of_takes_the_most_likely(served: Served) -> None:
    # Of the fake's choices, the last one is the most likely: it begins with the third letter.
    answer = (await served.complete(prompt="abc", n=2, best_of=3, max_tokens=2)).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, "ca"), (1, "bc")]
    assert answer["choices"][0]["logprobs"] is None
    assert answer["usage"]["completion_tokens"] == 6
    response = await served.complete(prompt="abc", n=2, best_of=3, max_tokens=2, logprobs=0)
    assert response.json()["choices"][0]["logprobs"]["token_logprobs"] == [-1 / 3, -1 / 3]


async def test_stop_strings(served: Served) -> None:
    choice = (await served.complete(stop=["loh", "zz"])).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("hel", "stop", "loh")
    kept = await served.complete(stop="loh", include_stop_str_in_output=True)
    assert kept.json()["choices"][0]["text"] == "helloh"


@pytest.mark.parametrize("stream", [False, True])
async def test_token_ids(served: Served, stream: bool) -> None:
    ids = served.engine.tokenizer.encode("hey")
    response = await served.complete(prompt="hey", max_tokens=2, return_token_ids=True, stream=stream)
    answers = events(response.text)[:-1] if stream else [response.json()]
    assert answers[0]["choices"][0]["prompt_token_ids"] == ids
    assert [token for answer in answers for token in answer["choices"][0]["token_ids"]] == ids[:2]


async def test_prompt_logprobs(served: Served) -> None:
    choice = (await served.complete(prompt="hey", max_tokens=1, prompt_logprobs=1)).json()["choices"][0]
    ids = served.engine.tokenizer.encode("hey")
    assert choice["prompt_logprobs"][0] is None
    assert choice["prompt_logprobs"][1][str(ids[1])] == {"logprob": -1.0, "rank": 2, "decoded_token": "e"}


async def test_prompt_logprobs_of_a_stream_come_once_for_each_prompt(served: Served) -> None:
    body = {"prompt": ["hey", "you there"], "n": 2, "max_tokens": 2, "prompt_logprobs": 1}
    whole = (await served.complete(**body)).json()["choices"]
    chunks = events((await served.complete(**body, stream=True)).text)[:-1]
    found = [c["choices"][0] for c in chunks if "prompt_logprobs" in c["choices"][0]]
    assert {part["index"] // 2: part["prompt_logprobs"] for part in found} == {
        prompt: whole[2 * prompt]["prompt_logprobs"] for prompt in range(2)
    }
    assert len(found) == 2
    for echo in (True, False):  # echo scores the prompt, too
        text = (await served.complete(prompt="hey", max_tokens=1, echo=echo, logprobs=1, stream=True)).text
        assert "prompt_logprobs" not in text


async def test_parameters_reach_the_engine(served: Served) -> None:
    wish = {
        "n": 2,
        "max_tokens": 7,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.1,
        "allowed_token_ids": [1, 2],
        "seed": 42,
        "stop": ["x"],
        "stop_token_ids": [7],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "logprobs": 3,
        "prompt_logprobs": 2,
        "skip_special_tokens": False,
    }
    extra = {"logit_bias": {"5": -1.5}, "priority": -3, "cache_salt": "mine", "user": "u", "stream": False}
    response = await served.complete(**wish, **extra)
    assert response.status_code == 200, response.text
    _, params, priority, salt = served.engine.seen[0]
    assert {name: getattr(params, name) for name in wish} == wish
    assert params.logit_bias == {5: -1.5}
    assert (priority, salt) == (-3, "mine")


async def test_null_means_the_default(served: Served) -> None:
    names = ["max_tokens", "n", "stream", "stream_options", "temperature", "stop", "user", "logprobs"]
    response = await served.complete(**dict.fromkeys(names), suffix=None, best_of=None)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["text"] == "hellohellohe"


async def test_priority_by_header(served: Served) -> None:
    body = {"prompt": "x"}
    await served.client.post("/v1/completions", json=body, headers={"X-Vllm-Priority": "-7"})
    assert served.engine.seen[0][2] == -7
    refused = await served.client.post("/v1/completions", json=body, headers={"X-Vllm-Priority": "high"})
    assert refused.status_code == 400


async def test_special_tokens_are_shown_on_demand() -> None:
    async with serve_in_process(FakeEngine(answer_tokens=2)) as served:
        hidden = await served.complete(prompt=[5, EOS], max_tokens=2, ignore_eos=True)
        shown = await served.complete(
            prompt=[5, EOS], max_tokens=2, ignore_eos=True, skip_special_tokens=False
        )
    text = served.engine.tokenizer.token_text(5)
    assert hidden.json()["choices"][0]["text"] == text
    assert shown.json()["choices"][0]["text"] == text + "<eos>"


@pytest.mark.parametrize("kind", ["completions", "chat"])
async def test_bad_words_reach_the_engine_as_tokens(served: Served, kind: str) -> None:
    send = served.complete if kind == "completions" else served.chat
    assert (await send(bad_words=["ab", " c"])).status_code == 200
    ((_, params, _, _),) = served.engine.seen
    encode = served.engine.tokenizer.encode
    assert params.bad_words == ()
    assert [list(sequence) for sequence in params.bad_words_token_ids] == [
        encode(text) for text in ("ab", " ab", "c", " c")
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_prompts_are_truncated(served: Served, stream: bool) -> None:
    response = await served.complete(
        prompt=["abcdef", "xy"], truncate_prompt_tokens=3, max_tokens=1, echo=True, stream=stream
    )
    assert [len(tokens) for tokens, _, _, _ in served.engine.seen] == [3, 2]
    answers = events(response.text)[:-1] if stream else [response.json()]
    texts = {choice["index"]: choice["text"] for answer in answers for choice in answer["choices"]}
    assert texts == {0: "defd", 1: "xyx"}
    served.engine.seen.clear()
    assert (await served.complete(prompt="x" * 600, truncate_prompt_tokens=-1)).status_code == 200
    assert (await served.chat(truncate_prompt_tokens=4, max_tokens=1)).json()["usage"]["prompt_tokens"] == 4
    assert [len(tokens) for tokens, _, _, _ in served.engine.seen] == [512 - 16, 4]


async def test_tokens_as_ids(served: Served) -> None:
    h, e = served.engine.tokenizer.encode("he")
    fields = {"return_tokens_as_token_ids": True, "max_tokens": 2}
    logprobs = (await served.complete(logprobs=1, **fields)).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == [f"token_id:{h}", f"token_id:{e}"]
    assert list(logprobs["top_logprobs"][0]) == [f"token_id:{h}", "token_id:65"]
    assert logprobs["text_offset"] == [0, 1]
    chat = await served.chat(logprobs=True, top_logprobs=1, **fields)
    bracket = served.engine.tokenizer.encode("[")[0]
    entry = chat.json()["choices"][0]["logprobs"]["content"][0]
    assert (entry["token"], entry["bytes"]) == (f"token_id:{bracket}", list(b"["))
    assert entry["top_logprobs"][0]["token"] == "token_id:65"


async def test_stream_with_the_usage_so_far_in_every_chunk(served: Served) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    response = await served.complete(prompt=["ab", "c"], stream=True, max_tokens=3, stream_options=options)
    *chunks, last, _ = events(response.text)
    usages = [chunk["usage"] for chunk in chunks]
    assert len(usages) == 6
    assert {usage["prompt_tokens"] for usage in usages} == {3}
    counts = [usage["completion_tokens"] for usage in usages]
    assert counts == sorted(counts)
    assert 0 < counts[0] < counts[-1]
    assert usages[-1] == last["usage"]
    assert all(usage["total_tokens"] == 3 + usage["completion_tokens"] for usage in usages)


@pytest.mark.parametrize("kind", ["completions", "chat"])
async def test_beam_search(served: Served, kind: str) -> None:
    """The fake's likeliest token is always the same one, and its second always another."""
    tokenizer = served.engine.tokenizer
    first, second = (tokenizer.token_text(token) for token in (65, 66))
    fields = {"use_beam_search": True, "n": 2, "max_tokens": 3, "temperature": 0}
    if kind == "completions":
        answer = (await served.complete(prompt=["hello", "abc"], **fields)).json()
        texts = [choice["text"] for choice in answer["choices"]]
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
        assert texts[:2] == texts[2:]
        assert answer["usage"]["prompt_tokens"] == 8
    else:
        answer = (await served.chat(**fields)).json()
        texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert texts[0] == 3 * first
    assert sorted(texts[1]) == sorted(2 * first + second)
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert served.engine.running == set()


async def test_beams_are_best_of_and_come_with_what_was_asked_for_them(served: Served) -> None:
    fields = {"use_beam_search": True, "best_of": 4, "max_tokens": 2, "priority": -3, "cache_salt": "s"}
    answer = (await served.complete(echo=True, return_token_ids=True, length_penalty=0.5, **fields)).json()
    (choice,) = answer["choices"]
    assert choice["token_ids"] == [65, 65]
    assert choice["text"].startswith("hello")
    assert len(served.engine.seen) == 1 + 4
    assert {(params.logprobs, priority, salt) for _, params, priority, salt in served.engine.seen} == {
        (5, -3, "s")
    }
    assert answer["usage"]["completion_tokens"] == 2


async def test_a_search_that_fails_leaves_nothing_running(served: Served) -> None:
    served.engine.fail_after = (0, engine_died())
    response = await served.complete(use_beam_search=True, n=3)
    assert response.status_code == 500
    assert served.engine.running == set()


async def test_logprobs_cannot_be_combined_with_beams(served: Served) -> None:
    assert (await served.complete(use_beam_search=True, logprobs=0)).json()["error"]["param"] == "logprobs"
    assert (await served.chat(use_beam_search=True, logprobs=True)).json()["error"]["param"] == "logprobs"
    assert (await served.chat(use_beam_search=True, logprobs=False)).status_code == 200


FORMS = [
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
]


@pytest.mark.parametrize("marks", FORMS)
async def test_a_suffix_is_written_with_the_marks_of_the_model(marks: tuple[str, str, str]) -> None:
    async with serve_in_process(FakeEngine(special_tokens=marks)) as served:
        response = await served.complete(prompt=["ab", "x"], suffix="cd", max_tokens=1)
        assert response.status_code == 200
        encode = served.engine.tokenizer.encode
        before, between, after = (served.engine.tokenizer.special_tokens[mark] for mark in marks)
        assert [tokens for tokens, _, _, _ in served.engine.seen] == [
            [before, *encode(text), between, *encode("cd"), after] for text in ("ab", "x")
        ]
        served.engine.seen.clear()
        for extra in ({"echo": True}, {"truncate_prompt_tokens": 3}, {"prompt": [5]}):
            error = (await served.complete(suffix="cd", **extra)).json()["error"]
            assert error["param"] == ("suffix" if "prompt" in extra else next(iter(extra)))
        assert served.engine.seen == []
        await served.complete(prompt="ab", suffix="")
        assert served.engine.seen[0][0] == encode("ab")


async def test_a_suffix_needs_a_model_that_fills_in() -> None:
    for marks in ((), FORMS[0][:2]):
        async with serve_in_process(FakeEngine(special_tokens=marks)) as served:
            response = await served.complete(suffix="cd")
            assert response.status_code == 400
            assert (response.json()["error"]["param"], served.engine.seen) == ("suffix", [])

"""`/v1/chat/completions` on the wire: shapes, order, templates."""

from __future__ import annotations

import pytest

from quire.models.chat_template import ChatTemplate

from .conftest import Served, events, serve_in_process
from .fake_engine import FakeEngine

HI = [{"role": "user", "content": "hi"}]


def prompts(served: Served) -> list[str]:
    """What the engine was given, as text."""
    return [served.engine.tokenizer.decode(seen[0]) for seen in served.engine.seen]


async def test_answer(served: Served) -> None:
    answer = (await served.chat(messages=HI, max_tokens=4)).json()
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "[use", "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
        }
    ]
    assert answer["usage"]["prompt_tokens"] == len("[user]hi\n[assistant]")
    assert prompts(served) == ["[user]hi\n[assistant]"]


async def test_messages_reach_the_template(served: Served) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            "name": "Ann",
        },
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    assert (await served.chat(messages=messages)).status_code == 200
    assert prompts(served) == ["[system]be brief\n[user Ann]a\nb\n[assistant]c\n[user]d\n[assistant]"]


async def test_an_answer_can_be_sent_back_as_it_came(served: Served) -> None:
    message = (await served.chat(messages=HI)).json()["choices"][0]["message"]
    nulls = {"tool_calls": None, "function_call": None, "audio": None, "annotations": None}
    for turn in (message, message | nulls):
        assert (await served.chat(messages=[*HI, turn, *HI])).status_code == 200


async def test_the_context_is_the_default_limit(served: Served) -> None:
    answer = (await served.chat(ignore_eos=True)).json()
    assert served.engine.seen[0][1].max_tokens is None
    assert answer["usage"]["total_tokens"] == served.engine.max_model_len
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_both_names_of_max_tokens(served: Served) -> None:
    for body in (
        {"max_tokens": 3},
        {"max_completion_tokens": 3},
        {"max_completion_tokens": 3, "max_tokens": 3},
    ):
        assert (await served.chat(**body)).json()["usage"]["completion_tokens"] == 3
    assert (await served.chat(max_completion_tokens=3, max_tokens=4)).status_code == 400


async def test_stream_order(served: Served) -> None:
    response = await served.chat(
        messages=HI, n=2, max_tokens=2, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last, done = events(response.text)
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert all(chunk["usage"] is None for chunk in chunks)
    for index, text in enumerate(("[u", "us")):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert [choice["delta"] for choice in mine[1:-1]] == [{"content": letter} for letter in text]
        assert mine[-1]["delta"] == {}
        assert [choice["finish_reason"] for choice in mine] == [None] * (len(mine) - 1) + ["length"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"stop": "r]h"},
        {"stop": ["zzz", "]hello\n[assi"]},
        {"messages": [{"role": "user", "content": "日本語 ça va 🎉"}], "max_tokens": 33},
        {"n": 3, "logprobs": True, "top_logprobs": 2},
    ],
)
async def test_joined_deltas_equal_the_whole_answer(body: dict) -> None:
    async with serve_in_process(FakeEngine(answer_tokens=40)) as served:
        whole = (await served.chat(**body)).json()
        chunks = events((await served.chat(**body, stream=True)).text)[:-1]
    for expected in whole["choices"]:
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == expected["index"]]
        assert "".join(c["delta"].get("content", "") for c in mine) == expected["message"]["content"]
        assert mine[-1]["finish_reason"] == expected["finish_reason"]
        assert mine[-1]["stop_reason"] == expected["stop_reason"]
        if expected["logprobs"]:
            joined = [entry for c in mine if c["logprobs"] for entry in c["logprobs"]["content"]]
            assert joined == expected["logprobs"]["content"]


async def test_logprobs(served: Served) -> None:
    body = {
        "messages": [{"role": "user", "content": "é"}],
        "max_tokens": 8,
        "logprobs": True,
        "top_logprobs": 2,
    }
    content = (await served.chat(**body)).json()["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["[", "u", "s", "e", "r", "]", "�", "�"]
    assert content[6]["bytes"] == [0xC3]
    assert content[0]["logprob"] == -1.0
    best = [served.engine.tokenizer.token_text(65), "["]
    assert [top["token"] for top in content[0]["top_logprobs"]] == best
    bare = await served.chat(logprobs=True, max_tokens=1)
    assert bare.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


async def test_a_conversation_can_be_continued_in_the_assistants_turn(served: Served) -> None:
    messages = [*HI, {"role": "assistant", "content": "Well, "}]
    assert (await served.chat(messages=messages, continue_final_message=True)).status_code == 200
    assert (await served.chat(messages=HI, add_generation_prompt=False)).status_code == 200
    assert prompts(served) == ["[user]hi\n[assistant]Well, ", "[user]hi\n"]
    served.engine.chat_template = ChatTemplate({"default": "{{ messages[-1].content | trim }}<END>"}, {})
    assert (await served.chat(messages=messages, continue_final_message=True)).status_code == 200
    assert prompts(served)[2:] == ["Well,"]
    served.engine.chat_template = ChatTemplate({"default": "{{ messages[-1].content | upper }}"}, {})
    for wrong in (
        {"messages": messages, "continue_final_message": True},
        {"messages": [*HI, {"role": "assistant", "content": " "}], "continue_final_message": True},
        {"messages": HI, "continue_final_message": True},
        {"messages": messages, "continue_final_message": True, "add_generation_prompt": True},
    ):
        assert (await served.chat(**wrong)).json()["error"]["param"] == "continue_final_message"


async def test_template_variables(served: Served) -> None:
    response = await served.chat(messages=HI, chat_template_kwargs={"mood": "grim"})
    assert response.status_code == 200
    assert prompts(served) == ["[user]hi\n[assistant](grim)"]
    for name in ("tokenize", "messages", "tools", "add_generation_prompt", "self", "unheard_of"):
        refused = await served.chat(chat_template_kwargs={name: True})
        assert refused.status_code == 400, name
        assert refused.json()["error"]["param"] == "chat_template_kwargs"


async def test_token_ids(served: Served) -> None:
    ids = served.engine.tokenizer.encode("[user]hi\n[assistant]")
    answer = (await served.chat(messages=HI, max_tokens=2, return_token_ids=True)).json()
    assert answer["prompt_token_ids"] == ids
    assert answer["choices"][0]["token_ids"] == ids[:2]
    chunks = events((await served.chat(messages=HI, max_tokens=2, return_token_ids=True, stream=True)).text)[
        :-1
    ]
    assert [chunk.get("prompt_token_ids") for chunk in chunks] == [ids, None, None, None]
    assert [t for chunk in chunks for t in chunk["choices"][0].get("token_ids", [])] == ids[:2]


async def test_prompt_logprobs(served: Served) -> None:
    answer = (await served.chat(messages=HI, max_tokens=0, prompt_logprobs=0)).json()
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
    assert answer["choices"][0]["message"]["content"] == ""


async def test_prompt_logprobs_of_a_stream_come_with_its_first_chunk(served: Served) -> None:
    body = {"messages": HI, "max_tokens": 3, "prompt_logprobs": 1, "n": 2, "return_token_ids": True}
    whole = (await served.chat(**body)).json()
    *chunks, done = events((await served.chat(**body, stream=True)).text)
    assert done == "[DONE]"
    assert chunks[0]["prompt_logprobs"] == whole["prompt_logprobs"]
    assert not any("prompt_logprobs" in chunk for chunk in chunks[1:])
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks[:3]] == ["assistant"] * 2 + [None]
    for choice in whole["choices"]:
        parts = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
        assert "".join(part["delta"].get("content", "") for part in parts) == choice["message"]["content"]
        assert [t for part in parts for t in part.get("token_ids", [])] == choice["token_ids"]


async def test_a_model_without_a_template(served: Served) -> None:
    served.engine.chat_template = ChatTemplate({}, {})
    error = (await served.chat()).json()["error"]
    assert error["code"] == "no_chat_template"


async def test_a_template_that_refuses(served: Served) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    served.engine.chat_template = ChatTemplate({"default": template}, {})
    response = await served.chat()
    assert response.status_code == 400
    assert "roles must alternate" in response.json()["error"]["message"]


async def test_labels_go_into_the_log_and_texts_do_not(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "quire.access")
    labels = {"user": "ann\nFAKE LINE", "metadata": {"team": "blue"}, "safety_identifier": "s-1"}
    await served.chat(messages=[{"role": "user", "content": "secret words"}], **labels)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "quire.access"]
    assert line.startswith('POST "/v1/chat/completions" 200 ')
    assert 'user="ann\\nFAKE LINE"' in line
    assert 'metadata={"team": "blue", "safety_identifier": "s-1"}' in line
    assert "prompt=" in line
    assert "generated=13" in line
    assert "secret" not in line
    assert "\n" not in line


async def test_more_messages_than_tokens_are_refused_at_once(served: Served) -> None:
    answer = await served.chat(messages=[{"role": "user", "content": ""}] * 100_000)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert served.engine.seen == []


async def test_special_tokens_in_a_message_are_mere_text(served: Served) -> None:
    messages = [{"role": "user", "content": "a<eos>b"}, {"role": "user", "content": "c", "name": "<eos>"}]
    assert (await served.chat(messages=messages)).status_code == 200
    (seen,) = served.engine.seen
    assert not served.engine.tokenizer.special_token_ids.intersection(seen[0])
    assert prompts(served) == ["[user]a<eos>b\n[user <eos>]c\n[assistant]"]


async def test_stream_with_the_usage_so_far_in_every_chunk(served: Served) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    response = await served.chat(messages=HI, stream=True, max_tokens=3, stream_options=options)
    *chunks, last, _ = events(response.text)
    first, *counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert first in (0, 1)  # the role goes out while the first token is awaited, or with it
    assert counts == [1, 2, 3, 3]
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {len("[user]hi\n[assistant]")}
    assert chunks[-1]["usage"] == last["usage"]


@pytest.mark.parametrize("stream", [False, True])
async def test_cached_tokens_are_reported(served: Served, stream: bool) -> None:
    served.engine.num_cached_tokens = 4
    extra = {"stream_options": {"include_usage": True}} if stream else {}
    response = await served.chat(messages=HI, stream=stream, **extra)
    answer = events(response.text)[-2] if stream else response.json()
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}

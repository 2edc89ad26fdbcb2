"""`/tokenize` and `/detokenize`: what completions and chats would feed to the model."""

from __future__ import annotations

import pytest

from .conftest import Served

HI = [{"role": "user", "content": "hi <eos>"}]


async def tokenize(served: Served, **body: object) -> dict:
    response = await served.client.post("/tokenize", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_prompt_has_the_tokens_that_a_completion_sees(served: Served) -> None:
    answer = await tokenize(served, prompt="héllo <eos>")
    await served.complete(prompt="héllo <eos>")
    tokens = served.engine.seen[0][0]
    assert answer == {
        "count": len(tokens),
        "max_model_len": served.engine.max_model_len,
        "tokens": tokens,
        "token_strs": None,
    }
    assert tokens[-1] == 256


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_generation_prompt": False},
        {"chat_template_kwargs": {"mood": "merry"}},
        {"messages": [*HI, {"role": "assistant", "content": "Well,"}], "continue_final_message": True},
    ],
)
async def test_messages_have_the_tokens_that_a_chat_sees(served: Served, options: dict) -> None:
    body = {"messages": HI} | options
    answer = await tokenize(served, **body)
    await served.chat(**body)
    assert answer["tokens"] == served.engine.seen[0][0]
    assert 256 not in answer["tokens"]


async def test_token_strs_are_the_vocabularys(served: Served) -> None:
    answer = await tokenize(served, prompt=" é<eos>", return_token_strs=True)
    assert answer["token_strs"] == ["Ġ", "Ã", "©", "<eos>"]


async def test_a_text_may_be_longer_than_the_context(served: Served) -> None:
    assert (await tokenize(served, prompt="a" * 100_000))["count"] == 100_000
    assert (await tokenize(served, prompt=""))["tokens"] == []


async def test_detokenize_undoes_tokenize(served: Served) -> None:
    text = "日本語 ça va 🎉<eos> end"
    tokens = (await tokenize(served, prompt=text))["tokens"]
    response = await served.client.post("/detokenize", json={"model": "fake", "tokens": tokens})
    assert response.json() == {"prompt": text, "content": text}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HI}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt"),
        ("/tokenize", {"messages": HI, "tools": [{}]}, "tools[0].type"),
        ("/tokenize", {"messages": HI, "tools": []}, "tools"),
        ("/tokenize", {"prompt": "a", "tools": []}, "tools"),
        ("/tokenize", {"messages": HI, "chat_template": "x"}, "chat_template"),
        ("/tokenize", {"prompt": "a", "unheard_of": 1}, "unheard_of"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [257]}, "tokens"),
        ("/detokenize", {"tokens": [2**70]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
    ],
)
async def test_refusals(served: Served, path: str, body: dict, param: str | None) -> None:
    response = await served.client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_other_models_are_not_found(served: Served, path: str) -> None:
    body = {"model": "other", "prompt": "a"} if path == "/tokenize" else {"model": "other", "tokens": [1]}
    assert (await served.client.post(path, json=body)).status_code == 404

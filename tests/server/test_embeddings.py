"""Embeddings, scores and rankings on the wire."""

from __future__ import annotations

import base64
import math
import struct

import httpx
import openai
import pytest

from quire.errors import Overloaded
from quire.models.pooling import PoolingConfig
from quire.server.settings import ServerSettings

from .conftest import Served, serve_in_process, serve_on_port
from .fake_engine import engine_died


def vector(served: Served, text: str, dimensions: int | None = None) -> list[float]:
    """What the fake engine makes of a text: see there."""
    tokens = served.engine.tokenizer.encode(text)
    counts = [1 + sum(token % 8 == place for token in tokens) for place in range(8)][:dimensions]
    return [count / math.hypot(*counts) for count in counts]


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


async def embed(served: Served, **body: object) -> httpx.Response:
    return await served.client.post("/v1/embeddings", json={"input": "hello"} | body)


async def test_official_client() -> None:
    async with (
        serve_on_port() as (served, _),
        openai.AsyncOpenAI(base_url=f"{served.client.base_url}/v1", api_key="none") as client,
    ):
        for options in ({}, {"encoding_format": "float"}):  # it asks for base64 by itself
            answer = await client.embeddings.create(model="fake", input=["hello", "you"], **options)
            for text, item in zip(("hello", "you"), answer.data, strict=True):
                assert item.embedding == pytest.approx(vector(served, text), abs=1e-6)
            assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (8, 8)
        cut = await client.embeddings.create(model="fake", input="hello", dimensions=4)
        assert cut.data[0].embedding == pytest.approx(vector(served, "hello", 4), abs=1e-6)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.embeddings.create(model="fake", input="hello", dimensions=5)
        assert caught.value.param == "dimensions"


async def test_answer(served: Served) -> None:
    answer = (await embed(served)).json()
    (item,) = answer.pop("data")
    assert item.pop("embedding") == pytest.approx(vector(served, "hello"), abs=1e-6)
    assert item == {"object": "embedding", "index": 0}
    assert answer == {
        "object": "list",
        "model": "fake",
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }


async def test_base64_is_little_endian_float32(served: Served) -> None:
    (as_text,) = (await embed(served, encoding_format="base64")).json()["data"]
    (as_numbers,) = (await embed(served)).json()["data"]
    assert list(struct.unpack("<8f", base64.b64decode(as_text["embedding"]))) == as_numbers["embedding"]


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("ab", ["ab"]),
        (["ab", "c"], ["ab", "c"]),
        ([65, 66], [[65, 66]]),
        ([[65, 66], [67]], [[65, 66], [67]]),
    ],
)
async def test_shapes_of_input(served: Served, given: object, texts: list) -> None:
    answer = (await embed(served, input=given)).json()
    tokens = [text if isinstance(text, list) else served.engine.tokenizer.encode(text) for text in texts]
    assert [seen[0] for seen in served.engine.seen] == tokens
    assert [item["index"] for item in answer["data"]] == list(range(len(texts)))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, tokens))


async def test_a_model_may_not_want_vectors_of_length_one(served: Served) -> None:
    served.engine.pooling = PoolingConfig(mode="mean", normalize=False, hidden_size=8)
    (item,) = (await embed(served, input=[[0, 8, 1]])).json()["data"]
    assert item["embedding"] == [3, 2, 1, 1, 1, 1, 1, 1]
    assert served.engine.seen[0][1].pooling == "mean"


async def test_the_prompt_may_fill_the_context(served: Served) -> None:
    assert (await embed(served, input="x" * served.engine.max_model_len)).status_code == 200
    error = (await embed(served, input="x" * (served.engine.max_model_len + 1))).json()["error"]
    assert (error["param"], error["code"]) == ("input", "context_length_exceeded")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": ["a"] * 2000}, "input"),
        ({"input": [257]}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 9}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"truncate_prompt_tokens": 513}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"user": "x" * 300}, "user"),
        ({"cache_salt": ""}, "cache_salt"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
async def test_refusals(served: Served, body: dict, param: str) -> None:
    response = await embed(served, **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_failures(served: Served) -> None:
    for error, status in ((engine_died(), 500), (Overloaded("full"), 429)):
        served.engine.refuse_with = error
        assert (await embed(served)).status_code == status
    assert (await embed(served, model="other")).status_code == 404


async def test_pooling(served: Served) -> None:
    async def pool(**body: object) -> dict:
        return (await served.client.post("/pooling", json={"input": ["hello", "you"]} | body)).json()

    answer = await pool(use_activation=False)
    assert answer.pop("id").startswith("pool-")
    assert isinstance(answer.pop("created"), int)
    tokens = [served.engine.tokenizer.encode(text) for text in ("hello", "you")]
    raw = [[1 + sum(token % 8 == place for token in each) for place in range(8)] for each in tokens]
    assert answer == {
        "object": "list",
        "model": "fake",
        "data": [{"index": index, "object": "pooling", "data": raw[index]} for index in range(2)],
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
    (encoded, _) = (await pool(use_activation=False, encoding_format="base64"))["data"]
    assert list(struct.unpack("<8f", base64.b64decode(encoded["data"]))) == raw[0]
    for options in ({}, {"dimensions": 4}):
        scaled = [each["data"] for each in (await pool(**options))["data"]]
        embedded = (await embed(served, input=["hello", "you"], **options)).json()["data"]
        assert scaled == [each["embedding"] for each in embedded]
    for wrong, param in (
        ({"dimensions": 5}, "dimensions"),
        ({"input": ""}, "input"),
        ({"task": "x"}, "task"),
    ):
        assert (await pool(**wrong))["error"]["param"] == param


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
async def test_score(served: Served, path: str) -> None:
    one = {"text_1": "hello", "text_2": ["hello", "you", "there"]}
    answer = (await served.client.post(path, json=one)).json()
    assert answer.pop("id").startswith("score-")
    assert isinstance(answer.pop("created"), int)
    hello = vector(served, "hello")
    for index, (text, item) in enumerate(zip(one["text_2"], answer.pop("data"), strict=True)):
        assert item == {
            "index": index,
            "object": "score",
            "score": pytest.approx(cosine(hello, vector(served, text)), abs=1e-6),
        }
    num_tokens = len("hello" + "hello" + "you" + "there")
    assert answer == {
        "object": "list",
        "model": "fake",
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
    pairs = {"text_1": ["a", "b"], "text_2": ["c", "b"]}
    data = (await served.client.post(path, json=pairs)).json()["data"]
    assert data[1]["score"] == pytest.approx(1, abs=1e-6)
    assert data[0]["score"] == pytest.approx(cosine(vector(served, "a"), vector(served, "c")), abs=1e-6)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_rerank(served: Served, path: str) -> None:
    documents = ["aaaa", {"text": "hello"}, "help", "aaaa"]
    body = {"query": "hello", "documents": documents}
    answer = (await served.client.post(path, json=body)).json()
    assert answer.pop("id").startswith("rerank-")
    results = answer.pop("results")
    assert [each["index"] for each in results] == [1, 2, 0, 3]
    assert [each["document"] for each in results] == [
        {"text": text} for text in ("hello", "help", "aaaa", "aaaa")
    ]
    hello = vector(served, "hello")
    assert [each["relevance_score"] for each in results] == pytest.approx(
        [cosine(hello, vector(served, each["document"]["text"])) for each in results], abs=1e-6
    )
    num_tokens = len("hello" + "aaaa" + "hello" + "help" + "aaaa")
    assert answer == {"model": "fake", "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens}}
    for top_n, num in ((1, 1), (3, 3), (9, 4), (0, 4)):
        best = (await served.client.post(path, json=body | {"top_n": top_n})).json()["results"]
        assert best == results[:num]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/score", {"text_1": ["a", "b"], "text_2": ["c"]}, "text_1"),
        ("/score", {"text_1": [], "text_2": ["c"]}, "text_1"),
        ("/score", {"text_1": "a", "text_2": []}, "text_1"),
        ("/score", {"text_1": "a"}, "text_2"),
        ("/score", {"text_1": "a", "text_2": "x" * 600}, None),
        ("/score", {"text_1": "a", "text_2": ""}, None),
        ("/score", {"text_1": "a", "text_2": "b", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ("/rerank", {"query": "a", "documents": []}, "documents"),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": -1}, "top_n"),
        ("/rerank", {"query": "a", "documents": [{"image": "b"}]}, "documents[0].image"),
        ("/rerank", {"query": "a", "documents": ["b"] * 2000}, None),
        ("/rerank", {"query": "a", "documents": ["b"], "unheard_of": 1}, "unheard_of"),
    ],
)
async def test_refused_comparisons(served: Served, path: str, body: dict, param: str | None) -> None:
    response = await served.client.post(path, json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert served.engine.running == set()


async def test_the_key_separates_caches() -> None:
    settings = ServerSettings(api_key="k-123")
    async with serve_in_process(settings=settings, headers={"authorization": "Bearer k-123"}) as served:
        await embed(served, cache_salt="mine", priority=3)
    (_, _, priority, salt) = served.engine.seen[0]
    assert priority == 3
    assert salt.endswith(":mine")

"""Encoders in engine processes of their own, in every dialect: vectors, labels, scores, and refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub.constants
import pytest
import pytest_asyncio
import torch
from huggingface_hub import InferenceClient

import tiny_encoders
from quire.engine.async_engine import AsyncEngine
from quire.engine.config import EngineConfig
from quire.kernels import cpu
from quire.models.tokenizer import Tokenizer
from quire.server.app import create_app

from .conftest import serve_on_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

LABELS = {0: "good", 1: "bad", 2: "neither"}
TEXTS = ["the moon", "is a boat", "that sails over the sea"]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "embedder": ("BertModel", {}),
    "cross": ("BertForSequenceClassification", {"num_labels": 1}),
    "labels": ("RobertaForSequenceClassification", {"id2label": LABELS, "num_labels": 3}),
}


@pytest.fixture(scope="module")
def folders(tiny_encoder: Callable[..., Path]) -> dict[str, Path]:
    return {name: tiny_encoder(architecture, **fields) for name, (architecture, fields) in KINDS.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines(folders: dict[str, Path]) -> AsyncIterator[dict[str, AsyncEngine]]:
    configs = [EngineConfig(model=str(folder), served_model_name=name) for name, folder in folders.items()]
    started = await asyncio.gather(*map(AsyncEngine.start, configs))
    yield dict(zip(folders, started, strict=True))
    await asyncio.gather(*(engine.shutdown() for engine in started))


def client_of(engines: dict[str, AsyncEngine]) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(engines))
    return httpx.AsyncClient(transport=transport, base_url="http://quire")


@pytest_asyncio.fixture(loop_scope="module")
async def client(engines: dict[str, AsyncEngine]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose default model embeds."""
    async with client_of(engines) as http:
        yield http


@pytest_asyncio.fixture(loop_scope="module")
async def labeller(engines: dict[str, AsyncEngine]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose only model classifies."""
    async with client_of({"labels": engines["labels"]}) as http:
        yield http


async def post(client: httpx.AsyncClient, path: str, **body: object) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def encode(folder: Path, text: str) -> list[int]:
    return Tokenizer.from_folder(folder).encode(text)


def vector(folders: dict[str, Path], text: str) -> Any:
    """transformers' mean of the states, of length 1."""
    mean = tiny_encoders.oracle_states(folders["embedder"], encode(folders["embedder"], text)).mean(0)
    return torch.nn.functional.normalize(mean, dim=0)


def fit(folders: dict[str, Path], left: str, right: str) -> float:
    """What transformers' cross-encoder says of a pair."""
    first, second = encode(folders["cross"], left), encode(folders["cross"], right)[1:]
    types = [0] * len(first) + [1] * len(second)
    return float(torch.sigmoid(tiny_encoders.oracle_logits(folders["cross"], first + second, types)))


def probabilities(folders: dict[str, Path], text: str) -> list[float]:
    logits = tiny_encoders.oracle_logits(folders["labels"], encode(folders["labels"], text))
    return logits.softmax(0).tolist()


def close(found: object, expected: Any) -> bool:
    return torch.allclose(torch.tensor(found), torch.as_tensor(expected), atol=1e-4)


async def test_embeddings_in_all_dialects(client: httpx.AsyncClient, folders: dict[str, Path]) -> None:
    expected = [vector(folders, text) for text in TEXTS]
    openai = await post(client, "/v1/embeddings", model="embedder", input=TEXTS)
    pooled = await post(client, "/pooling", model="embedder", input=TEXTS)
    ollama = await post(client, "/api/embed", model="embedder:latest", input=TEXTS)
    llama = await post(client, "/embedding", content=TEXTS)
    same = await post(client, "/embeddings", input=TEXTS)
    tei, root = await post(client, "/embed", inputs=TEXTS), await post(client, "/", inputs=TEXTS)
    found = [
        [item["embedding"] for item in openai["data"]],
        [item["data"] for item in pooled["data"]],
        ollama["embeddings"],
        [vectors for item in llama for vectors in item["embedding"]],
        [vectors for item in same for vectors in item["embedding"]],
        tei,
        root,
    ]
    assert all(close(each, found[0]) for each in found)
    assert all(each == found[0] for each in found) or cpu.unavailable()
    for one, right in zip(found[0], expected, strict=True):
        assert close(one, right)
    num_tokens = sum(len(encode(folders["embedder"], text)) for text in TEXTS)
    assert openai["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    assert ollama["prompt_eval_count"] == num_tokens
    assert ollama["total_duration"] > 0
    older = await post(client, "/api/embeddings", model="embedder", prompt=TEXTS[0])
    assert close(older["embedding"], found[0][0])


async def test_vectors_as_they_are_pooled(client: httpx.AsyncClient, folders: dict[str, Path]) -> None:
    (text, *_) = TEXTS
    mean = tiny_encoders.oracle_states(folders["embedder"], encode(folders["embedder"], text)).mean(0)
    (pooled,) = (await post(client, "/pooling", input=text, use_activation=False))["data"]
    ((llama,),) = (
        item["embedding"] for item in await post(client, "/embedding", content=text, embd_normalize=-1)
    )
    (tei,) = await post(client, "/embed", inputs=text, normalize=False)
    assert pooled["data"] == llama == tei
    assert close(tei, mean)


async def test_long_texts(client: httpx.AsyncClient, folders: dict[str, Path]) -> None:
    long, kept = "word " * 400, ("word " * 400)[:398]
    expected = vector(folders, kept)
    for path, body in (
        ("/v1/embeddings", {"input": long, "truncate_prompt_tokens": -1}),
        ("/api/embed", {"model": "embedder", "input": long}),
        ("/api/embeddings", {"model": "embedder", "prompt": long}),
        ("/embed", {"inputs": long, "truncate": True}),
    ):
        answer = await post(client, path, **body)
        if isinstance(answer, dict):
            data = answer.get("data")
            answer = data[0]["embedding"] if data else answer.get("embedding") or answer["embeddings"][0]
        else:
            (answer,) = answer
        assert close(answer, expected), path
    for path, body, status in (
        ("/v1/embeddings", {"input": long}, 400),
        ("/api/embed", {"model": "embedder", "input": long, "truncate": False}, 400),
        ("/embedding", {"content": long}, 400),
        ("/embed", {"inputs": long}, 422),
    ):
        response = await client.post(path, json=body)
        assert response.status_code == status, path
        assert "400 tokens" in response.text


async def test_classify(client: httpx.AsyncClient, folders: dict[str, Path]) -> None:
    for path in ("/classify", "/v1/classify"):
        answer = await post(client, path, model="labels", input=TEXTS)
        for index, (text, item) in enumerate(zip(TEXTS, answer["data"], strict=True)):
            expected = probabilities(folders, text)
            assert close(item.pop("probs"), expected)
            best = LABELS[expected.index(max(expected))]
            assert item == {"index": index, "label": best, "num_classes": 3}
    assert answer["usage"]["prompt_tokens"] == sum(len(encode(folders["labels"], text)) for text in TEXTS)
    raw = await post(client, "/classify", model="labels", input=TEXTS[0], use_activation=False)
    assert close(torch.tensor(raw["data"][0]["probs"]).softmax(0).tolist(), probabilities(folders, TEXTS[0]))


async def test_hugging_faces_forms_of_labels(labeller: httpx.AsyncClient, folders: dict[str, Path]) -> None:
    expected = dict(zip(LABELS.values(), probabilities(folders, TEXTS[0]), strict=True))
    ranked = sorted(expected, key=lambda label: -expected[label])
    ((*items,),) = await post(labeller, "/", inputs=TEXTS[0], parameters={"top_k": 2})
    assert [item["label"] for item in items] == ranked[:2]
    assert close([item["score"] for item in items], [expected[label] for label in ranked[:2]])
    ((raw, *_),) = await post(labeller, "/", inputs=TEXTS[0], parameters={"function_to_apply": "none"})
    assert raw["label"] == ranked[0]
    single = await post(labeller, "/predict", inputs=TEXTS[0])
    assert [item["label"] for item in single] == ranked
    batch = await post(labeller, "/predict", inputs=[[TEXTS[0]], [TEXTS[1]]])
    assert batch[0] == single
    assert len(batch) == 2
    pair = await post(labeller, "/predict", inputs=TEXTS[:2])
    assert {item["label"] for item in pair} == set(ranked)
    assert pair != single


async def test_scores(client: httpx.AsyncClient, folders: dict[str, Path]) -> None:
    query, *documents = TEXTS
    expected = [fit(folders, query, text) for text in documents]
    answer = await post(client, "/score", model="cross", text_1=query, text_2=documents)
    assert close([item["score"] for item in answer["data"]], expected)
    by_score = sorted(range(2), key=lambda index: -expected[index])
    for path in ("/rerank", "/v2/rerank", "/reranking", "/v1/reranking"):
        ranking = await post(client, path, model="cross", query=query, documents=documents)
        assert [item["index"] for item in ranking["results"]] == by_score
        assert close([item["relevance_score"] for item in ranking["results"]], sorted(expected)[::-1])
    cosine = await post(client, "/score", model="embedder", text_1=query, text_2=documents)
    vectors = [vector(folders, text) for text in TEXTS]
    assert close([item["score"] for item in cosine["data"]], [float(vectors[0] @ v) for v in vectors[1:]])
    similarity = await post(client, "/similarity", inputs={"source_sentence": query, "sentences": documents})
    assert close(similarity, [item["score"] for item in cosine["data"]])


async def test_scores_of_long_texts(client: httpx.AsyncClient) -> None:
    body = {"model": "cross", "text_1": "moon", "text_2": "sea " * 400}
    refused = await client.post("/score", json=body)
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert (await post(client, "/score", **body, truncate_prompt_tokens=-1))["usage"]["prompt_tokens"] == 400


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", {"model": "embedder", "prompt": "x"}, 400),
        ("/v1/chat/completions", {"model": "labels", "messages": [{"role": "user", "content": "x"}]}, 400),
        ("/v1/responses", {"model": "embedder", "input": "x"}, 400),
        (
            "/v1/messages",
            {"model": "embedder", "max_tokens": 4, "messages": [{"role": "user", "content": "x"}]},
            400,
        ),
        ("/api/generate", {"model": "embedder", "prompt": "x"}, 400),
        ("/api/chat", {"model": "embedder", "messages": [{"role": "user", "content": "x"}]}, 400),
        ("/generate", {"inputs": "x"}, 422),
        ("/completion", {"prompt": "x"}, 400),
        ("/v1/embeddings", {"model": "labels", "input": "x"}, 400),
        ("/api/embed", {"model": "cross", "input": "x"}, 400),
        ("/classify", {"model": "embedder", "input": "x"}, 400),
        ("/predict", {"inputs": "x"}, 422),
        ("/score", {"model": "labels", "text_1": "x", "text_2": "y"}, 400),
        ("/rerank", {"model": "labels", "query": "x", "documents": ["y"]}, 400),
        ("/pooling", {"model": "labels", "input": "x", "dimensions": 2}, 400),
        ("/v1/embeddings", {"model": "embedder", "input": "x", "dimensions": 2}, 400),
        ("/v1/embeddings", {"model": "embedder", "input": [400]}, 400),
        ("/score", {"model": "cross", "text_1": "x", "text_2": "y", "add_special_tokens": False}, 400),
        ("/embed", {"inputs": "x", "prompt_name": "query"}, 422),
        ("/embed", {"inputs": "x", "truncation_direction": "left"}, 422),
        ("/predict", {"inputs": ["a", "b", "c"]}, 422),
        ("/api/embed", {"model": "embedder", "input": "x", "options": {"temperature": 1}}, 400),
        ("/embedding", {"content": "x", "embd_normalize": 0}, 400),
        ("/embedding", {"content": "x", "input": "x"}, 400),
    ],
)
async def test_what_cannot_be_honoured_is_refused(
    client: httpx.AsyncClient, path: str, body: dict[str, object], status: int
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == status, response.text
    (text, *_) = TEXTS
    assert (await post(client, "/v1/embeddings", input=text))["data"]


@pytest.mark.skipif(
    cpu.unavailable() is not None, reason="only the C++ kernels promise the same bits in any company"
)
async def test_company_changes_no_bit(client: httpx.AsyncClient) -> None:
    texts = [text[:length] for text in TEXTS for length in range(1, len(text) + 1)]
    alone = [(await post(client, "/embed", inputs=text))[0] for text in texts[::5]]
    together = await asyncio.gather(*(post(client, "/embed", inputs=texts) for _ in range(3)))
    assert all(each == together[0] for each in together)
    assert together[0][::5] == alone


async def test_what_is_said_of_the_models(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()["data"]
    assert {model["id"]: model["max_model_len"] for model in listed} == {
        "embedder": 400,
        "cross": 400,
        "labels": 398,
    }
    shown = await post(client, "/api/show", model="embedder")
    assert shown["capabilities"] == ["embedding"]
    assert shown["model_info"]["general.architecture"] == "bert"
    assert (await client.get("/props")).status_code == 200
    assert (await client.get("/info")).status_code == 200
    assert (await client.get("/metrics")).status_code == 200


async def test_hugging_faces_client(
    engines: dict[str, AsyncEngine], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # which includes 127.0.0.1

    def ask(url: str, names: set[str]) -> None:
        with InferenceClient(base_url=url) as hub:
            if "embedder" in names:
                (found,) = hub.feature_extraction(TEXTS[0], normalize=True, truncate=True)
                assert close(found, vector(folders, TEXTS[0]))
                first, second = hub.sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])
                vectors = [vector(folders, text) for text in TEXTS]
                assert close([first, second], [float(vectors[0] @ v) for v in vectors[1:]])
            else:
                best = hub.text_classification(TEXTS[0])
                assert close(sorted(item.score for item in best), sorted(probabilities(folders, TEXTS[0])))

    for name in ("embedder", "labels"):
        async with serve_on_port(engines[name]) as (served, _):
            await asyncio.to_thread(ask, str(served.client.base_url), {name})

"""SageMaker's `/ping` and `/invocations`, for language models and classic ones."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
import pytest_asyncio

from quire.engine.data_plane import DataPlane

from .classic_models import Trained, rows, serving
from .conftest import Served, events, serve_in_process

pytestmark = pytest.mark.asyncio(loop_scope="session")  # that of the models
CUSTOM = "x-amzn-sagemaker-custom-attributes"


@pytest_asyncio.fixture(loop_scope="session")
async def client(plane: DataPlane) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(plane) as served:
        yield served.client


@pytest_asyncio.fixture(loop_scope="session")
async def language() -> AsyncIterator[Served]:
    """A server with a language model alone."""
    async with serve_in_process() as served:
        yield served


async def ask(
    client: httpx.AsyncClient, content: bytes | str, media_type: str, model: str = "trees", **headers: str
) -> httpx.Response:
    headers |= {"content-type": media_type, CUSTOM: f"tfs-model-name={model},trace=7"}
    response = await client.post("/invocations", content=content, headers=headers)
    assert response.headers.get(CUSTOM) == headers[CUSTOM] or response.status_code != 200
    return response


async def refused(
    client: httpx.AsyncClient, content: bytes | str, media_type: str = "application/json", **headers: str
) -> str:
    response = await ask(client, content, media_type, **headers)
    assert response.status_code == 400, response.text
    return response.json()["error"]["message"]


async def test_ping(client: httpx.AsyncClient) -> None:
    assert (await client.get("/ping")).status_code == 200


async def test_bodies_and_answers_of_every_kind(client: httpx.AsyncClient, trained: Trained) -> None:
    examples = rows(3, seed=7)
    expected = trained.trees.predict(examples, num_iteration=5).tolist()
    as_json, csv = examples.tolist(), "\n".join(",".join(map(repr, row)) for row in examples.tolist())
    lines = "\n".join(map(json.dumps, as_json)) + "\n"
    for content, media_type, found in (
        (json.dumps(as_json), "application/json", expected),
        (json.dumps({"input": as_json}), "application/json", expected),
        (json.dumps({"instances": as_json}), "application/json", {"predictions": expected}),
        (json.dumps({"inputs": as_json}), "application/json", {"outputs": expected}),
        (json.dumps(as_json[0]), "application/json", expected[0]),
        (lines, "application/jsonlines", expected),
    ):
        assert (await ask(client, content, media_type)).json() == found, content
    for media_type, content in (("text/csv", csv), ("application/jsonlines", lines)):
        for accept in ("text/csv", "*/*"):
            response = await ask(client, content, media_type, accept=accept)
            if accept == "*/*" and media_type != "text/csv":
                assert response.json() == expected
                continue
            assert response.headers["content-type"].startswith("text/csv")
            assert [float(line) for line in response.text.splitlines()] == expected
    response = await ask(client, csv, "text/csv", accept="application/jsonlines")
    assert [json.loads(line) for line in response.text.splitlines()] == expected
    response = await ask(client, csv, "text/csv", accept="application/x-npy, application/json;q=0.5")
    assert np.load(io.BytesIO(response.content)).tolist() == expected


async def test_csv_of_several_outputs(client: httpx.AsyncClient, trained: Trained) -> None:
    examples = rows(2, seed=8)
    csv = "\n".join(",".join(map(repr, row)) for row in examples.tolist())
    response = await ask(client, csv, "text/csv", "species")
    lines = [line.split(",") for line in response.text.splitlines()]
    assert [line[0] for line in lines] == trained.species.predict(examples).tolist()
    np.testing.assert_allclose(
        [list(map(float, line[1:])) for line in lines], trained.species.predict_proba(examples)
    )
    assert "one array" in await refused(client, csv, "text/csv", model="species", accept="application/x-npy")


async def test_custom_attributes_choose_what_is_asked(client: httpx.AsyncClient, trained: Trained) -> None:
    (example,) = rows(1, seed=9).tolist()
    expected = trained.trees.predict([example], num_iteration=10).tolist()
    body = json.dumps({"examples": [{"input": example}]})
    response = await ask(client, body, "application/json", "trees,tfs-model-version=1,tfs-method=regress")
    assert response.json() == {"results": expected}
    headers = {"x-amzn-sagemaker-target-model": "trees", "x-amzn-sagemaker-inference-id": "a-1"}
    response = await client.post("/invocations", json={"instances": [example]}, headers=headers)
    assert list(response.json()) == ["predictions"]
    assert CUSTOM not in response.headers


async def test_what_cannot_be_honoured(client: httpx.AsyncClient) -> None:
    for content, media_type, more, named in (
        ("[1, 2]", "application/json", {}, "size 2"),
        ("[1, 2, 3, 4]\n[1]", "application/jsonlines", {}, "from 1 to 4"),
        ("[1, 2, 3, 4]\n[1", "application/jsonlines", {}, "line 2"),
        ("1,2", "text/csv", {}, "2 values"),
        ("x", "application/x-recordio-protobuf", {}, "x-recordio"),
        ("[1, 2, 3, 4]", "application/json", {"accept": "application/x-recordio-protobuf"}, "Accept"),
        ("[1, 2, 3, 4]", "application/json", {"model": "trees,tfs-method=explain"}, "explain"),
        ("[1, 2, 3, 4]", "application/json", {"model": "trees,tfs-method=regress"}, "examples"),
        ("[1, 2, 3, 4]", "application/json", {"model": "trees,tfs-signature-name=x"}, "tfs-signature-name"),
        ("[1, 2, 3, 4]", "application/json", {"model": "trees;" + "x" * 1024}, "1024"),
    ):
        assert named in await refused(client, content, media_type, **more), (content, more)
    response = await ask(client, "[1]", "application/json", "gone")
    assert response.status_code == 404
    response = await client.post("/invocations", json=[1, 2, 3, 4])
    assert (response.status_code, "'trees'" in response.text) == (400, True)


async def test_a_language_model_answers_chats_beside_classic_models(client: httpx.AsyncClient) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    answer = (await client.post("/invocations", json=body)).json()
    assert answer["object"] == "chat.completion"
    answer = (await client.post("/invocations", json={"model": "fake", "inputs": "hello"})).json()
    assert "generated_text" not in answer  # TGI's requests name no model
    assert "model" in json.dumps(answer)


async def test_a_language_model_alone_takes_what_its_clients_send(language: Served) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    direct = (await language.client.post("/v1/chat/completions", json=chat)).json()
    invoked = (await language.client.post("/invocations", json=chat, headers={CUSTOM: "mine"})).json()
    assert invoked["choices"] == direct["choices"]
    completion = {"prompt": "hello", "max_tokens": 4}
    answer = (await language.client.post("/invocations", json=completion)).json()
    assert answer["choices"][0]["text"] == "hell"
    answer = (await language.client.post("/invocations", json={"inputs": "hello"})).json()
    assert list(answer[0]) == ["generated_text"]
    answer = (await language.client.post("/invocations", json={"input": "hello"})).json()
    assert answer["object"] == "list"
    response = await language.client.post(
        "/invocations", json=chat | {"stream": True}, headers={CUSTOM: "mine"}
    )
    assert response.headers[CUSTOM] == "mine"
    assert events(response.text)[-1] == "[DONE]"
    refused = await language.client.post("/invocations", json=chat | {"n": 0})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")
    for body in ({"made": "up"}, [1, 2]):
        assert (await language.client.post("/invocations", json=body)).status_code == 404

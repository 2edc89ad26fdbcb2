"""Vertex AI's container contract: the routes of its environment, instances, and raw predictions."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from quire.engine.data_plane import DataPlane
from quire.errors import EngineError
from quire.server.settings import ServerSettings

from .classic_models import Trained, rows, serving
from .conftest import Served, events, serve_in_process

pytestmark = pytest.mark.asyncio(loop_scope="session")  # that of the models
HEALTH, PREDICT = "/v1/endpoints/7/deployedModels/3", "/v1/endpoints/7/deployedModels/3:predict"
SETTINGS = ServerSettings(vertex_health_route=HEALTH, vertex_predict_route=PREDICT, api_key="secret-secret-1")
HEADERS = {"authorization": "Bearer secret-secret-1"}


@pytest_asyncio.fixture(loop_scope="session")
async def client(plane: DataPlane) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(plane, SETTINGS) as served:
        served.client.headers.update(HEADERS)
        yield served.client


@pytest_asyncio.fixture(loop_scope="session")
async def language() -> AsyncIterator[Served]:
    """A server with a language model alone."""
    async with serve_in_process(settings=SETTINGS, headers=HEADERS) as served:
        yield served


async def test_health_is_readiness_and_needs_no_key(language: Served) -> None:
    async def health() -> int:
        return (await language.client.get(HEALTH, headers={"authorization": ""})).status_code

    assert await health() == 200
    language.engine.is_ready = False
    assert await health() == 503
    assert (await language.client.post(PREDICT, json={}, headers={"authorization": ""})).status_code == 401


async def test_instances_of_a_classic_model(client: httpx.AsyncClient, trained: Trained) -> None:
    examples = rows(3, seed=10)
    expected = {"predictions": trained.trees.predict(examples, num_iteration=5).tolist()}
    body = {"instances": examples.tolist(), "parameters": {"model": "trees"}}
    assert (await client.post(PREDICT, json=body)).json() == expected
    body["instances"] = [{"input": row} for row in examples.tolist()]
    assert (await client.post(PREDICT, json=body)).json() == expected
    (answer,) = (
        await client.post(PREDICT, json={"instances": [{"b64": "AA=="}], "parameters": {"model": "image"}})
    ).json()["predictions"]
    assert answer == {"classes": ["length", "first"], "scores": [1.0, 0.0]}


async def test_what_cannot_be_honoured(client: httpx.AsyncClient) -> None:
    row = [1, 2, 3, 4]
    for body, status, named in (
        ({"instances": [row]}, 400, "parameters.model"),
        ({"instances": [row], "parameters": {"model": 5}}, 400, "parameters.model"),
        ({"instances": [row], "parameters": {"model": "gone"}}, 404, "gone"),
        ({"instances": [row], "parameters": {"model": "trees", "colour": 1}}, 400, "colour"),
        ({"instances": [row], "parameters": {"model": "trees", "priority": 9}}, 400, "priority"),
        ({"instances": [row], "more": 1}, 400, "more"),
        ({"instances": []}, 400, "empty"),
        ({"instances": row, "parameters": {"model": "trees"}}, 400, "nested"),
        ({"instances": [{"prompt": "a"}, row]}, 400, "all be for language models"),
        ({"instances": [{"prompt": "a", "@requestFormat": "other"}]}, 400, "@requestFormat"),
    ):
        response = await client.post(PREDICT, json=body)
        assert response.status_code == status, response.text
        assert named in response.json()["error"]["message"]


async def test_instances_of_a_language_model(language: Served) -> None:
    chat = {"@requestFormat": "chatCompletions", "messages": [{"role": "user", "content": "hi"}]}
    body = {"instances": [chat, chat | {"max_tokens": 2}], "parameters": {"max_tokens": 3}}
    answers = (await language.client.post(PREDICT, json=body)).json()["predictions"]
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [3, 2]
    body = {
        "instances": [{"inputs": "hello"}, {"inputs": "world", "parameters": {"max_new_tokens": 2}}],
        "parameters": {"max_new_tokens": 4},
    }
    assert (await language.client.post(PREDICT, json=body)).json() == {"predictions": ["hell", "wo"]}
    body = {"instances": [{"prompt": "hello", "max_tokens": 1}]}
    (answer,) = (await language.client.post(PREDICT, json=body)).json()["predictions"]
    assert answer["choices"][0]["text"] == "h"
    assert language.engine.running == set()


async def test_an_instance_that_fails_ends_the_others(language: Served) -> None:
    for instance, status, named in (
        ({"prompt": "hello", "n": 0}, 400, "instances[1]"),
        ({"prompt": "hello", "stream": True}, 400, "streamed"),
        ({"inputs": "hello", "parameters": {"best_of": 0}}, 400, "best_of"),
        ({"prompt": "hello", "model": "gone"}, 404, "gone"),
    ):
        body = {"instances": [{"prompt": "hello"}, instance]}
        response = await language.client.post(PREDICT, json=body)
        assert response.status_code == status, response.text
        assert named in response.json()["error"]["message"]
        assert language.engine.running == set()
    many = {"instances": [{"prompt": "a"}] * 1025}
    assert (await language.client.post(PREDICT, json=many)).status_code == 400
    language.engine.refuse_with = EngineError("it failed")
    for key in ("prompt", "inputs"):
        response = await language.client.post(PREDICT, json={"instances": [{key: "a"}]})
        assert (response.status_code, "instances[0]" in response.text) == (500, True)


async def test_raw_predictions(language: Served) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    direct = (await language.client.post("/v1/chat/completions", json=chat)).json()
    assert (await language.client.post(PREDICT, json=chat)).json()["choices"] == direct["choices"]
    response = await language.client.post(PREDICT, json=chat | {"stream": True})
    assert events(response.text)[-1] == "[DONE]"


async def test_routes_that_are_none() -> None:
    for route in ("predict", "/a b", "/{x}", "/", "/a//b", "/é"):
        with pytest.raises(ValueError, match="vertex_predict_route"):
            ServerSettings(vertex_predict_route=route)

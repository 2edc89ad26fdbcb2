"""BentoML's HTTP API: named JSON for each model, the schema, the probes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from quire.engine.data_plane import DataPlane
from quire.server.settings import ServerSettings

from .classic_models import Trained, rows, serving
from .conftest import Served

pytestmark = pytest.mark.asyncio(loop_scope="session")  # that of the models
KEY = {"authorization": "Bearer secret-secret-1"}


@pytest_asyncio.fixture(loop_scope="session")
async def served(plane: DataPlane) -> AsyncIterator[Served]:
    async with serving(plane, ServerSettings(api_key="secret-secret-1")) as served:
        served.client.headers.update(KEY)
        yield served


async def test_an_api_for_each_model(served: Served, trained: Trained) -> None:
    examples = rows(3, seed=11)
    response = await served.client.post("/trees", json={"input": examples.tolist()})
    assert response.json() == trained.trees.predict(examples, num_iteration=5).tolist()
    answer = (await served.client.post("/species", json={"input": examples.tolist()})).json()
    assert answer["predict"] == trained.species.predict(examples).tolist()
    one = (await served.client.post("/species", json={"input": examples[0].tolist()})).json()
    assert one["predict"] == answer["predict"][0]


async def test_the_schema_says_what_there_is(served: Served) -> None:
    schema = (await served.client.get("/schema.json")).json()
    routes = {route["name"]: route for route in schema["routes"]}
    assert (schema["type"], sorted(routes)) == ("service", ["image", "mixed", "species", "trees"])
    tensor = {"type": "tensor", "format": "numpy-array"}
    assert routes["trees"] == {
        "name": "trees",
        "route": "/trees",
        "description": "The model trees, version 2",
        "batchable": True,
        "input": {
            "title": "Input",
            "type": "object",
            "properties": {"input": tensor | {"dtype": "float64", "title": "input"}},
            "required": ["input"],
        },
        "output": tensor | {"dtype": "float64", "title": "output"},
    }
    assert routes["mixed"]["input"]["properties"]["tag"]["items"] == {"type": "string"}
    assert list(routes["species"]["output"]["properties"]) == ["predict", "predict_proba"]


async def test_probes_need_no_key(served: Served) -> None:
    async def statuses() -> list[int]:
        paths = ("/livez", "/healthz", "/readyz")
        return [(await served.client.get(path, headers={"authorization": ""})).status_code for path in paths]

    assert await statuses() == [200, 200, 200]
    served.engine.is_ready = False
    assert await statuses() == [200, 200, 503]
    assert (await served.client.post("/trees", json={}, headers={"authorization": ""})).status_code == 401


async def test_what_cannot_be_honoured(served: Served) -> None:
    for body, named in (
        ({"input": [[1, 2, 3]]}, "size 3"),
        ({"inputs": [[1, 2, 3, 4]]}, "lacks"),
        ({}, "lacks"),
        ({"input": [[1, 2, 3, "4"]]}, "'4'"),
    ):
        response = await served.client.post("/trees", json=body)
        assert (response.status_code, list(response.json())) == (400, ["error"])
        assert named in response.json()["error"]
    response = await served.client.post("/trees", content=b"1", headers={"content-type": "text/plain"})
    assert (response.status_code, list(response.json())) == (415, ["error"])


async def test_other_paths_are_as_they_were(served: Served) -> None:
    for method, path, status in (
        ("POST", "/gone", 404),
        ("GET", "/trees", 404),
        ("POST", "/health", 405),
        ("POST", "/trees/more", 404),
    ):
        response = await served.client.request(method, path, json={})
        assert response.status_code == status, path
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_models_come_and_go(served: Served) -> None:
    async def status() -> int:
        return (await served.client.post("/late", json={"image": ["a"]})).status_code

    from .classic_models import own

    assert await status() == 404
    plane = served.context.models
    await plane.registry.load(own("late", "Length"))
    try:
        assert await status() == 200
    finally:
        await plane.registry.unload("late")
    assert await status() == 503
    assert isinstance(served.client, httpx.AsyncClient)

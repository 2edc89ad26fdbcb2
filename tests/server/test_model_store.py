"""Models loaded from the model store over SageMaker's and TorchServe's management APIs, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from quire.engine.model_manager import ModelManager
from quire.errors import InvalidRequest, NotFound
from quire.server.app import create_app
from quire.server.model_store import find_in_store
from quire.server.settings import ServerSettings

from .classic_models import Trained, rows
from .fake_engine import FakeEngine


@pytest.fixture
def store(trained: Trained, tmp_path: Path) -> Path:
    """A store with two models, a folder with one, one with two, and what is none."""
    folder = tmp_path / "store"
    for name in (
        "trees.txt",
        "species.skops",
        "one/model.txt",
        "trees/2/model.txt",
        "two/a.txt",
        "two/b.txt",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        source = trained.folder / ("species.skops" if name.endswith(".skops") else "trees.txt")
        path.write_bytes(source.read_bytes())
    (folder / "bad.txt").write_text("no model")
    (folder / "model.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/x'\ntR.")
    (folder / "resnet.mar").write_bytes(b"PK")
    (tmp_path / "secret.txt").write_text("outside")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder


class ByPath(httpx.AsyncBaseTransport):
    """The admin port for TorchServe's management, and the main port for the rest."""

    def __init__(self, app: FastAPI) -> None:
        context = app.state.context
        self._main = httpx.ASGITransport(app)
        self._admin = self._main
        if not context.settings.sagemaker_multi_model:
            self._admin = httpx.ASGITransport(context.admin.entrance(app))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        chosen = self._admin if request.url.path.startswith("/models") else self._main
        return await chosen.handle_async_request(request)


@contextlib.asynccontextmanager
async def managed(settings: ServerSettings, **options: object) -> AsyncIterator[httpx.AsyncClient]:
    manager = ModelManager(**options)  # type: ignore[arg-type]
    app = create_app({}, settings, manager=manager)
    async with httpx.AsyncClient(transport=ByPath(app), base_url="http://quire") as client:
        try:
            yield client
        finally:
            await manager.close()


async def test_nothing_outside_of_the_store_is_found(store: Path) -> None:
    settings = ServerSettings(model_store=store)
    assert find_in_store(settings, "trees.txt") == store / "trees.txt"
    assert find_in_store(settings, str(store / "one")) == store / "one"
    for url in (
        "../secret.txt",
        "one/../../secret.txt",
        str(store.parent / "secret.txt"),
        str(store / ".." / "secret.txt"),
        "link.txt",
        "gone.txt",
        "a\0b",
        "",
        ".",
        "/",
        "/etc/passwd",
    ):
        with pytest.raises(NotFound):
            find_in_store(settings, url)
    for url in ("https://elsewhere/m.txt", "file:///etc/passwd", "s3://bucket/m", "x" * 2000):
        with pytest.raises(InvalidRequest):
            find_in_store(settings, url)
    with pytest.raises(InvalidRequest, match="model store"):
        find_in_store(ServerSettings(), "trees.txt")


async def test_sagemakers_multi_model_endpoint(store: Path, trained: Trained) -> None:
    settings = ServerSettings(model_store=store, sagemaker_multi_model=True)
    examples = rows(2, seed=12).tolist()
    async with managed(settings) as client:
        assert (await client.get("/ping")).status_code == 200
        assert (await client.get("/models")).json() == {"models": []}
        body = {"model_name": "m-1", "url": str(store / "one")}
        for status in (200, 409):
            assert (await client.post("/models", json=body)).status_code == status
        described = {"modelName": "m-1", "modelUrl": str(store / "one")}
        assert (await client.get("/models")).json() == {"models": [described]}
        assert (await client.get("/models/m-1")).json() == described
        response = await client.post(
            "/models/m-1/invoke",
            json={"instances": examples},
            headers={
                "x-amzn-sagemaker-target-model": "one.tar.gz",
                "x-amzn-sagemaker-custom-attributes": "a",
            },
        )
        assert response.json() == {"predictions": trained.trees.predict(examples).tolist()}
        assert response.headers["x-amzn-sagemaker-custom-attributes"] == "a"
        assert (await client.delete("/models/m-1")).status_code == 200
        for response in (
            await client.delete("/models/m-1"),
            await client.get("/models/m-1"),
            await client.post("/models/m-1/invoke", json=examples),
        ):
            assert response.status_code == 404
        assert (await client.post("/models", json=body)).status_code == 200  # again


async def test_what_sagemaker_cannot_have_loaded(store: Path) -> None:
    settings = ServerSettings(model_store=store, sagemaker_multi_model=True)
    async with managed(settings, memory_budget=1000) as client:
        for url, status, code in (
            ("trees.txt", 507, "model_too_large"),
            ("bad.txt", 400, "model_invalid"),
            ("model.pkl", 400, "untrusted_model"),
            ("two", 400, "model_invalid"),
            ("../secret.txt", 404, "model_not_found"),
            ("link.txt", 404, "model_not_found"),
        ):
            response = await client.post("/models", json={"model_name": "m", "url": url})
            assert (response.status_code, response.json()["error"]["code"]) == (status, code), url
            assert str(store) not in response.text or status == 400
            assert (await client.get("/models")).json() == {"models": []}
        for body in (
            {"model_name": "m"},
            {"model_name": "a/b", "url": "trees.txt"},
            {"model_name": "", "url": "x"},
        ):
            assert (await client.post("/models", json=body)).status_code == 400
        assert (await client.get("/models?next_page_token=x")).status_code == 400


async def test_models_is_no_route_without_being_asked_for() -> None:
    app = create_app(FakeEngine(), ServerSettings(model_store=Path(".")))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://quire") as client:
        for method, path in (("GET", "/models"), ("POST", "/models"), ("DELETE", "/models/fake")):
            assert (await client.request(method, path)).status_code == 404


async def test_torchserves_management(store: Path, trained: Trained) -> None:
    example = rows(1, seed=13)
    expected = trained.trees.predict(example).tolist()
    async with managed(ServerSettings(model_store=store)) as client:
        response = await client.post(
            "/models?url=trees.txt&initial_workers=1&synchronous=true&batch_size=8&max_batch_delay=5"
        )
        assert (response.status_code, response.json()) == (
            200,
            {"status": 'Model "trees" Version: 1.0 registered with 1 initial workers'},
        )
        assert (await client.post("/predictions/trees", json=example.tolist())).json() == expected
        (described,) = (await client.get("/models/trees")).json()
        (worker,) = described.pop("workers")
        assert (worker["status"], worker["memoryUsage"] > 1 << 20) == ("READY", True)
        assert described == {
            "modelName": "trees",
            "modelVersion": "1.0",
            "modelUrl": "trees.txt",
            "runtime": "quire",
            "minWorkers": 1,
            "maxWorkers": 1,
            "batchSize": 8,
            "maxBatchDelay": 5,
            "loadedAtStartup": False,
            "jobQueueStatus": {"remainingCapacity": 2**31 - 1, "pendingRequests": 0},
        }
        again = await client.post("/models?url=trees.txt")
        assert (again.status_code, again.json()["type"]) == (409, "ConflictStatusException")
        scaled = await client.put("/models/trees?min_worker=2&synchronous=true")
        assert scaled.json() == {"status": "Workers scaled to 2 for model: trees"}
        (described,) = (await client.get("/models/trees/1.0")).json()
        assert (described["minWorkers"], len(described["workers"]), described["batchSize"]) == (2, 2, 8)
        assert (await client.get("/models")).json() == {
            "models": [{"modelName": "trees", "modelUrl": "trees.txt"}]
        }
        assert (await client.put("/models/trees?min_worker=0&synchronous=true")).status_code == 200
        assert (await client.post("/predictions/trees", json=example.tolist())).status_code == 503
        removed = await client.delete("/models/trees/1.0")
        assert removed.json() == {"status": 'Model "trees" unregistered'}
        assert (await client.get("/models/trees")).status_code == 404


async def test_versions_and_the_default_one(store: Path, trained: Trained) -> None:
    async with managed(ServerSettings(model_store=store)) as client:
        for url in ("trees.txt", "trees/2"):
            path = f"/models?url={url}&model_name=trees&initial_workers=1&synchronous=true"
            assert (await client.post(path)).status_code == 200
        assert [one["modelVersion"] for one in (await client.get("/models/trees/all")).json()] == [
            "1.0",
            "2.0",
        ]
        (described,) = (await client.get("/models/trees")).json()
        assert described["modelVersion"] == "2.0"
        assert (await client.put("/models/trees/1.0/set-default")).status_code == 200
        (described,) = (await client.get("/models/trees")).json()
        assert described["modelVersion"] == "1.0"
        refused = await client.delete("/models/trees/1.0")
        assert (refused.status_code, "default" in refused.json()["message"]) == (403, True)
        assert (await client.delete("/models/trees/2.0")).status_code == 200
        assert (await client.delete("/models/trees")).status_code == 200


async def test_workers_come_in_the_background(store: Path) -> None:
    async with managed(ServerSettings(model_store=store)) as client:
        registered = await client.post("/models?url=species.skops")
        assert "0 initial workers. Use scale workers API" in registered.json()["status"]
        assert (await client.post("/predictions/species", json=[0.0] * 4)).status_code == 503
        started = await client.put("/models/species?min_worker=1")
        assert (started.status_code, started.json()) == (202, {"status": "Processing worker updates..."})
        while not (await client.get("/models/species")).json()[0]["workers"]:
            await asyncio.sleep(0.05)
        assert (await client.post("/predictions/species", json=[0.0] * 4)).status_code == 200
        assert (await client.post("/models?url=bad.txt&initial_workers=1")).status_code == 202
        while (await client.get("/models/bad")).status_code != 404:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("line", "status", "named"),
    [
        ("POST /models", 400, "url is required"),
        ("POST /models?url=https://elsewhere/resnet.txt", 400, "downloaded"),
        ("POST /models?url=resnet.mar", 400, "handler"),
        ("POST /models?url=../secret.txt", 404, "model store"),
        ("POST /models?url=trees.txt&handler=my:handle", 400, "handler"),
        ("POST /models?url=trees.txt&runtime=PYTHON3", 400, "runtime"),
        ("POST /models?url=trees.txt&s3_sse_kms=true", 400, "s3_sse_kms"),
        ("POST /models?url=trees.txt&batch_size=0", 400, "batch_size"),
        ("POST /models?url=trees.txt&batch_size=1e3", 400, "batch_size"),
        ("POST /models?url=trees.txt&initial_workers=99999", 400, "initial_workers"),
        ("POST /models?url=trees.txt&synchronous=maybe", 400, "synchronous"),
        ("POST /models?url=trees.txt&url=bad.txt", 400, "twice"),
        ("POST /models?url=trees.txt&model_name=../x", 400, "name"),
        ("POST /models?url=two&initial_workers=1", 400, "one model"),
        ("POST /models?url=model.pkl&initial_workers=1&synchronous=true", 400, "pickle"),
        ("POST /models?url=bad.txt&initial_workers=1&synchronous=true", 400, "LightGBM"),
        ("PUT /models/gone", 404, "gone"),
        ("PUT /models/gone/1.0/set-default", 404, "gone"),
        ("GET /models/gone/all", 404, "gone"),
        ("GET /models/gone/x", 404, "x"),
        ("DELETE /models/gone", 404, "gone"),
        ("GET /models?limit=0", 400, "limit"),
        ("GET /models?colour=red", 400, "colour"),
    ],
)
async def test_what_torchserves_clients_cannot_have(store: Path, line: str, status: int, named: str) -> None:
    method, path = line.split(" ")
    async with managed(ServerSettings(model_store=store)) as client:
        response = await client.request(method, path)
        assert response.status_code == status, response.text
        answer = response.json()
        assert (list(answer), answer["code"]) == (["code", "type", "message"], status)
        assert named in answer["message"]
        assert (await client.get("/models")).json() == {"models": []}


async def test_scaling_that_is_refused(store: Path) -> None:
    async with managed(ServerSettings(model_store=store)) as client:
        assert (await client.post("/models?url=trees.txt")).status_code == 200
        for query in ("min_worker=1&max_worker=2", "timeout=5", "min_worker=-1", "number_gpu=1"):
            assert (await client.put(f"/models/trees?{query}")).status_code == 400, query
        assert (await client.get("/models/trees?customized=true")).status_code == 400
        response = await client.post("/models?url=species.skops", headers={"origin": "http://elsewhere"})
        assert response.status_code == 403


async def test_management_needs_the_admin_key(store: Path) -> None:
    settings = ServerSettings(model_store=store, api_key="secret-secret-1")
    async with managed(settings) as client:
        client.headers["authorization"] = "Bearer secret-secret-1"
        for line in (
            "GET /models",
            "POST /models?url=trees.txt",
            "PUT /models/x/1/set-default",
            "DELETE /models/x",
        ):
            method, path = line.split(" ")
            assert (await client.request(method, path)).status_code == 403, line

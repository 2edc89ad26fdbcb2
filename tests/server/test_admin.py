"""The admin API of models, and the port that it can be moved to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from quire.engine.config import EngineConfig
from quire.engine.managed_model import ModelSpec
from quire.engine.model_manager import ModelManager
from quire.errors import ModelError
from quire.server.app import create_app
from quire.server.context import ServerContext
from quire.server.draining import AdminServer, DrainingServer
from quire.server.keys import ADMIN, ApiKey
from quire.server.settings import ServerSettings

from .conftest import until
from .fake_engine import FakeEngine

KEYS = (ApiKey("alice", "secret-of-alice"), ApiKey(ADMIN, "secret-of-the-admin"))
ALICE = {"Authorization": "Bearer secret-of-alice"}
OWNER = {"Authorization": "Bearer secret-of-the-admin"}


class Managed:
    """A server with the models "first" and, on demand, "owner/later"."""

    def __init__(self, settings: ServerSettings | None = None) -> None:
        self.engines: list[FakeEngine] = []
        self.failure: Exception | None = None
        self.manager = ModelManager(start_engine=self._start)
        for name, load in (("first", "start"), ("owner/later", "on_demand")):
            config = EngineConfig(model="folder", served_model_name=name)
            self.manager.declare(ModelSpec(name=name, config=config, load=load))
        self.settings = settings or ServerSettings()

    async def _start(self, config: EngineConfig) -> Any:
        if self.failure is not None:
            raise self.failure
        self.engines.append(FakeEngine(name=config.model_name))
        return self.engines[-1]

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[httpx.AsyncClient]:
        await self.manager.start()
        self.app = create_app({}, self.settings, manager=self.manager)
        self.context: ServerContext = self.app.state.context
        self.context.language_models.default_name = "first"
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://quire") as client:
            try:
                yield client
            finally:
                await self.manager.close()


@pytest.fixture
async def managed() -> AsyncIterator[tuple[Managed, httpx.AsyncClient]]:
    managed = Managed()
    async with managed.serve() as client:
        yield managed, client


def states(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return {model["name"]: model["state"] for model in answer.json()["models"]}


async def test_models_are_listed_loaded_and_unloaded(managed: tuple[Managed, httpx.AsyncClient]) -> None:
    _, client = managed
    listing = await client.get("/admin/models")
    assert listing.json() == {
        "models": [
            {
                "name": "first",
                "version": "1",
                "kind": "llm",
                "state": "ready",
                "reason": "",
                "load": "start",
                "pinned": True,
                "wanted": True,
                "memory_bytes": 1000,
            },
            {
                "name": "owner/later",
                "version": "1",
                "kind": "llm",
                "state": "unloaded",
                "reason": "not loaded",
                "load": "on_demand",
                "pinned": False,
                "wanted": False,
                "memory_bytes": 0,
            },
        ],
        "memory_budget": None,
    }
    assert states(await client.post("/admin/models/owner/later/load")) == {"owner/later": "ready"}
    assert states(await client.get("/admin/models/owner/later")) == {"owner/later": "ready"}
    unloaded = await client.post("/admin/models/first/unload", json={"version": 1})
    assert states(unloaded) == {"first": "unloaded"}
    answer = await client.post("/v1/completions", json={"prompt": "hello", "model": "first"})
    assert answer.status_code == 503
    assert "first is unloaded" in answer.text
    assert (await client.post("/v1/completions", json={"prompt": "hello"})).status_code == 503
    assert states(await client.post("/admin/models/first/load", json={})) == {"first": "ready"}
    answer = await client.post("/v1/completions", json={"prompt": "hello", "model": "first"})
    assert answer.status_code == 200


async def test_a_model_on_demand_is_listed_and_loaded_by_its_first_request(
    managed: tuple[Managed, httpx.AsyncClient],
) -> None:
    server, client = managed
    listing = (await client.get("/v1/models")).json()["data"]
    assert [(model["id"], model.get("max_model_len")) for model in listing] == [
        ("first", 512),
        ("owner/later", None),
    ]
    assert (await client.get("/v1/models/owner/later")).json()["root"] == "folder"
    assert (await client.get("/ready")).status_code == 200
    body = {"prompt": "hello", "model": "owner/later"}
    assert (await client.post("/v1/completions", json=body)).status_code == 200
    assert len(server.engines) == 2
    listing = (await client.get("/v1/models")).json()["data"]
    assert [(model["id"], model["max_model_len"]) for model in listing] == [
        ("first", 512),
        ("owner/later", 512),
    ]


async def test_the_server_is_ready_only_while_the_models_are_that_should_be(
    managed: tuple[Managed, httpx.AsyncClient],
) -> None:
    server, client = managed
    assert (await client.get("/ready")).status_code == 200
    server.engines[0].is_ready = False
    answer = await client.get("/ready")
    assert answer.status_code == 503
    assert "first" in answer.text
    await client.post("/admin/models/first/unload")
    assert (await client.get("/ready")).status_code == 200


async def test_what_cannot_be_loaded_is_said(managed: tuple[Managed, httpx.AsyncClient]) -> None:
    server, client = managed
    server.failure = ModelError("it is broken")
    answer = await client.post("/admin/models/owner/later/load")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "model_invalid"
    answer = await client.post("/v1/completions", json={"prompt": "hello", "model": "owner/later"})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_not_loaded"
    assert "it is broken" in answer.text
    assert (await client.post("/admin/models/first/load")).status_code == 400
    body = {"prompt": "hello", "model": "first"}
    assert (await client.post("/v1/completions", json=body)).status_code == 200  # the old one serves on


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/admin/models/none", None, 404),
        ("POST", "/admin/models/none/load", None, 404),
        ("POST", "/admin/models/none/unload", None, 404),
        ("POST", "/admin/models/first/load", {"version": "2"}, 404),
        ("POST", "/admin/models/first/load", {"version": "latest"}, 400),
        ("POST", "/admin/models/first/load", {"versions": "1"}, 400),
        ("POST", "/admin/models/first/load", [], 400),
        ("POST", "/admin/models/first", None, 405),
    ],
)
async def test_bad_requests(
    managed: tuple[Managed, httpx.AsyncClient], method: str, path: str, body: object, status: int
) -> None:
    server, client = managed
    answer = await client.request(method, path, json=body) if body is not None else None
    answer = answer or await client.request(method, path)
    assert answer.status_code == status, answer.text
    assert len(server.engines) == 1


async def test_only_the_admin_key_opens_the_admin_api() -> None:
    managed = Managed(ServerSettings(api_keys=KEYS))
    async with managed.serve() as client:
        for method, path in (
            ("GET", "/admin/models"),
            ("GET", "/admin/models/first"),
            ("POST", "/admin/models/first/unload"),
            ("POST", "/admin/models/first/load"),
            ("POST", "/%61dmin/models/first/load"),
        ):
            assert (await client.request(method, path)).status_code == 401
            assert (await client.request(method, path, headers=ALICE)).status_code == 403
        assert states(await client.get("/admin/models/first", headers=OWNER)) == {"first": "ready"}


@contextlib.asynccontextmanager
async def listening(server: Any) -> AsyncIterator[httpx.AsyncClient]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve(sockets=[sock]))
        await until(lambda: server.started, "it listens")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}") as client:
            yield client
        server.should_exit = True
        await task


@pytest.mark.parametrize("keys", [(), KEYS])
async def test_with_an_admin_port_the_admin_routes_are_there_alone(keys: tuple[ApiKey, ...]) -> None:
    settings = ServerSettings(api_keys=keys)
    managed = Managed(settings)
    async with managed.serve():
        context = managed.context
        context.admin.is_apart = True
        router = APIRouter()

        @router.get("/others")
        async def others() -> dict[str, str]:
            return {"who": "another dialect"}

        context.admin.add(router)
        _ = others
        async with (
            listening(DrainingServer(managed.app, settings)) as main,
            listening(AdminServer(managed.app, settings)) as admin,
        ):
            for path in ("/admin/models", "/admin/models/first", "/admin/deployments"):
                moved = await main.get(path, headers=OWNER)
                assert (moved.status_code, "on the admin port" in moved.text) == (404, True)
                assert (await admin.get(path, headers=OWNER)).status_code == 200
            assert (await main.post("/reset_prefix_cache", headers=OWNER)).status_code == 404
            assert (await admin.post("/reset_prefix_cache", headers=OWNER)).status_code == 200
            assert (await main.get("/others", headers=OWNER)).status_code == 404
            assert (await admin.get("/others", headers=OWNER)).json() == {"who": "another dialect"}
            assert (await admin.post("/others", headers=OWNER)).status_code == 405
            for path in ("/v1/models", "/api/tags", "/", "/ui/app.js", "/nonsense"):
                assert (await admin.get(path, headers=OWNER)).status_code == 404
            body = {"prompt": "hello"}
            assert (await admin.post("/v1/completions", json=body, headers=OWNER)).status_code == 404
            assert (await main.post("/v1/completions", json=body, headers=OWNER)).status_code == 200
            for client in (main, admin):
                for path in ("/health", "/ready"):
                    assert (await client.get(path)).status_code == 200
                assert (await client.get("/metrics", headers=OWNER)).status_code == 200
            if keys:
                assert (await admin.get("/admin/models")).status_code == 401
                assert (await admin.get("/admin/models", headers=ALICE)).status_code == 403
                assert (await admin.get("/others")).status_code == 401
                assert (await admin.get("/others", headers=ALICE)).status_code == 403

"""One server with several language models: every dialect reaches the one that a request names."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest

from quire.server.app import create_app
from quire.server.context import ServerContext

from .fake_engine import FakeEngine

MESSAGES = [{"role": "user", "content": "hello"}]


class Two:
    """A server with the models "first", the default one, and "second"."""

    def __init__(self, engines: dict[str, FakeEngine], context: ServerContext, client: httpx.AsyncClient):
        self.engines = engines
        self.context = context
        self.client = client

    def asked(self) -> list[str]:
        """The names of the models that were asked since the last time, in order of the models."""
        names = [name for name, engine in self.engines.items() if engine.seen]
        for engine in self.engines.values():
            engine.seen.clear()
        return names


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    engines = {name: FakeEngine(name=f"folder/{name}") for name in ("first", "second")}
    app = create_app(engines)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://quire") as client:
        try:
            yield Two(engines, app.state.context, client)
        finally:
            for engine in engines.values():
                await engine.close_grammars()


GENERATION = {
    "/v1/completions": {"prompt": "hello"},
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 4},
    "/v1/embeddings": {"input": "hello"},
    "/pooling": {"input": "hello"},
    "/score": {"text_1": "hello", "text_2": "you"},
    "/rerank": {"query": "hello", "documents": ["you"]},
    "/api/generate": {"prompt": "hello", "stream": False},
    "/api/chat": {"messages": MESSAGES, "stream": False},
    "/completion": {"prompt": "hello"},
}


@pytest.mark.parametrize("path", GENERATION)
async def test_a_request_reaches_the_model_that_it_names(two: Two, path: str) -> None:
    for name in ("second", "first"):
        response = await two.client.post(path, json=GENERATION[path] | {"model": name})
        assert response.status_code == 200, response.text
        assert two.asked() == [name]
        if (shown := response.json().get("model")) is not None:
            assert shown == name


@pytest.mark.parametrize("path", GENERATION)
async def test_an_unknown_model_is_not_found(two: Two, path: str) -> None:
    response = await two.client.post(path, json=GENERATION[path] | {"model": "folder/first"})
    assert response.status_code == 404
    assert "this server has 'first', 'second'" in response.text
    assert two.asked() == []


@pytest.mark.parametrize("path", [path for path in GENERATION if not path.startswith(("/api", "/v1/mess"))])
async def test_without_a_name_the_default_model_answers(two: Two, path: str) -> None:
    assert (await two.client.post(path, json=GENERATION[path])).status_code == 200
    assert two.asked() == ["first"]
    two.context.language_models.default_name = "second"
    assert (await two.client.post(path, json=GENERATION[path])).status_code == 200
    assert two.asked() == ["second"]


async def test_dialects_whose_requests_name_no_model_ask_the_default_one(two: Two) -> None:
    assert (await two.client.post("/generate", json={"inputs": "hello"})).status_code == 200
    assert two.asked() == ["first"]
    for path in ("/info", "/props", "/slots"):
        assert (await two.client.get(path)).status_code == 200
    assert (await two.client.get("/info")).json()["model_id"] == "first"


async def test_the_lists_have_all_models(two: Two) -> None:
    listing = (await two.client.get("/v1/models")).json()["data"]
    assert [(model["id"], model["root"]) for model in listing] == [
        ("first", "folder/first"),
        ("second", "folder/second"),
    ]
    assert (await two.client.get("/v1/models/second")).json()["id"] == "second"


async def test_each_model_has_its_own_tokens_and_templates(two: Two) -> None:
    two.engines["second"].max_model_len = 99
    for name, length in (("first", 512), ("second", 99)):
        answer = await two.client.post("/tokenize", json={"prompt": "hello", "model": name})
        assert answer.json()["max_model_len"] == length
    assert (await two.client.post("/tokenize", json={"prompt": "hello", "model": "third"})).status_code == 404
    assert (await two.client.post("/detokenize", json={"tokens": [1], "model": "third"})).status_code == 404


async def test_metrics_tell_the_models_apart(two: Two) -> None:
    await two.client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 3, "model": "second"})
    text = (await two.client.get("/metrics")).text
    assert 'quire:generation_tokens_total{model_name="first"} 0.0\n' in text
    assert 'quire:generation_tokens_total{model_name="second"} 3.0\n' in text
    assert 'quire:request_success_total{finished_reason="length",model_name="second"} 1.0\n' in text
    assert 'quire:engine_ready{model_name="first"} 1.0\n' in text
    http = 'quire:http_requests_total{handler="/v1/completions",method="POST",model_name="%s",status="200"}'
    assert f"{http % 'second'} 1.0\n" in text
    assert http % "first" not in text
    assert text.count("# TYPE quire:num_requests_running gauge") == 1
    assert text.count("# TYPE quire_engine_process_resident_memory_bytes gauge") == 1
    for name in ("first", "second"):
        assert f'quire_engine_process_resident_memory_bytes{{model_name="{name}"}}' in text


async def test_the_server_is_as_live_and_as_ready_as_its_worst_model(two: Two) -> None:
    assert (await two.client.get("/health")).status_code == 200
    assert (await two.client.get("/ready")).status_code == 200
    two.engines["second"].is_ready = False
    assert (await two.client.get("/health")).status_code == 200
    response = await two.client.get("/ready")
    assert response.status_code == 503
    assert "second" in response.text
    assert "first" not in response.text
    two.engines["second"].is_alive = False
    response = await two.client.get("/health")
    assert response.status_code == 503
    assert "second" in response.text


async def test_prefixes_are_forgotten_in_all_models(two: Two) -> None:
    assert (await two.client.post("/reset_prefix_cache")).status_code == 200
    assert [engine.num_resets for engine in two.engines.values()] == [1, 1]


async def test_a_model_that_is_taken_out_finishes_its_requests(two: Two) -> None:
    engine = two.engines["second"]
    engine.going.clear()
    body = {"prompt": "hello", "model": "second"}
    open_request = asyncio.create_task(two.client.post("/v1/completions", json=body))
    while not engine.running:
        await asyncio.sleep(0)
    model = two.context.language_models.remove("second")
    assert model.num_in_flight == 1
    assert (await two.client.post("/v1/completions", json=body)).status_code == 404
    idle = asyncio.create_task(model.wait_idle())
    await asyncio.sleep(0)
    assert not idle.done()
    engine.going.set()
    assert (await open_request).status_code == 200
    await idle
    assert model.num_in_flight == 0


async def test_a_response_in_the_background_holds_its_model(two: Two) -> None:
    engine = two.engines["second"]
    engine.going.clear()
    body = {"input": "hello", "model": "second", "background": True}
    assert (await two.client.post("/v1/responses", json=body)).status_code == 200
    model = two.context.language_models.get("second")
    assert model.num_in_flight == 1
    engine.going.set()
    await model.wait_idle()


async def test_a_model_can_be_loaded_when_it_is_named(two: Two) -> None:
    late = FakeEngine(name="late")
    named: list[str] = []

    async def load(name: str) -> None:
        named.append(name)
        if name == "late":
            two.context.language_models.add("late", late)

    two.context.language_models.load = load
    for name, status in (("late", 200), ("never", 404), ("late", 200), ("first", 200)):
        response = await two.client.post("/v1/completions", json={"prompt": "hello", "model": name})
        assert response.status_code == status
    assert named == ["late", "never"]
    assert len(late.seen) == 2


async def test_a_server_without_language_models_says_so() -> None:
    app = create_app({})
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://quire") as client:
        for path in ("/health", "/ready", "/metrics"):
            assert (await client.get(path)).status_code == 200
        assert (await client.get("/v1/models")).json()["data"] == []
        assert (await client.get("/api/tags")).json()["models"] == []
        for method, path in (("POST", "/v1/completions"), ("GET", "/props"), ("GET", "/info")):
            response = await client.request(method, path, json={"prompt": "x"} if method == "POST" else None)
            assert response.status_code == 404
            assert "this server has no language model" in response.text


async def test_the_live_view_shows_the_model_that_is_asked_for(two: Two) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5), two.client.stream("GET", "/engine/live?model=second"):
            pass
    assert two.engines["second"].watching
    assert not two.engines["first"].watching
    assert (await two.client.get("/engine/live?model=third")).status_code == 404

"""Deployments of classic models: real worker processes behind the application, asked by several dialects."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from quire.engine.classic_workers import WorkerConfig
from quire.engine.data_plane import DataPlane
from quire.engine.model_registry import ClassicModelConfig, ModelRegistry
from quire.models.classic.predictor import LoadOptions
from quire.server.app import create_app
from quire.server.deployments.classic import similarity
from quire.server.deployments.deployment import Deployment
from quire.server.deployments.shadow import ShadowStrategy

from .conftest import until
from .fake_engine import FakeEngine

PREDICTORS = Path(__file__).parent.parent / "engine"


class Deployed:
    """The model "scale" in two versions, y = 2x and y = 3x, and the deployment "y" in front of them.

    Version 2 fails on 500, and takes -x seconds where x is negative.
    """

    def __init__(self, app: Any, client: httpx.AsyncClient) -> None:
        self.context = app.state.context
        self.client = client

    @property
    def deployment(self) -> Deployment:
        return self.context.deployments.get("y")

    async def make(self, **spec: Any) -> None:
        body = {"versions": ["scale@1", "scale@2"]} | spec
        answer = await self.client.put("/admin/deployments/y", json=body)
        assert answer.status_code == 200, answer.text

    async def infer(self, x: float, model: str = "y") -> httpx.Response:
        tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [x]}
        body = {"inputs": [tensor], "outputs": [{"name": "y"}]}
        return await self.client.post(f"/v2/models/{model}/infer", json=body)

    async def predict(self, x: float) -> httpx.Response:
        return await self.client.post("/v1/models/y:predict", json={"instances": [x]})

    def outcomes(self, version: str) -> dict[str, int]:
        return {what: number for what, number in self.deployment.totals[version].outcomes.items() if number}


def scale(version: str, factor: float) -> ClassicModelConfig:
    load = LoadOptions(python_class="owners_predictors:Scale", parameters={"factor": factor})
    return ClassicModelConfig(
        name="scale", version=version, workers=WorkerConfig(path=Path("."), runtime="python", options=load)
    )


@pytest.fixture
async def deployed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Deployed]:
    paths = [str(PREDICTORS), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    plane = DataPlane(ModelRegistry())
    engine = FakeEngine()
    app = create_app(engine, models=plane)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(engine.close_grammars)
        stack.push_async_callback(plane.registry.close)
        stack.callback(app.state.context.deployments.close)
        await asyncio.gather(plane.registry.load(scale("1", 2.0)), plane.registry.load(scale("2", 3.0)))
        transport = httpx.ASGITransport(app)
        client = httpx.AsyncClient(transport=transport, base_url="http://quire", timeout=60)
        yield Deployed(app, await stack.enter_async_context(client))


ALL = {"type": "canary", "steps": [100], "step_requests": 10_000}


async def test_both_dialects_reach_the_version_and_the_answer_says_which(deployed: Deployed) -> None:
    await deployed.make(strategy=ALL)
    answer = await deployed.infer(2)
    assert answer.json()["outputs"][0]["data"] == [6]
    assert (answer.json()["model_version"], answer.headers["x-quire-version"]) == ("2", "scale@2")
    answer = await deployed.predict(2)
    assert answer.json()["predictions"][0]["y"] == 6
    assert answer.headers["x-quire-version"] == "scale@2"
    assert deployed.outcomes("scale@2") == {"succeeded": 2}
    direct = await deployed.infer(2, "scale/versions/1")
    assert direct.json()["outputs"][0]["data"] == [4]
    assert "x-quire-version" not in direct.headers
    assert (await deployed.client.get("/v2/models/y/ready")).status_code == 200
    assert (await deployed.client.get("/v2/models/y")).json()["name"] == "y"
    assert (await deployed.infer(2, "z")).status_code == 404


async def test_a_failing_canary_is_made_good_and_rolled_back_while_no_client_sees_an_error(
    deployed: Deployed,
) -> None:
    await deployed.make(strategy={"type": "canary", "steps": [25, 100], "step_requests": 10_000})
    await deployed.context.classic.registry.load(scale("2", 3.0))
    for _ in range(40):
        answers = await asyncio.gather(*(deployed.infer(500) for _ in range(4)))
        # Both versions fail on 500: the client sees it, and it tells nothing of one of them.
        assert {answer.status_code for answer in answers} == {500}
    assert deployed.deployment.strategy.describe()["phase"] == "running"
    await deployed.context.classic.registry.unload("scale", "2")
    for _ in range(40):
        answers = await asyncio.gather(*(deployed.infer(1) for _ in range(5)))
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["outputs"][0]["data"][0] for answer in answers} == {2}
    assert deployed.deployment.strategy.describe()["phase"] == "rolled_back"
    assert set(deployed.outcomes("scale@1")) == {"failed", "succeeded"}


async def test_a_canary_that_hangs_is_left(deployed: Deployed) -> None:
    await deployed.make(strategy={"type": "canary", "steps": [100], "hang_seconds": 0.5})
    answer = await deployed.infer(-2.0)  # both take two seconds
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["data"] == [-4]
    assert deployed.outcomes("scale@2") == {"hung": 1}
    assert deployed.deployment.strategy.describe()["phase"] == "rolled_back"


async def test_what_a_request_does_wrong_is_no_evidence(deployed: Deployed) -> None:
    await deployed.make(strategy=ALL)
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    assert (await deployed.client.post("/v2/models/y/infer", json={"inputs": [tensor]})).status_code == 400
    assert set(deployed.outcomes("scale@2")) <= {"void"}
    assert deployed.outcomes("scale@1") == {}


async def test_a_shadow_is_compared_and_changes_nothing(deployed: Deployed) -> None:
    await deployed.make(strategy={"type": "shadow", "max_pending": 64})
    answers = await asyncio.gather(*(deployed.infer(x) for x in (0, 0, 1, 2)))
    assert [answer.json()["outputs"][0]["data"][0] for answer in answers] == [0, 0, 2, 4]
    strategy = deployed.deployment.strategy
    assert isinstance(strategy, ShadowStrategy)
    await until(lambda: strategy.state.num_compared == 4, "all are compared")
    assert strategy.state.num_agreed == 2  # 2 · 0 = 3 · 0
    assert deployed.deployment.totals["scale@2"].num_mirrored == 4


async def test_a_hot_swap_and_a_switch_under_load_lose_nothing(deployed: Deployed) -> None:
    await deployed.make(strategy="blue-green")
    factors: set[float] = set()
    stop = asyncio.Event()

    async def client() -> int:
        number = 0
        while not stop.is_set():
            answer = await deployed.infer(1)
            assert answer.status_code == 200, answer.text
            factors.add(answer.json()["outputs"][0]["data"][0])
            number += 1
        return number

    clients = [asyncio.create_task(client()) for _ in range(8)]
    for _ in range(2):
        await deployed.client.post("/admin/deployments/y/switch", json={})
        await deployed.context.classic.registry.load(scale("2", 5.0))
        await deployed.client.post("/admin/deployments/y/rollback", json={})
    stop.set()
    assert sum(await asyncio.gather(*clients)) > 50
    assert factors <= {2, 3, 5}


async def test_feedback_reaches_a_bandit(deployed: Deployed) -> None:
    await deployed.make(strategy="bandit")
    for _ in range(60):
        answer = await deployed.infer(1)
        good = answer.headers["x-quire-version"] == "scale@2"
        body = {"request_id": answer.headers["x-request-id"], "score": float(good)}
        said = await deployed.client.post("/v1/feedback", json=body)
        assert said.json() == {"deployment": "y", "version": answer.headers["x-quire-version"]}
    assert deployed.deployment.strategy.shares()["scale@2"] > 0.9


def test_what_counts_as_agreement() -> None:
    def one(*values: float) -> dict[str, Any]:
        return {"y": np.array(values)}

    assert similarity(one(1, 2, 1000), one(1.0005, 2, 1000.5), 1e-3) == 1
    assert similarity(one(1, 2), one(1.1, 2), 1e-3) == 0.5
    assert similarity(one(np.nan, np.inf), one(np.nan, np.inf), 1e-3) == 1
    assert similarity(one(np.inf), one(1.0), 1e-3) == 0
    assert similarity(one(1, 2), one(1), 1e-3) == 0
    assert similarity(one(1), one(1) | {"z": np.zeros(1)}, 1e-3) == 0.5
    texts = {"y": np.array([b"a", b"b"], object)}
    assert similarity(texts, {"y": np.array([b"a", b"c"], object)}, 1e-3) == 0.5
    assert similarity({"y": np.array([True, False])}, {"y": np.array([True, True])}, 1e-3) == 0.5


async def test_asking_the_wrong_way_is_the_clients_mistake_and_counts_for_nothing(deployed: Deployed) -> None:
    await deployed.make(strategy=ALL)
    messages = [{"role": "user", "content": "hello"}]
    for _ in range(5):
        body = {"model": "y", "messages": messages}
        assert (await deployed.client.post("/v1/chat/completions", json=body)).status_code == 404
    assert deployed.outcomes("scale@2") == deployed.outcomes("scale@1") == {}
    assert deployed.deployment.strategy.describe()["phase"] == "running"

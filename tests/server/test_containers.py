"""Clouds' containers: what their environment changes, and real processes that serve in them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from quire.engine.config import EngineConfig
from quire.engine.managed_model import ModelSpec
from quire.errors import ModelError
from quire.server.config.plan import ServerPlan
from quire.server.containers import in_container
from quire.server.settings import ServerSettings

from .classic_models import Trained, rows
from .fake_engine import EMBEDDED
from .quire_process import PATIENCE

PLAN = ServerPlan(models=(ModelSpec.of(EngineConfig(model="embedded")),))
VERTEX = {"AIP_HTTP_PORT": "8081", "AIP_HEALTH_ROUTE": "/health-7", "AIP_PREDICT_ROUTE": "/predict-7"}


def test_outside_of_containers_nothing_changes() -> None:
    assert in_container(PLAN, set(), {"SM_MODEL_DIR": "/x", "AIP_HEALTH_ROUTE": "/x"}) is PLAN


def test_vertex_ai_names_port_and_routes() -> None:
    plan = in_container(PLAN, set(), VERTEX)
    assert (plan.host, plan.port, plan.models) == ("0.0.0.0", 8081, PLAN.models)
    settings = plan.settings
    assert (settings.vertex_health_route, settings.vertex_predict_route) == ("/health-7", "/predict-7")
    assert settings.insecure
    plan = in_container(ServerPlan(models=(), port=9), {"port", "host"}, VERTEX)
    assert (plan.host, plan.port) == ("127.0.0.1", 9)


def test_a_key_is_not_forgotten_in_a_container() -> None:
    plan = ServerPlan(models=(), settings=ServerSettings(api_key="secret-secret-1"))
    assert not in_container(plan, set(), VERTEX).settings.insecure


def test_sagemaker_serves_what_is_in_its_folder(trained: Trained, tmp_path: Path) -> None:
    environ = {"SAGEMAKER_BIND_TO_PORT": "8089", "SM_MODEL_DIR": str(tmp_path)}
    with pytest.raises(ModelError, match="one model"):
        in_container(PLAN, set(), environ)
    (tmp_path / "trees.txt").write_bytes((trained.folder / "trees.txt").read_bytes())
    plan = in_container(PLAN, set(), environ)
    (spec,) = plan.models
    assert (spec.name, spec.kind, spec.load, plan.port) == ("model", "classic", "start", 8089)
    assert in_container(PLAN, {"model"}, environ).models == PLAN.models
    (tmp_path / "quire.toml").write_text('[[models]]\nname = "mine"\npath = "trees.txt"\n')
    assert [spec.name for spec in in_container(PLAN, set(), environ).models] == ["mine"]


def test_sagemakers_multi_model_endpoint_begins_empty() -> None:
    plan = in_container(PLAN, set(), {"SAGEMAKER_MULTI_MODEL": "true"})
    assert (plan.models, plan.port, plan.settings.model_store) == ((), 8080, Path("/opt/ml/models"))
    assert plan.settings.sagemaker_multi_model


@pytest.mark.parametrize(
    "environ",
    [
        {"AIP_HTTP_PORT": "http"},
        {"AIP_HTTP_PORT": "70000"},
        {"AIP_HTTP_PORT": "80", "AIP_PREDICT_ROUTE": "predict"},
        {"SAGEMAKER_BIND_TO_PORT": ""},
        {"SAGEMAKER_BIND_TO_PORT": "80", "SM_MODEL_DIR": "/gone"},
        {"SAGEMAKER_MULTI_MODEL": "perhaps"},
    ],
)
def test_variables_that_cannot_be_honoured(environ: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"AIP_|SAGEMAKER_|SageMaker|predict"):
        in_container(PLAN, set(), environ)


class Container:
    """`quire serve` without arguments in an environment of a cloud's."""

    def __init__(self, folder: Path, environ: dict[str, str], *options: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("QUIRE_")}
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "quire", "serve", "--host", "127.0.0.1", "--port", "0", *options],
                cwd=folder,
                env=kept | environ,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(r"serves .* on (http://127\.0\.0\.1:\d+)", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.client = httpx.Client(base_url=found[1], timeout=PATIENCE)

    def __enter__(self) -> httpx.Client:
        return self.client

    def __exit__(self, *error: object) -> None:
        self.client.close()
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()


@pytest.fixture
def model_folder(trained: Trained, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "trees.txt").write_bytes((trained.folder / "trees.txt").read_bytes())
    return folder


def test_a_real_container_of_sagemakers(trained: Trained, model_folder: Path, tmp_path: Path) -> None:
    examples = rows(2, seed=14)
    environ = {"SAGEMAKER_BIND_TO_PORT": "8080", "SM_MODEL_DIR": str(model_folder)}
    with Container(tmp_path, environ) as client:
        assert client.get("/ping").status_code == 200
        csv = "\n".join(",".join(map(repr, row)) for row in examples.tolist())
        response = client.post("/invocations", content=csv, headers={"content-type": "text/csv"})
        assert [float(line) for line in response.text.split()] == trained.trees.predict(examples).tolist()


def test_a_real_multi_model_container(trained: Trained, model_folder: Path, tmp_path: Path) -> None:
    example = rows(1, seed=15).tolist()
    environ = {"SAGEMAKER_MULTI_MODEL": "true"}
    with Container(tmp_path, environ, "--model-store", str(tmp_path)) as client:
        assert client.get("/ping").status_code == 200
        body = {"model_name": "a", "url": str(model_folder)}
        assert client.post("/models", json=body).status_code == 200
        response = client.post("/models/a/invoke", content=json.dumps(example))
        assert response.json() == trained.trees.predict(example).tolist()
        assert client.delete("/models/a").status_code == 200
        assert client.get("/models").json() == {"models": []}
        shutil.copytree(EMBEDDED, tmp_path / "language")
        body = {"model_name": "b", "url": "language"}
        assert client.post("/models", json=body).status_code == 200
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
        answer = client.post("/models/b/invoke", json=chat).json()
        assert (answer["model"], answer["usage"]["completion_tokens"]) == ("b", 3)
        answer = client.post("/models/b/invoke", json={"inputs": "Once", "parameters": {"max_new_tokens": 2}})
        assert list(answer.json()[0]) == ["generated_text"]
        assert client.post("/models/b/invoke", json={"model": "c", **chat}).status_code == 400
        assert client.post("/models/b/invoke", json=[1, 2]).status_code == 400
        assert client.delete("/models/b").status_code == 200
        assert client.post("/models/b/invoke", json=chat).status_code == 404


def test_a_real_container_of_vertex_ai(tmp_path: Path) -> None:
    with Container(tmp_path, VERTEX) as client:
        assert client.get("/health-7").status_code == 200
        body = {"instances": [{"prompt": "Once upon a time", "max_tokens": 3, "temperature": 0}]}
        (answer,) = client.post("/predict-7", json=body).json()["predictions"]
        assert answer["usage"]["completion_tokens"] == 3

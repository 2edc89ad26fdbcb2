"""`quire serve --config` for real: a language model, models of two runtimes, a repository, an admin port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from .quire_process import PATIENCE

lightgbm = pytest.importorskip("lightgbm")
pytest.importorskip("skops")

CONFIG = """
[server]
port = 0
admin_port = 0
memory_budget = "64GiB"

[[models]]
name = "chat"
model = "embedded"
num_blocks = 64
weight_cache = false

[[models]]
name = "later"
model = "embedded"
num_blocks = 64
weight_cache = false
load = "on_demand"

[[models]]
name = "trees"
path = "files/trees.txt"
[models.dynamic_batching]
max_queue_delay_microseconds = 100
[[models.warmup]]
name = "eight rows"
batch_size = 8
others = {fill = "random"}

[[models]]
name = "species"
version = 1
path = "files/species.skops"
load = "on_demand"

[[models]]
name = "species"
version = 2
path = "files/species.skops"
"""
REPOSITORY = """
backend: "fil"
max_batch_size: 32
input { name: "input__0" data_type: TYPE_FP32 dims: 4 }
output { name: "output__0" data_type: TYPE_FP32 dims: 1 }
parameters { key: "model_type" value { string_value: "lightgbm" } }
"""


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 4))


class Server:
    """A server process, where it listens, and what its models were trained as."""

    def __init__(self, folder: Path) -> None:
        from sklearn.linear_model import LogisticRegression
        from skops import io

        files, version = folder / "files", folder / "repository/forest/1"
        files.mkdir()
        version.mkdir(parents=True)
        examples = rows(200)
        self.trees = lightgbm.train({"verbose": -1}, lightgbm.Dataset(examples, examples @ [1, 2, 3, 4]), 5)
        self.trees.save_model(files / "trees.txt")
        self.trees.save_model(version / "model.txt")
        io.dump(LogisticRegression().fit(examples, examples[:, 0] > 0), files / "species.skops")
        (folder / "repository/forest/config.pbtxt").write_text(REPOSITORY)
        (folder / "quire.toml").write_text(CONFIG)
        self.log = folder / "server.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("QUIRE_")}
        command = [sys.executable, "-m", "quire", "serve", "--config", "quire.toml"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--model-repository", "repository"],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.admin_url = self._find(r"admin routes are on (http://\S+)")
        self.url = self._find(r"quire serves .* on (http://\S+)")

    def _find(self, pattern: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if found := re.search(pattern, self.log.read_text()):
                return found[1]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"the server did not start:\n{self.log.read_text()}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    children = psutil.Process(server.process.pid).children()
    try:
        yield server
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0, server.log.read_text()
    finally:
        server.process.kill()
        server.process.wait()
        _, alive = psutil.wait_procs(children, timeout=PATIENCE)
        assert alive == []


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def admin(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.admin_url, timeout=PATIENCE) as client:
        yield client


def models(admin: httpx.Client) -> dict[str, str]:
    found = admin.get("/admin/models").json()["models"]
    return {f"{model['name']}/{model['version']}": model["state"] for model in found}


def infer(client: httpx.Client, name: str, array: np.ndarray, tensor: str, datatype: str) -> dict[str, Any]:
    body = {
        "inputs": [
            {"name": tensor, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}
        ]
    }
    answer = client.post(f"/v2/models/{name}/infer", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_mix_of_models_is_served_by_one_process(
    server: Server, client: httpx.Client, admin: httpx.Client
) -> None:
    assert client.get("/ready").status_code == 200
    assert models(admin) == {
        "chat/1": "ready",
        "later/1": "unloaded",
        "trees/1": "ready",
        "species/1": "unloaded",
        "species/2": "ready",
        "forest/1": "ready",
    }
    answer = client.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 3})
    assert answer.json()["model"] == "chat"

    some = rows(5)
    expected = server.trees.predict(some)
    answered = infer(client, "trees", some, "input", "FP64")
    np.testing.assert_allclose(answered["outputs"][0]["data"], expected)
    answered = infer(client, "forest", some.astype(np.float32), "input__0", "FP32")
    (output,) = answered["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("output__0", "FP32", [5, 1])
    np.testing.assert_allclose(output["data"], expected, rtol=1e-3)
    assert infer(client, "species", some, "input", "FP64")["model_version"] == "2"


def test_models_are_loaded_by_the_first_request_that_names_them(
    client: httpx.Client, admin: httpx.Client
) -> None:
    instances = {"instances": rows(2).tolist()}
    answer = client.post("/v1/models/species/versions/1:predict", json=instances)
    assert answer.status_code == 200, answer.text
    answer = client.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 3, "model": "later"})
    assert answer.json()["model"] == "later"
    found = models(admin)
    assert (found["species/1"], found["later/1"]) == ("ready", "ready")


def test_models_are_unloaded_and_loaded_over_the_admin_port(
    client: httpx.Client, admin: httpx.Client
) -> None:
    assert client.post("/admin/models/trees/unload").status_code == 404
    assert admin.post("/admin/models/trees/unload").status_code == 200
    assert client.get("/v2/models/trees/ready").status_code != 200
    assert client.get("/ready").status_code == 200
    body = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP64", "data": [0, 0, 0, 0]}]}
    assert client.post("/v2/models/trees/infer", json=body).status_code == 503
    assert admin.post("/admin/models/trees/load").status_code == 200
    assert client.post("/v2/models/trees/infer", json=body).status_code == 200
    text = admin.get("/metrics").text
    assert 'quire:engine_ready{model_name="chat"} 1.0' in text

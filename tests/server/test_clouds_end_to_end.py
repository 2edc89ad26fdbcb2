"""Clients of TensorFlow Serving, TorchServe, SageMaker and BentoML, against one real server process."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from .classic_models import Trained, rows
from .test_containers import Container

CONFIG = """
[[models]]
name = "chat"
model = "embedded"

[[models]]
name = "trees"
path = "trees.txt"
version = 1
labels = ["stable"]

[[models]]
name = "trees"
path = "half.txt"
version = 2

[[models]]
name = "species"
path = "species.skops"
load = "on_demand"
labels = ["later"]
"""


@pytest.fixture(scope="module")
def server(trained: Trained) -> Iterator[Container]:
    path = trained.folder / "quire.toml"
    path.write_text(CONFIG)
    options = ("--config", str(path), "--admin-port", "0", "--model-store", str(trained.folder))
    container = Container(trained.folder, {}, *options)
    with container:
        yield container


def test_one_server_answers_all(server: Container, trained: Trained) -> None:
    client = server.client
    examples = rows(3, seed=16)
    whole, half = (trained.trees.predict(examples, num_iteration=count).tolist() for count in (10, 5))
    body = {"instances": examples.tolist()}
    assert client.post("/v1/models/trees:predict", json=body).json() == {"predictions": half}
    assert client.post("/v1/models/trees/labels/stable:predict", json=body).json() == {"predictions": whole}
    assert client.post("/predictions/trees/1.0", json=examples.tolist()).json() == whole
    headers = {"x-amzn-sagemaker-custom-attributes": "tfs-model-name=trees"}
    assert client.post("/invocations", json=body, headers=headers).json() == {"predictions": half}
    assert client.post("/trees", json={"input": examples.tolist()}).json() == half
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    assert client.post("/invocations", json=chat).json()["model"] == "chat"


def test_a_model_is_loaded_for_the_first_request(server: Container, trained: Trained) -> None:
    states = server.client.get("/v1/models/species").json()["model_version_status"]
    assert [one["state"] for one in states] == ["END"]
    example = rows(1, seed=17)
    path = "/v1/models/species/labels/later:predict"
    answer = server.client.post(path, json={"inputs": example.tolist()}).json()
    assert answer["outputs"]["predict"] == trained.species.predict(example).tolist()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_as_the_documentation_writes_it(server: Container, trained: Trained) -> None:
    url = str(server.client.base_url)

    def curl(*arguments: str) -> object:
        done = subprocess.run(["curl", "-s", *arguments], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    row = rows(1, seed=18)
    expected = trained.trees.predict(row, num_iteration=5).tolist()
    file = trained.folder / "row.json"
    file.write_text(json.dumps(row.tolist()))
    instances = json.dumps({"instances": row.tolist()})
    assert curl("-d", instances, "-X", "POST", f"{url}/v1/models/trees:predict") == {"predictions": expected}
    assert curl(f"{url}/predictions/trees", "-T", str(file)) == expected
    assert curl(f"{url}/predictions/trees", "-F", f"data=@{file};type=application/json") == expected


def test_torchserves_management_is_on_the_admin_port(server: Container, trained: Trained) -> None:
    found = re.search(r"admin routes are on (http://127\.0\.0\.1:\d+)", server.log.read_text())
    assert found is not None
    example = rows(1, seed=19)
    with httpx.Client(base_url=found[1], timeout=120) as admin:
        path = "/models?url=trees.txt&model_name=more&initial_workers=1&synchronous=true"
        assert admin.post(path).status_code == 200
        answer = server.client.post("/predictions/more", json=example.tolist())
        assert answer.json() == trained.trees.predict(example).tolist()
        assert {one["modelName"] for one in admin.get("/models").json()["models"]} == {
            "chat",
            "more",
            "species",
            "trees",
        }
        (chat,) = admin.get("/models/chat").json()
        assert (chat["loadedAtStartup"], [one["status"] for one in chat["workers"]]) == (True, ["READY"])
        assert admin.put("/models/chat?min_worker=2").status_code == 400
        assert admin.delete("/models/more/1.0").status_code == 200
    assert server.client.get("/models").status_code == 404
    assert server.client.post("/predictions/more", json=example.tolist()).status_code == 404


@pytest.mark.nightly
def test_bentomls_client(server: Container, trained: Trained) -> None:
    bentoml = pytest.importorskip("bentoml", reason="pip install bentoml, in an environment of its own")
    examples = rows(3, seed=20)
    with bentoml.SyncHTTPClient(str(server.client.base_url)) as client:
        assert client.is_ready()
        answer = client.trees(input=examples)
        assert isinstance(answer, np.ndarray)
        np.testing.assert_array_equal(answer, trained.trees.predict(examples, num_iteration=5))
        answer = client.species(input=examples.tolist())
        assert answer["predict"] == trained.species.predict(examples).tolist()
        with pytest.raises(bentoml.exceptions.InvalidArgument, match="size 1, not 4"):
            client.trees(input=[[1.0]])

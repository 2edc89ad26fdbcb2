"""Triton's own clients against a real server process, over HTTP and gRPC."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from quire.models.classic.predictor import DTYPES

from .oip_models import FEATURES, train_trees
from .quire_process import PATIENCE

ADMIN = "sk-admin-of-the-tests"
KEY = "sk-user-of-the-tests"
CONFIG = """
[[models]]
name = "trees"
path = "trees.txt"

[[models]]
name = "kinds"
python_class = "oip_predictors:Kinds"

[[models]]
name = "sum"
python_class = "oip_predictors:Sum"

[[models]]
name = "length"
python_class = "oip_predictors:Length"
"""


class Server:
    """`quire serve --config` with classic models, and without a language model."""

    def __init__(self, folder: Path) -> None:
        train_trees(folder)
        (folder / "quire.toml").write_text(CONFIG)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("QUIRE_")}
        paths = [str(Path(__file__).parent), environment.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        environment |= {"QUIRE_API_KEY": KEY, "QUIRE_ADMIN_KEY": ADMIN}
        self.log = folder / "server.log"
        command = [sys.executable, "-m", "quire", "serve", "--config", "quire.toml", "--port", "0"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        self.address = self._find(r"on http://(127\.0\.0\.1:\d+)")

    def _find(self, pattern: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if found := re.search(pattern, self.log.read_text()):
                return found[1]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def stop(self) -> None:
        """Ends it in an orderly way."""
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address, network_timeout=PATIENCE) as client:
        yield client


def key(secret: str = KEY) -> dict[str, str]:
    """Headers, new ones: the client puts more into the dictionary that it is given."""
    return {"Authorization": f"Bearer {secret}"}


def values_of(kind: str, rows: int) -> np.ndarray:
    numbers = np.arange(2 * rows).reshape(rows, 2)
    if kind == "BYTES":
        return np.array([[f"ü{number}".encode() for number in row] for row in numbers], object)
    return numbers.astype(DTYPES[kind])


def test_health_and_metadata(http: triton.InferenceServerClient) -> None:
    assert http.is_server_live()
    assert http.is_server_ready()
    assert http.is_model_ready("trees", headers=key())
    assert not http.is_model_ready("nothing", headers=key())
    assert http.get_server_metadata(headers=key())["name"] == "quire"
    metadata = http.get_model_metadata("trees", headers=key())
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP64", "shape": [-1, FEATURES]}]
    config = http.get_model_config("trees", headers=key())
    assert config["input"][0] == {"name": "input", "data_type": "TYPE_FP64", "dims": [FEATURES]}
    with pytest.raises(InferenceServerException, match="API key"):
        http.get_server_metadata()
    with pytest.raises(InferenceServerException, match="nothing"):
        http.get_model_metadata("nothing", headers=key())


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_every_datatype(http: triton.InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    inputs, outputs = [], []
    for kind in DTYPES:
        tensor = triton.InferInput(f"in_{kind}", [3, 2], kind)
        # The client has no FP16 in JSON.
        tensor.set_data_from_numpy(values_of(kind, 3), binary_data=binary_in or kind == "FP16")
        inputs.append(tensor)
        if binary_out or kind != "FP16":
            outputs.append(triton.InferRequestedOutput(f"out_{kind}", binary_data=binary_out))
    result = http.infer("kinds", inputs, outputs=outputs, request_id="mine", headers=key())
    assert result.get_response()["id"] == "mine"
    for output in outputs:
        kind = output.name().removeprefix("out_")
        found = result.as_numpy(output.name())
        if kind == "BYTES" and not binary_out:
            found = np.array([item.encode() if isinstance(item, str) else item for item in found.ravel()])
            found = found.astype(object).reshape(3, 2)
        assert found.tolist() == values_of(kind, 3).tolist(), kind


def test_all_outputs_by_default(http: triton.InferenceServerClient) -> None:
    """The client asks for binary ones, then."""
    tensor = triton.InferInput("input", [5, FEATURES], "FP64")
    rows = np.random.default_rng(0).normal(size=(5, FEATURES))
    tensor.set_data_from_numpy(rows)
    whole = http.infer("trees", [tensor], headers=key()).as_numpy("output")
    for row, expected in zip(rows, whole, strict=True):
        tensor = triton.InferInput("input", [1, FEATURES], "FP64")
        tensor.set_data_from_numpy(row[None], binary_data=False)
        assert http.infer("trees", [tensor], headers=key()).as_numpy("output").tolist() == [expected]


def test_asynchronous_requests(http: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.array([[1, 2]], np.float32))
    pending = [http.async_infer("sum", [tensor], headers=key()) for _ in range(8)]
    assert [each.get_result().as_numpy("sum").tolist() for each in pending] == [[3.0]] * 8


def test_classes(http: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("x", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.array([[1, 3, 2]], np.float32))
    wanted = [triton.InferRequestedOutput("scores", class_count=2)]
    result = http.infer("sum", [tensor], outputs=wanted, headers=key())
    assert result.as_numpy("scores").tolist() == [[b"3.000000:1", b"2.000000:2"]]


def test_errors(http: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("x", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.array([[500]], np.float32))
    with pytest.raises(InferenceServerException, match="500 is not allowed"):
        http.infer("sum", [tensor], headers=key())
    with pytest.raises(InferenceServerException, match="priority"):
        http.infer("sum", [tensor], priority=3, headers=key())
    with pytest.raises(InferenceServerException, match="sequence_id"):
        http.infer("sum", [tensor], sequence_id=3, headers=key())
    with pytest.raises(InferenceServerException, match="nothing"):
        http.infer("nothing", [tensor], headers=key())


def test_statistics(http: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"hello"], object))
    assert http.infer("length", [tensor], headers=key()).as_numpy("length").tolist() == [5]
    (found,) = http.get_inference_statistics("length", headers=key())["model_stats"]
    assert found["inference_stats"]["success"]["count"] == found["inference_count"] == 1
    everything = http.get_inference_statistics(headers=key())["model_stats"]
    assert {stats["name"] for stats in everything} == {"trees", "kinds", "sum", "length"}


def test_repository(http: triton.InferenceServerClient) -> None:
    def state() -> str:
        index = http.get_model_repository_index(headers=key())
        return next(entry["state"] for entry in index if entry["name"] == "length")

    assert state() == "READY"
    with pytest.raises(InferenceServerException, match="admin"):
        http.unload_model("length", headers=key())
    http.unload_model("length", headers=key(ADMIN))
    assert state() == "UNAVAILABLE"
    assert not http.is_model_ready("length", headers=key())
    http.load_model("length", headers=key(ADMIN))
    assert state() == "READY"
    assert http.is_model_ready("length", headers=key())
    with pytest.raises(InferenceServerException, match="parameters"):
        http.load_model("length", config="{}", headers=key(ADMIN))

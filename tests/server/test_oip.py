"""The Open Inference Protocol on the wire: tensors in JSON and in binary, and what is refused."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import pytest_asyncio

from quire import __version__
from quire.engine.batch_queue import BatchingConfig, QueuePolicy
from quire.engine.classic_workers import WorkerConfig
from quire.engine.data_plane import DataPlane
from quire.engine.model_registry import ClassicModelConfig
from quire.models.classic.predictor import DTYPES
from quire.server.keys import ApiKey
from quire.server.oip.protocol import ModelConfig
from quire.server.settings import ServerSettings

from .conftest import Served, events, serve_in_process, serve_on_port, until
from .oip_models import FEATURES, loaded, python_model, train_trees

# Workers belong to the event loop that started them, and are started once.
pytestmark = pytest.mark.asyncio(loop_scope="module")

HEADER = "Inference-Header-Content-Length"
ONE_AT_ONCE = BatchingConfig(max_batch_size=1, default_queue_policy=QueuePolicy(max_queue_size=1))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def models(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DataPlane]:
    trees = WorkerConfig(path=train_trees(tmp_path_factory.mktemp("trees")))
    async with loaded(
        ClassicModelConfig(name="trees", workers=trees),
        python_model("Kinds"),
        python_model("Sum"),
        python_model("Sum", "2"),
        python_model("Length"),
    ) as plane:
        yield plane


@pytest_asyncio.fixture(loop_scope="module")
async def served(models: DataPlane) -> AsyncIterator[Served]:
    async with serve_in_process(models=models) as served:
        yield served


def x(*rows: list[float], **more: object) -> dict[str, Any]:
    data = [value for row in rows for value in row]
    shape = [len(rows), len(rows[0])]
    return {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}]} | more


async def ask(served: Served, body: object, model: str = "sum", **more: Any) -> httpx.Response:
    return await served.client.post(f"/v2/models/{model}/infer", json=body, **more)


async def ask_binary(
    served: Served, head: dict[str, Any], *parts: bytes, model: str = "sum", length: int | None = None
) -> httpx.Response:
    text = json.dumps(head).encode()
    headers = {HEADER: str(len(text) if length is None else length)}
    return await served.client.post(
        f"/v2/models/{model}/infer", content=b"".join((text, *parts)), headers=headers
    )


def taken_apart(response: httpx.Response) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The JSON of a binary answer, and the bytes of its outputs."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[HEADER])
    head, tail = json.loads(response.content[:length]), response.content[length:]
    parts = {}
    for output in head["outputs"]:
        if "parameters" in output:
            size = output["parameters"]["binary_data_size"]
            parts[output["name"]], tail = tail[:size], tail[size:]
            assert "data" not in output
    assert tail == b""
    return head, parts


def refused(response: httpx.Response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert list(answer) == ["error"]
    for word in words:
        assert word in answer["error"], answer


async def test_json_in_and_out(served: Served) -> None:
    response = await ask(served, x([1, 2.5], [3, 4], id="mine"))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "model_name": "sum",
        "model_version": "2",
        "id": "mine",
        "outputs": [
            {"name": "sum", "datatype": "FP32", "shape": [2], "data": [3.5, 7.0]},
            {"name": "scores", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.5, 3.0, 4.0]},
        ],
    }


async def test_a_version_by_name(served: Served) -> None:
    answer = (await ask(served, x([1.0]), "sum/versions/1")).json()
    assert (answer["model_version"], "id" in answer) == ("1", False)
    refused(await ask(served, x([1.0]), "sum/versions/3"), 404, "3")


async def test_nested_data_and_chosen_outputs(served: Served) -> None:
    body = x([1.0, 2.0], [3.0, 4.0], outputs=[{"name": "sum"}])
    body["inputs"][0]["data"] = [[1, 2], [3, 4.0]]
    outputs = (await ask(served, body)).json()["outputs"]
    assert outputs == [{"name": "sum", "datatype": "FP32", "shape": [2], "data": [3.0, 7.0]}]


def values_of(kind: str) -> np.ndarray:
    """Two rows of the datatype, its limits among them."""
    dtype = DTYPES[kind]
    if kind == "BOOL":
        return np.array([[True, False], [False, True]])
    if kind == "BYTES":
        return np.array([[b"", "ü€".encode()], [b"a\nb", b"x" * 300]], object)
    if dtype.kind == "f":
        return np.array([[0.5, -2.0], [1024.0, float(np.finfo(dtype).max)]], dtype)
    return np.array([[np.iinfo(dtype).min, np.iinfo(dtype).max], [1, 2]], dtype)


def to_wire(array: np.ndarray) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    return b"".join(struct.pack("<I", len(item)) + item for item in array.ravel())


async def test_every_datatype_in_json(served: Served) -> None:
    inputs = []
    for kind in DTYPES:
        data = values_of(kind).ravel().tolist()
        data = [item.decode() for item in data] if kind == "BYTES" else data
        inputs.append({"name": f"in_{kind}", "shape": [2, 2], "datatype": kind, "data": data})
    answer = (await ask(served, {"inputs": inputs}, "kinds")).json()
    found = {output["name"]: output for output in answer["outputs"]}
    for tensor in inputs:
        output = found["out_" + tensor["datatype"]]
        assert output["data"] == tensor["data"]
        assert (output["datatype"], output["shape"]) == (tensor["datatype"], [2, 2])


async def test_every_datatype_in_binary(served: Served) -> None:
    parts = [to_wire(values_of(kind)) for kind in DTYPES]
    inputs = [
        {
            "name": f"in_{kind}",
            "shape": [2, 2],
            "datatype": kind,
            "parameters": {"binary_data_size": len(part)},
        }
        for kind, part in zip(DTYPES, parts, strict=True)
    ]
    head = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    _, found = taken_apart(await ask_binary(served, head, *parts, model="kinds"))
    assert found == {f"out_{kind}": part for kind, part in zip(DTYPES, parts, strict=True)}


async def test_json_and_binary_mixed(served: Served) -> None:
    """One input in JSON, one behind it; one output in JSON, one binary."""
    kinds = list(DTYPES)
    inputs, parts = [], []
    for number, kind in enumerate(kinds):
        array = values_of(kind)
        tensor: dict[str, Any] = {"name": f"in_{kind}", "shape": [2, 2], "datatype": kind}
        if number % 2 and kind != "BYTES":
            tensor["data"] = array.tolist()
        else:
            parts.append(to_wire(array))
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        inputs.append(tensor)
    outputs = [
        {"name": "out_FP64", "parameters": {"binary_data": True}},
        {"name": "out_INT8", "parameters": {"binary_data": False}},
        {"name": "out_BOOL"},
    ]
    head = {"inputs": inputs, "outputs": outputs}
    answer, found = taken_apart(await ask_binary(served, head, *parts, model="kinds"))
    assert found == {"out_FP64": values_of("FP64").tobytes()}
    assert answer["outputs"][1]["data"] == values_of("INT8").ravel().tolist()
    assert answer["outputs"][2]["data"] == [True, False, False, True]
    binary_but = {"inputs": inputs, "outputs": outputs, "parameters": {"binary_data_output": True}}
    _, found = taken_apart(await ask_binary(served, binary_but, *parts, model="kinds"))
    assert set(found) == {"out_FP64", "out_BOOL"}


async def test_a_body_without_json(served: Served) -> None:
    """Its length is given as 0: the body is the one input, of one row."""
    headers = {HEADER: "0"}
    row = np.arange(FEATURES, dtype=np.float64)
    response = await served.client.post("/v2/models/trees/infer", content=row.tobytes(), headers=headers)
    answer, parts = taken_apart(response)
    assert answer["outputs"][0]["shape"] == [1]
    inputs = [{"name": "input", "shape": [1, FEATURES], "datatype": "FP64", "data": row.tolist()}]
    expected = (await ask(served, {"inputs": inputs}, "trees")).json()["outputs"][0]["data"]
    assert np.frombuffer(parts["output"], "<f8").tolist() == expected
    response = await served.client.post(
        "/v2/models/sum/infer", content=np.ones(5, "<f4").tobytes(), headers=headers
    )
    assert np.frombuffer(taken_apart(response)[1]["sum"], "<f4").tolist() == [5.0]
    response = await served.client.post("/v2/models/length/infer", content=b"hello", headers=headers)
    _, parts = taken_apart(response)
    assert parts == {"length": struct.pack("<i", 5), "text": struct.pack("<I", 5) + b"hello"}
    for model, content in (
        ("trees", b"123"),
        ("trees", row.tobytes() + b"1"),
        ("kinds", b""),
        ("sum", b"123"),
    ):
        refused(await served.client.post(f"/v2/models/{model}/infer", content=content, headers=headers), 400)


async def test_classification(served: Served) -> None:
    body = x([0.5, 3.0, -1.0], [9.0, 1.0, 2.0])
    body["outputs"] = [{"name": "scores", "parameters": {"classification": 2}}]
    (output,) = (await ask(served, body)).json()["outputs"]
    assert output == {
        "name": "scores",
        "datatype": "BYTES",
        "shape": [2, 2],
        "data": ["3.000000:1", "0.500000:0", "9.000000:0", "2.000000:2"],
    }


async def test_numbers_that_json_has_not(served: Served) -> None:
    head = {
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]
    }
    part = np.array([np.nan, np.inf], "<f4").tobytes()
    answer = (await ask_binary(served, head, part)).json()
    assert answer["outputs"][1]["data"] == [None, None]
    head["parameters"] = {"binary_data_output": True}
    assert taken_apart(await ask_binary(served, head, part))[1]["scores"] == part


def changed(**tensor: object) -> dict[str, Any]:
    body = x([1.0, 2.0])
    body["inputs"][0] |= tensor
    return body


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (changed(shape=[1, 3]), "3"),
        (changed(shape=[10**9]), "1000000000"),
        (changed(shape=[10**18, 10**18]), "x"),
        (changed(shape=[-1, 2]), "negative"),
        (changed(shape=[1] * 40 + [2]), "dimensions"),
        (changed(shape=[2, 1, 1]), "shape"),
        (changed(shape=[0, 2], data=[]), "rows"),
        (changed(shape=[1.5]), "shape"),
        (changed(shape="1,2"), "shape"),
        (changed(datatype="FP64"), "FP32"),
        (changed(datatype="FP99"), "FP99"),
        (changed(datatype="x" * 5000), "xxx"),
        (changed(data=None), "data"),
        (changed(data=[1.0, None]), "null"),
        (changed(data=["1", "2"]), "str"),
        (changed(data=[True, False]), "bool"),
        (changed(data=[[1.0, True]]), "bool"),
        (changed(data=[1.0, 1e39]), "FP32"),
        (changed(data=[[1.0], [2.0]]), "nest"),
        (changed(data=[[1.0, 2.0, 3.0]]), "nest"),
        (changed(data=[[[1.0, 2.0]]]), "nest"),
        (changed(data=[1.0, [2.0]]), "nest"),
        (changed(data=5), "data"),
        (changed(data=[1.0] * 1000), "1000"),
        (changed(name="y"), "x"),
        (changed(other=1), "other"),
        (changed(parameters={"shared_memory_region": "a"}), "shared_memory_region"),
        (changed(parameters={"binary_data_size": 8}), "both"),
        ({"inputs": []}, "x"),
        ({"inputs": {}}, "inputs"),
        ({}, "inputs"),
        ([], "object"),
        (x([1.0]) | {"outputs": [{"name": f"o{i}"} for i in range(10_000)]}, "10000"),
        (x([1.0]) | {"outputs": [{"name": "nothing"}]}, "nothing"),
        (x([1.0]) | {"outputs": [{"name": "sum"}, {"name": "sum"}]}, "twice"),
        (x([1.0]) | {"outputs": [{"name": "sum", "parameters": {"classification": -1}}]}, "classification"),
        (x([1.0]) | {"outputs": [{"name": "sum", "parameters": {"binary_data": 1}}]}, "binary_data"),
        (x([1.0]) | {"outputs": [{"name": "sum", "parameters": {"colour": 1}}]}, "colour"),
        (x([1.0]) | {"parameters": {"binary_data_output": "yes"}}, "binary_data_output"),
        (x([1.0]) | {"parameters": {"sequence_id": 5}}, "sequence_id"),
        (x([1.0]) | {"parameters": {"priority": 1}}, "priority"),
        (x([1.0]) | {"parameters": {"timeout": 5}}, "timeout"),
        (x([1.0]) | {"parameters": {"colour": "red"}}, "colour"),
        (x([1.0]) | {"parameters": {"deep": {}}}, "parameters"),
        (x([1.0]) | {"id": 5}, "id"),
        (x(*[[1.0]] * 65), "64"),
    ],
)
async def test_what_is_refused(served: Served, body: object, word: str) -> None:
    refused(await ask(served, body), 400, word)


@pytest.mark.parametrize("kind", ["INT8", "UINT8", "INT64", "UINT64", "BOOL", "BYTES", "FP16"])
async def test_values_that_are_not_of_their_datatype(served: Served, kind: str) -> None:
    wrong: dict[str, list[object]] = {
        "INT8": [128, -129, 1.5, True, "1", None],
        "UINT8": [256, -1, 1.5, True, "1"],
        "INT64": [2**63, -(2**63) - 1, 1.0, 10**30],
        "UINT64": [2**64, -1, 1.0],
        "BOOL": [0, 1, "true"],
        "BYTES": [1, None, True],
        "FP16": [65520.0, "1", True],
    }
    for value in wrong[kind]:
        body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": kind, "data": [value]}]}
        refused(await ask(served, body, "kinds"), 400, "'x'", kind)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"inputs": ' + b"[" * 100_000,
        b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [NaN]}]}',
        b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1e999]}]}',
        b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [' + b"9" * 5000 + b"]}]}",
        b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1], "data": [2]}]}',
        b'{"inputs": [], "inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}',
        b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}], "id": "\\ud800"}',
        b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}], "id": "\xff"}',
        b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]} {}',
    ],
)
async def test_bodies_that_are_not_json(served: Served, content: bytes) -> None:
    response = await served.client.post("/v2/models/sum/infer", content=content)
    refused(response, 400)


async def test_binary_sizes_that_do_not_fit(served: Served) -> None:
    def head(size: object, shape: list[int], kind: str = "FP32", **more: object) -> dict[str, Any]:
        tensor = {"name": "x", "shape": shape, "datatype": kind, "parameters": {"binary_data_size": size}}
        return {"inputs": [tensor | more]}

    eight = b"12345678"
    for body in (
        head(8, [1, 3]),
        head(8, [10**9]),
        head(9, [1, 2]),
        head(4, [1, 1]),
        head(-8, [1, 2]),
        head("8", [1, 2]),
        head(8, [1, 2], data=[1.0, 2.0]),
        head(8, [1, 2], "BF16"),
        head(8, [1, 8], "BOOL"),
        head(8, [10**9], "BYTES"),
        head(8, [1, 1], "BYTES"),
        head(8, [1, 2], "BYTES"),
    ):
        refused(await ask_binary(served, body, eight), 400)
    text = json.dumps(head(8, [1, 2])).encode() + eight
    for length in ("-1", "1e3", "99999999999999999999", "x", str(len(text) + 1), str(len(text) - 9), ""):
        response = await served.client.post("/v2/models/sum/infer", content=text, headers={HEADER: length})
        refused(response, 400)


async def test_unknown_models_and_paths(served: Served) -> None:
    for model in (
        "nothing",
        "../sum",
        "%2e%2e",
        b"sum\x00".hex(),
        "sum/versions",
        "sum/versions/x/y",
    ):
        refused(await ask(served, x([1.0]), model), 404)
    refused(await served.client.get("/v2/models/nothing"), 404, "nothing")
    refused(await served.client.get("/v2/models/nothing/ready"), 404, "nothing")
    refused(await served.client.get("/v2/nothing"), 404)
    refused(await served.client.get("/v2/models/sum/infer"), 405)


async def test_without_classic_models() -> None:
    async with serve_in_process() as served:
        refused(await ask(served, x([1.0])), 404, "sum")
        refused(await served.client.get("/v2/models/sum"), 404, "sum")
        refused(await served.client.get("/v2/models/sum/stats"), 404, "sum")
        assert (await served.client.get("/v2/models/stats")).json() == {"model_stats": []}
        assert served.context.classic is None


async def test_a_failing_request(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    response = await ask(served, x([500.0]))
    refused(response, 500, "500 is not allowed")
    assert (await ask(served, x([1.0]))).status_code == 200


async def test_media_types(served: Served) -> None:
    content = json.dumps(x([1.0]))
    url = "/v2/models/sum/infer"
    for headers in (
        {"content-type": "application/json"},
        {"content-type": "application/json; charset=utf-8"},
        {"content-type": "application/octet-stream"},
        {},
    ):
        assert (await served.client.post(url, content=content, headers=headers)).status_code == 200
    for headers in (
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"origin": "http://elsewhere.example"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ):
        refused(await served.client.post(url, content=content, headers=headers), 415)


async def test_large_bodies(served: Served) -> None:
    """What is parsed in a thread gives the same; what is too large is refused."""
    rows = [[float(column) for column in range(400)]] * 60
    response = await ask(served, x(*rows))
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["outputs"][0]["data"] == [sum(rows[0])] * 60
    response = await served.client.post("/v2/models/sum/infer", content=b" " * (17 << 20))
    refused(response, 413)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * (1 << 20)

    refused(await served.client.post("/v2/models/sum/infer", content=pieces()), 413)
    assert served.context.num_body_bytes == 0


async def test_keys_limits_ids_and_the_log(models: DataPlane, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quire.access")
    keys = (ApiKey("alice", "sk-alice", requests_per_minute=2), ApiKey("admin", "sk-admin"))
    async with serve_in_process(settings=ServerSettings(api_keys=keys), models=models) as served:
        refused(await ask(served, x([1.0])), 401)
        alice = {"authorization": "Bearer sk-alice", "x-request-id": "mine"}
        response = await ask(served, x([1.0]), headers=alice)
        assert response.status_code == 200
        assert response.headers["x-request-id"] == "mine"
        assert response.headers["x-ratelimit-remaining-requests"] == "1"
        assert (await ask(served, x([1.0]), headers=alice)).status_code == 200
        response = await ask(served, x([1.0]), headers=alice)
        refused(response, 429)
        assert int(response.headers["retry-after"]) > 0
        refused(await ask(served, x([1.0]), headers={"x-request-id": "a" * 300}), 400)
        many = {f"x-{number}": "1" for number in range(200)}
        refused(await ask(served, x([1.0]), headers=many), 431)
        metrics = (await served.client.get("/metrics", headers={"x-api-key": "sk-alice"})).text
    assert served.context.num_in_flight == 0
    lines = [record.getMessage() for record in caplog.records if "infer" in record.getMessage()]
    assert [line.split()[2] for line in lines] == ["401", "200", "200", "429", "400", "431"]
    assert 'POST "/v2/models/sum/infer" 200' in lines[1]
    assert 'request_id="mine" key="alice"' in lines[1]
    assert 'handler="/v2/models/{model}/infer",method="POST",model_name="sum",status="200"} 2.0' in metrics


async def test_load_and_unload_need_the_admin_key(models: DataPlane) -> None:
    keys = (ApiKey("alice", "sk-alice"), ApiKey("admin", "sk-admin"))
    async with serve_in_process(settings=ServerSettings(api_keys=keys), models=models) as served:
        alice, admin = {"x-api-key": "sk-alice"}, {"x-api-key": "sk-admin"}
        for verb in ("load", "unload"):
            path = f"/v2/repository/models/length/{verb}"
            refused(await served.client.post(path), 401)
            refused(await served.client.post(path, headers=alice), 403)
        assert (await served.client.post("/v2/repository/index", headers=alice)).status_code == 200
        unload, load = (f"/v2/repository/models/length/{verb}" for verb in ("unload", "load"))
        assert (await served.client.post(unload, headers=admin)).json() == {}
        refused(await served.client.get("/v2/models/length", headers=alice), 503)
        assert (await served.client.get("/v2/models/length/ready", headers=alice)).status_code == 503
        index = (await served.client.post("/v2/repository/index", headers=alice)).json()
        assert {"name": "length", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"} in index
        only = await served.client.post("/v2/repository/index", headers=alice, json={"ready": True})
        assert "length" not in {entry["name"] for entry in only.json()}
        refused(await served.client.post(load, headers=admin, json={"parameters": {"config": "{}"}}), 400)
        refused(await served.client.post("/v2/repository/models/no/load", headers=admin), 404)
        assert (await served.client.post(load, headers=admin)).json() == {}
        ready = await served.client.get("/v2/models/length/ready", headers=alice)
        assert ready.json() == {"name": "length", "ready": True}


async def test_probes_need_no_key(models: DataPlane) -> None:
    async with serve_in_process(settings=ServerSettings(api_key="k"), models=models) as served:
        assert (await served.client.get("/v2/health/live")).json() == {"live": True}
        assert (await served.client.get("/v2/health/ready")).json() == {"ready": True}
        refused(await served.client.get("/v2"), 401)
        served.engine.is_ready = False
        assert (await served.client.get("/v2/health/ready")).status_code == 503
        served.engine.is_alive = False
        assert (await served.client.get("/v2/health/live")).status_code == 503


async def test_while_it_drains(served: Served) -> None:
    served.context.draining = True
    response = await ask(served, x([1.0]))
    refused(response, 503)
    assert response.headers["connection"] == "close"


async def test_metadata_and_config(served: Served) -> None:
    answer = (await served.client.get("/v2")).json()
    assert (answer["name"], answer["version"]) == ("quire", __version__)
    assert "binary_tensor_data" in answer["extensions"]
    answer = (await served.client.get("/v2/models/sum")).json()
    assert answer == {
        "name": "sum",
        "versions": ["1", "2"],
        "platform": "quire_python",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}],
        "outputs": [
            {"name": "sum", "datatype": "FP32", "shape": [-1]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, -1]},
        ],
    }
    assert (await served.client.get("/v2/models/sum/versions/1")).json()["versions"] == ["1"]
    assert (await served.client.get("/v2/models/trees")).json()["platform"] == "quire_lightgbm"
    config = (await served.client.get("/v2/models/sum/config")).json()
    assert config["max_batch_size"] == 64
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1]}]
    assert config["dynamic_batching"]["default_queue_policy"]["timeout_action"] == "REJECT"
    for model in ("sum", "length", "trees", "fake"):
        config = (await served.client.get(f"/v2/models/{model}/config")).json()
        assert msgspec.to_builtins(msgspec.convert(config, ModelConfig)) == config
    config = (await served.client.get("/v2/models/length/config")).json()
    assert (config["max_batch_size"], "dynamic_batching" in config) == (0, False)
    assert config["input"] == [{"name": "text", "data_type": "TYPE_STRING", "dims": [1]}]


async def test_statistics(served: Served) -> None:
    url = "/v2/models/sum/versions/1/stats"
    (before,) = (await served.client.get(url)).json()["model_stats"]
    assert (await ask(served, x([1.0], [2.0]), "sum/versions/1")).status_code == 200
    assert (await ask(served, x([500.0]), "sum/versions/1")).status_code == 500
    (after,) = (await served.client.get(url)).json()["model_stats"]
    assert (after["name"], after["version"]) == ("sum", "1")
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 2
    stats, old = after["inference_stats"], before["inference_stats"]
    for what, number in (("success", 1), ("fail", 1), ("queue", 1), ("compute_infer", 1)):
        assert stats[what]["count"] - old[what]["count"] == number
        assert stats[what]["ns"] > old[what]["ns"]
    assert after["last_inference"] > 1_600_000_000_000
    two = next(batch for batch in after["batch_stats"] if batch["batch_size"] == 2)
    assert two["compute_infer"]["count"] >= 1
    assert two["compute_infer"]["ns"] > 0
    assert len((await served.client.get("/v2/models/sum/stats")).json()["model_stats"]) == 2
    assert len((await served.client.get("/v2/models/stats")).json()["model_stats"]) == 5


async def test_a_full_queue() -> None:
    async with (
        loaded(python_model("Sum", batching=ONE_AT_ONCE)) as models,
        serve_on_port(models=models) as (served, _),
    ):
        slow = [asyncio.create_task(ask(served, x([-0.5, 1.0])))]
        await until(lambda: models.statistics("sum").num_executions == 1, "the first runs")
        slow.append(asyncio.create_task(ask(served, x([1.0]))))
        await until(lambda: models.registry.get("sum").batcher.num_waiting == 1, "the second waits")
        response = await ask(served, x([1.0]))
        refused(response, 429, "max_queue_size")
        assert response.headers["retry-after"] == "1"
        assert [(await task).status_code for task in slow] == [200, 200]
        assert served.context.models.statistics("sum").num_failed == 1


async def test_a_body_in_pieces(models: DataPlane) -> None:
    """Headers first, the body later, and a client that gives up in between."""
    body = json.dumps(x([1.0, 2.0])).encode()
    head = b"POST /v2/models/sum/infer HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n" % len(body)
    async with serve_on_port(models=models) as (served, _):
        host, port = served.client.base_url.host, served.client.base_url.port
        reader, writer = await asyncio.open_connection(host, port)
        for piece in (head + b"\r\n", body[:1], body[1:10], body[10:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)
        assert b" 200 " in await reader.readline()
        writer.close()
        await writer.wait_closed()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(head + b"\r\n" + body[:1])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        await writer.wait_closed()
        while served.context.num_in_flight:
            await asyncio.sleep(0.01)
        assert served.context.num_body_bytes == 0


async def test_a_slow_body(models: DataPlane) -> None:
    settings = ServerSettings(body_timeout=0.1)
    async with serve_on_port(settings=settings, models=models) as (served, _):
        for first in (b"", b"{"):
            reader, writer = await asyncio.open_connection(
                served.client.base_url.host, served.client.base_url.port
            )
            writer.write(
                b"POST /v2/models/sum/infer HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n" + first
            )
            assert b" 408 " in await reader.readline()
            writer.close()
            await writer.wait_closed()


async def test_generate(served: Served) -> None:
    url = "/v2/models/fake/generate"
    body = {"text_input": "hello", "parameters": {"max_tokens": 5, "temperature": 0}}
    response = await served.client.post(url, json=body | {"id": "mine"})
    assert response.json() == {
        "model_name": "fake",
        "model_version": "1",
        "text_output": "hellohello",
        "id": "mine",
        "finish_reason": "length",
    }
    alone = body | {"exclude_input_in_output": True}
    assert (await served.client.post(url, json=alone)).json()["text_output"] == "hello"
    params = served.engine.seen[-1][1]
    assert (params.max_tokens, params.temperature) == (5, 0)
    versioned = await served.client.post("/v2/models/fake/versions/1/generate", json=body)
    assert versioned.status_code == 200
    metadata = (await served.client.get("/v2/models/fake")).json()
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["text_input"]


async def test_generate_stream(served: Served) -> None:
    url = "/v2/models/fake/generate_stream"
    body = {"text_input": "hello", "max_tokens": 5, "parameters": {"stream": True}}
    response = await served.client.post(url, json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    found = events(response.text)
    assert "".join(event["text_output"] for event in found) == "hello"
    assert found[-1]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("model", "body", "status", "word"),
    [
        ("fake", {"text_input": ""}, 400, "text_input"),
        ("fake", {}, 400, "text_input"),
        ("fake", {"text_input": "a", "stream": True}, 400, "stream"),
        ("fake", {"text_input": "a", "colour": 1}, 400, "colour"),
        ("fake", {"text_input": "a", "parameters": {"colour": 1}}, 400, "colour"),
        ("fake", {"text_input": "a", "temperature": 1, "parameters": {"temperature": 1}}, 400, "temperature"),
        ("fake", {"text_input": "a", "temperature": 9}, 400, "temperature"),
        ("sum", {"text_input": "a"}, 400, "sum"),
        ("nothing", {"text_input": "a"}, 404, "nothing"),
        ("fake/versions/2", {"text_input": "a"}, 404, "fake"),
    ],
)
async def test_what_generate_refuses(
    served: Served, model: str, body: dict[str, object], status: int, word: str
) -> None:
    refused(await served.client.post(f"/v2/models/{model}/generate", json=body), status, word)


async def test_a_language_model_takes_no_tensors(served: Served) -> None:
    refused(await ask(served, x([1.0]), "fake"), 400, "generate")


async def raw(served: Served, *pieces: bytes) -> bytes:
    """What a connection answers to bytes, until it is closed."""
    reader, writer = await asyncio.open_connection(served.client.base_url.host, served.client.base_url.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def request_bytes(body: dict[str, Any], version: str = "1.1", *headers: str) -> bytes:
    content = json.dumps(body).encode()
    lines = [
        f"POST /v2/models/sum/infer HTTP/{version}",
        "host: a",
        f"content-length: {len(content)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def test_connections(models: DataPlane) -> None:
    """Requests one behind the other, an old protocol's, and one that asks for a 100 first."""
    close = "connection: close"
    async with serve_on_port(models=models) as (served, _):
        many = b"".join(request_bytes(x([float(number)])) for number in range(5))
        answer = await raw(served, many + request_bytes(x([9.0]), "1.1", close))
        assert answer.count(b"HTTP/1.1 200 OK\r\n") == 6
        places = [answer.index(b'"data":[%d.0]' % number) for number in (0, 1, 2, 3, 4, 9)]
        assert places == sorted(places)
        assert answer.count(b"connection: close\r\n") == 1
        answer = await raw(served, request_bytes(x([2.0]), "1.0"))
        assert b" 200 OK" in answer
        assert b"connection: close\r\n" in answer
        answer = await raw(served, request_bytes(x([3.0]), "1.1", close, "expect: 100-continue"))
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        refusal = await raw(served, request_bytes({}, "1.1", close))
        assert refusal.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"x-request-id: " in refusal


async def test_a_client_that_goes_while_its_request_runs(models: DataPlane) -> None:
    async with serve_on_port(models=models) as (served, _):
        executions = models.statistics("sum").num_executions
        reader, writer = await asyncio.open_connection(
            served.client.base_url.host, served.client.base_url.port
        )
        writer.write(request_bytes(x([-0.3])))
        await writer.drain()
        await until(lambda: models.statistics("sum").num_executions > executions, "it runs")
        writer.close()
        await writer.wait_closed()
        del reader
        await until(lambda: served.context.num_in_flight == 0, "the request is over")
        assert (await ask(served, x([1.0]))).status_code == 200

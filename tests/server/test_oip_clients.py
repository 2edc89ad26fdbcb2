"""Triton's own clients against a real server process, over HTTP and gRPC."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

from quire.models.classic.predictor import DTYPES
from quire.server.oip import grpc_schema

from .oip_models import FEATURES, train_trees
from .quire_process import PATIENCE

ADMIN = "sk-admin-of-the-tests"
KEY = "sk-user-of-the-tests"
CONFIG = """
[[models]]
name = "chat"
model = "embedded"

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
    """`quire serve --config` with classic models and the embedded language model."""

    def __init__(self, folder: Path) -> None:
        train_trees(folder)
        (folder / "quire.toml").write_text(CONFIG)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("QUIRE_")}
        paths = [str(Path(__file__).parent), environment.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        environment |= {"QUIRE_API_KEY": KEY, "QUIRE_ADMIN_KEY": ADMIN}
        self.log = folder / "server.log"
        command = [sys.executable, "-m", "quire", "serve", "--config", "quire.toml", "--port", "0"]
        command += ["--grpc-port", "0"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        self.address = self._find(r"on http://(127\.0\.0\.1:\d+)")
        self.grpc_address = self._find(r"gRPC is on (127\.0\.0\.1:\d+)")

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


@pytest.fixture(scope="module")
def grpc(server: Server) -> Iterator[triton_grpc.InferenceServerClient]:
    with triton_grpc.InferenceServerClient(server.grpc_address) as client:
        yield client


def lower(secret: str = KEY) -> dict[str, str]:
    """gRPC's metadata have names in lower case."""
    return {"authorization": f"Bearer {secret}"}


def test_the_schema_has_tritons_names_and_numbers() -> None:
    """Every field of ours is in Triton's messages, under its number and of its type."""
    theirs = {}
    for file in (service_pb2, model_config_pb2):
        for name, message in file.DESCRIPTOR.message_types_by_name.items():
            theirs[name] = message
            theirs |= dict(message.nested_types_by_name)
    theirs["VersionNumbers"] = theirs["Specific"]
    enumeration = 14
    for name in re.findall(r"^message (\w+)", grpc_schema.PROTO, re.MULTILINE):
        for field in grpc_schema.message_class(name).DESCRIPTOR.fields:
            other = theirs[name].fields_by_name[field.name]
            assert (field.number, field.is_repeated) == (other.number, other.is_repeated), (name, field.name)
            assert other.type in (field.type, enumeration), (name, field.name)
    data_types = model_config_pb2.DataType.DESCRIPTOR.values_by_number
    for number, name in enumerate(grpc_schema.DATA_TYPES):
        assert data_types[number].name == name


def test_grpc_health_and_metadata(grpc: triton_grpc.InferenceServerClient) -> None:
    assert grpc.is_server_live()
    assert grpc.is_server_ready()
    assert grpc.is_model_ready("trees", headers=lower())
    with pytest.raises(InferenceServerException, match="nothing"):
        grpc.is_model_ready("nothing", headers=lower())
    assert grpc.get_server_metadata(headers=lower()).name == "quire"
    metadata = grpc.get_model_metadata("trees", headers=lower())
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [
        ("input", "FP64", [-1, FEATURES])
    ]
    config = grpc.get_model_config("trees", headers=lower()).config
    assert config.input[0].data_type == model_config_pb2.DataType.Value("TYPE_FP64")
    assert (list(config.input[0].dims), config.max_batch_size) == ([FEATURES], 64)
    assert config.backend == "lightgbm"


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (lambda client: client.get_server_metadata(), "UNAUTHENTICATED"),
        (lambda client: client.get_server_metadata(headers=lower("wrong")), "UNAUTHENTICATED"),
        (lambda client: client.unload_model("length", headers=lower()), "PERMISSION_DENIED"),
        (lambda client: client.get_model_metadata("nothing", headers=lower()), "NOT_FOUND"),
        (lambda client: client.get_model_config("trees", "9", headers=lower()), "NOT_FOUND"),
        (lambda client: client.get_inference_statistics("nothing", headers=lower()), "NOT_FOUND"),
        (lambda client: client.load_model("sum", config="{}", headers=lower(ADMIN)), "INVALID_ARGUMENT"),
        (lambda client: client.infer("sum", numbers(500), headers=lower()), "INTERNAL"),
        (lambda client: client.infer("sum", numbers(1), priority=3, headers=lower()), "INVALID_ARGUMENT"),
        (lambda client: client.infer("sum", numbers(1), sequence_id=3, headers=lower()), "INVALID_ARGUMENT"),
        (lambda client: client.infer("trees", numbers(1), headers=lower()), "INVALID_ARGUMENT"),
        (lambda client: client.infer("sum", numbers(-5), client_timeout=0.2, headers=lower()), "DEADLINE"),
    ],
)
def test_grpc_errors(grpc: triton_grpc.InferenceServerClient, call: Callable, status: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        call(grpc)
    assert status in caught.value.status()


def numbers(*values: float) -> list[triton_grpc.InferInput]:
    """An input of the model `sum`."""
    tensor = triton_grpc.InferInput("x", [1, len(values)], "FP32")
    tensor.set_data_from_numpy(np.array([values], np.float32))
    return [tensor]


def test_every_datatype_by_grpc(grpc: triton_grpc.InferenceServerClient) -> None:
    inputs = []
    for kind in DTYPES:
        tensor = triton_grpc.InferInput(f"in_{kind}", [3, 2], kind)
        tensor.set_data_from_numpy(values_of(kind, 3))
        inputs.append(tensor)
    wanted = [triton_grpc.InferRequestedOutput(f"out_{kind}") for kind in DTYPES]
    result = grpc.infer("kinds", inputs, outputs=wanted, request_id="mine", headers=lower())
    assert result.get_response().id == "mine"
    for kind in DTYPES:
        assert result.as_numpy(f"out_{kind}").tolist() == values_of(kind, 3).tolist(), kind


def ask_typed(server: Server, request: service_pb2.ModelInferRequest) -> service_pb2.ModelInferResponse:
    """Sends a message as it is, as KServe's clients do, which write typed contents."""
    import grpc as transport
    from tritonclient.grpc import service_pb2_grpc

    with transport.insecure_channel(server.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return stub.ModelInfer(request, metadata=tuple(lower().items()), timeout=PATIENCE)


def typed(kind: str, place: str) -> service_pb2.ModelInferRequest.InferInputTensor:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name=f"in_{kind}", datatype=kind, shape=[1, 2])
    getattr(tensor.contents, place).extend(values_of(kind, 1).ravel().tolist())
    return tensor


PLACES = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP16": "fp32_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def test_typed_contents(server: Server) -> None:
    import grpc as transport

    request = service_pb2.ModelInferRequest(model_name="kinds")
    request.inputs.extend(typed(kind, place) for kind, place in PLACES.items())
    with pytest.raises(transport.RpcError, match="FP16"):  # which has no place of its own
        ask_typed(server, request)
    request = service_pb2.ModelInferRequest(model_name="sum")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[2, 1])
    tensor.contents.fp32_contents.extend([1.5, 2.5])
    answer = ask_typed(server, request)
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [1.5, 2.5]
    for change in (
        lambda: tensor.contents.fp64_contents.append(1.0),
        lambda: request.raw_input_contents.append(b"12345678"),
        lambda: request.raw_input_contents.append(b"12345678"),
    ):
        change()
        with pytest.raises(transport.RpcError) as caught:
            ask_typed(server, request)
        assert caught.value.code() is transport.StatusCode.INVALID_ARGUMENT
    request = service_pb2.ModelInferRequest(model_name="sum")
    request.inputs.add(name="x", datatype="FP32", shape=[10**9, 1])
    with pytest.raises(transport.RpcError, match="1000000000"):
        ask_typed(server, request)


def test_a_stream_of_requests(grpc: triton_grpc.InferenceServerClient) -> None:
    """They are answered in order; one that fails ends neither the stream nor the others."""
    found: queue.Queue = queue.Queue()
    grpc.start_stream(lambda result, error: found.put((result, error)), headers=lower())
    for value in (1.0, 500.0, 3.0):
        grpc.async_stream_infer("sum", numbers(value), request_id=str(value))
    answers = [found.get(timeout=PATIENCE) for _ in range(3)]
    grpc.stop_stream()
    assert [error is None for _, error in answers] == [True, False, True]
    assert "500 is not allowed" in str(answers[1][1])
    assert [answers[place][0].as_numpy("sum").tolist() for place in (0, 2)] == [[1.0], [3.0]]
    assert answers[2][0].get_response().id == "3.0"


def test_grpc_statistics_and_repository(grpc: triton_grpc.InferenceServerClient) -> None:
    def state() -> str:
        index = grpc.get_model_repository_index(headers=lower()).models
        return next(entry.state for entry in index if entry.name == "sum")

    grpc.infer("sum", numbers(1), headers=lower())
    (found,) = grpc.get_inference_statistics("sum", headers=lower()).model_stats
    assert found.inference_stats.success.count >= 1
    assert found.inference_stats.success.ns > 0
    assert state() == "READY"
    grpc.unload_model("sum", headers=lower(ADMIN))
    assert state() == "UNAVAILABLE"
    with pytest.raises(InferenceServerException, match="sum"):
        grpc.infer("sum", numbers(1), headers=lower())
    grpc.load_model("sum", headers=lower(ADMIN))
    assert state() == "READY"
    assert grpc.infer("sum", numbers(1, 2), headers=lower()).as_numpy("sum").tolist() == [3.0]


def ask_chat(client: triton_grpc.InferenceServerClient, **given: object) -> list:
    """All that a stream answers to one request: results, and at the end what says that it is over."""
    found: queue.Queue = queue.Queue()
    inputs = []
    for name, value in given.items():
        kind, dtype = ("BOOL", bool) if isinstance(value, bool) else ("BYTES", object)
        tensor = triton_grpc.InferInput(name, [1], kind)
        tensor.set_data_from_numpy(np.array([value if kind == "BOOL" else value.encode()], dtype))
        inputs.append(tensor)
    client.start_stream(lambda result, error: found.put((result, error)), headers=lower())
    client.async_stream_infer("chat", inputs, request_id="mine", enable_empty_final_response=True)
    answers = []
    while True:
        result, error = found.get(timeout=PATIENCE)
        if error is not None:
            answers.append(error)
            break
        if result.get_response().parameters["triton_final_response"].bool_param:
            break
        answers.append(result.as_numpy("text_output")[0].decode())
    client.stop_stream()
    return answers


def test_a_language_model_by_grpc(grpc: triton_grpc.InferenceServerClient) -> None:
    parameters = '{"max_tokens": 12, "temperature": 0, "ignore_eos": true}'
    (whole,) = ask_chat(grpc, text_input="Once upon", sampling_parameters=parameters)
    assert whole.startswith("Once upon")
    parts = ask_chat(grpc, text_input="Once upon", sampling_parameters=parameters, stream=True)
    assert len(parts) > 3
    assert "Once upon" + "".join(parts) == whole
    for wrong in (
        {"text_input": ""},
        {"text_input": "a", "sampling_parameters": "{"},
        {"text_input": "a", "sampling_parameters": '{"colour": 1}'},
        {"text_input": "a", "sampling_parameters": '{"temperature": 9}'},
        {"text_input": "a", "colour": "red"},
        {"text_input": "a", "stream": True, "exclude_input_in_output": False},
    ):
        (error,) = ask_chat(grpc, **wrong)
        assert isinstance(error, InferenceServerException)
    with pytest.raises(InferenceServerException, match="ModelStreamInfer"):
        grpc.infer("chat", numbers(1), headers=lower())
    assert [each.name for each in grpc.get_model_metadata("chat", headers=lower()).outputs] == ["text_output"]
    assert grpc.get_model_config("chat", headers=lower()).config.model_transaction_policy.decoupled

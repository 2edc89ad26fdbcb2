"""TensorRT plans, on a stand-in for the library: y = 2x + 1, on memory of this machine.

The stand-in has what the predictor calls, under the names of TensorRT's public API, and is as strict as
the library: shapes before addresses, addresses before a run, and shapes within the profile.
"""

from __future__ import annotations

import ctypes
import json
import sys
import types
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import EngineError, InvalidRequest, ModelError, UntrustedModel
from quire.models.classic import tensorrt_model
from quire.models.classic.digests import sha256_of
from quire.models.classic.predictor import LoadOptions, TensorSpec
from quire.models.classic.runtimes import load_predictor

NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "BF16": np.uint16}


class Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class TensorIOMode(Enum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(Enum):
    DEVICE = 0
    HOST = 1


class TensorFormat(Enum):
    LINEAR = 0
    CHW32 = 1


class Engine:
    """A plan is JSON here: dtype, shape, and the smallest and largest rows of each profile."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.num_io_tensors = 2
        self.num_optimization_profiles = len(plan["profiles"])

    def get_tensor_name(self, number: int) -> str:
        return "xy"[number]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "x" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return types.SimpleNamespace(name=self.plan["dtype"])

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation[self.plan.get("location", "DEVICE")]

    def get_tensor_format(self, name: str, profile: int) -> TensorFormat:
        return TensorFormat[self.plan.get("format", "LINEAR")]

    def get_tensor_shape(self, name: str) -> list[int]:
        return self.plan["shape"]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[list[int]]:
        low, high = self.plan["profiles"][profile]
        return [[rows, *self.plan["shape"][1:]] for rows in (low, low, high)]

    def create_execution_context(self) -> Context | None:
        return None if self.plan.get("too_large") else Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.profile = 0
        self.shape: list[int] | None = None
        self.addresses: dict[str, int] = {}
        self.profiles_taken: list[int] = []

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        self.profile, self.shape = number, None
        self.profiles_taken.append(number)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "x"
        low, high = self.engine.plan["profiles"][self.profile]
        self.shape = list(shape)
        return low <= shape[0] <= high

    def get_tensor_shape(self, name: str) -> list[int]:
        assert self.shape is not None
        return [-1, *self.shape[1:]] if self.engine.plan.get("by_value") else self.shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address != 0

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 17
        if self.engine.plan.get("fails"):
            return False
        assert self.shape is not None
        dtype = np.dtype(NUMPY[self.engine.plan["dtype"]])
        size = int(np.prod(self.shape)) * dtype.itemsize
        x = np.frombuffer(ctypes.string_at(self.addresses["x"], size), dtype)
        ctypes.memmove(self.addresses["y"], (2 * x + 1).astype(dtype).tobytes(), size)
        return True


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
        try:
            return Engine(json.loads(data))
        except ValueError:
            self.logger.log(Severity.WARNING, "this is no reason")
            self.logger.log(Severity.ERROR, "the version tag does not match")
            return None


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("tensorrt")
    for item in (ILogger, TensorIOMode, TensorLocation, TensorFormat, Runtime):
        setattr(module, item.__name__, item)
    module.__version__ = "10.99"
    module.init_libnvinfer_plugins = lambda logger, namespace: True
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(tensorrt_model, "DEVICE", "cpu")
    monkeypatch.setattr(tensorrt_model, "_make_stream", lambda: 17)


def plan(folder: Path, **changes: Any) -> tuple[Path, LoadOptions]:
    path = folder / "model.plan"
    path.write_text(json.dumps({"dtype": "FLOAT", "shape": [-1, 3], "profiles": [[1, 8]], **changes}))
    return path, LoadOptions(trust=True, sha256=sha256_of(path))


@pytest.mark.parametrize(("dtype", "kind"), [("FLOAT", "FP32"), ("HALF", "FP16"), ("INT32", "INT32")])
def test_a_plan_computes_what_it_says(tmp_path: Path, dtype: str, kind: str) -> None:
    predictor = load_predictor(*plan(tmp_path, dtype=dtype))
    assert predictor.describe().inputs == (TensorSpec("x", kind, (-1, 3)),)
    assert predictor.describe().outputs == (TensorSpec("y", kind, (-1, 3)),)
    assert predictor.describe().batched
    for rows in (3, 1, 8):
        x = np.arange(3 * rows).reshape(rows, 3).astype(NUMPY[dtype])
        x.flags.writeable = False
        y = predictor.predict({"x": x})["y"]
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(y, 2 * x + 1)
    predictor.unload()


def test_a_fixed_shape_is_not_batched(tmp_path: Path) -> None:
    predictor = load_predictor(*plan(tmp_path, shape=[4, 3], profiles=[[4, 4]]))
    assert not predictor.describe().batched


def test_shapes_choose_the_profile_and_those_of_none_are_refused(tmp_path: Path) -> None:
    predictor: Any = load_predictor(*plan(tmp_path, profiles=[[1, 2], [4, 8]]))
    for rows in (2, 8, 4, 1):
        assert predictor.predict({"x": np.zeros((rows, 3), np.float32)})["y"].tolist() == [[1.0] * 3] * rows
    assert predictor._context.profiles_taken == [1, 0]
    for rows in (3, 9):
        with pytest.raises(InvalidRequest, match=rf"\[{rows}, 3\].*x \[1, 3\] to \[2, 3\] or x \[4, 3\]"):
            predictor.predict({"x": np.zeros((rows, 3), np.float32)})


def test_plans_need_trust_and_their_digest(tmp_path: Path) -> None:
    path, _ = plan(tmp_path)
    for options in (LoadOptions(), LoadOptions(trust=True), LoadOptions(sha256=sha256_of(path))):
        with pytest.raises(UntrustedModel, match="a TensorRT plan"):
            load_predictor(path, options)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"dtype": "BF16"}, "x is of type BF16"),
        ({"location": "HOST"}, "x is a tensor of shapes"),
        ({"format": "CHW32"}, "x is not laid out linearly"),
        ({"too_large": True}, "TensorRT could not make room"),
    ],
)
def test_plans_that_cannot_be_served_are_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=rf"model\.plan: {text}"):
        load_predictor(*plan(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "text"), [({"by_value": True}, "depends on values"), ({"fails": True}, "could not run")]
)
def test_runs_that_fail_are_engine_errors(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(EngineError, match=text):
        load_predictor(*plan(tmp_path, **changes)).predict({"x": np.zeros((1, 3), np.float32)})


def test_another_version_is_refused_with_the_librarys_words(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(b"ftrt")
    options = LoadOptions(trust=True, sha256=sha256_of(path))
    with pytest.raises(ModelError, match=r"TensorRT 10\.99: the version tag does not match$"):
        load_predictor(path, options)


def test_without_a_gpu_or_without_the_library_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(tensorrt_model, "DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="needs an NVIDIA GPU"):
        load_predictor(*plan(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ModelError, match=r"pip install quire\[tensorrt\]"):
        load_predictor(*plan(tmp_path))

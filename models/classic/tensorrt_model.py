"""TensorRT plans, on an NVIDIA GPU.

They need the owner's trust and a digest: a plan is compiled code, and TensorRT does not check it. A plan
serves the GPU and the version of TensorRT that it was built with. Device memory is torch's.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ...errors import EngineError, InvalidRequest, ModelError
from .digests import check_trusted
from .predictor import Array, Arrays, Description, LoadOptions, Predictor, TensorSpec, as_outputs

DEVICE = "cuda"

DATATYPES = {
    "BOOL": "BOOL",
    "INT8": "INT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "HALF": "FP16",
    "FLOAT": "FP32",
}

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Profile:
    """An optimization profile: the shapes between which its kernels compute."""

    least: Shapes
    most: Shapes

    def admits(self, shapes: Shapes) -> bool:
        return all(
            all(
                low <= size <= high
                for low, size, high in zip(self.least[name], shape, self.most[name], strict=True)
            )
            for name, shape in shapes.items()
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} {list(self.least[name])} to {list(self.most[name])}" for name in self.least)


class TensorRTPredictor(Predictor):
    """The plan's inputs and outputs, under their names.

    Its rows are batched if the first dimension of every input and output is free. Of several optimization
    profiles a request gets the first that admits its shapes.
    """

    def __init__(self, trt: Any, engine: Any) -> None:
        import torch

        specs: dict[bool, list[TensorSpec]] = {True: [], False: []}
        for number in range(engine.num_io_tensors):
            name = engine.get_tensor_name(number)
            specs[engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT].append(_spec(trt, engine, name))
        inputs, outputs = tuple(specs[True]), tuple(specs[False])
        batched = all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
        self._description = Description(inputs, outputs, batched)
        self._profiles = [_profile(engine, inputs, n) for n in range(engine.num_optimization_profiles)]
        self._profile = 0
        self._dtypes = {
            spec.name: torch.from_numpy(as_outputs([spec], [[]])[spec.name]).dtype for spec in outputs
        }
        self._stream = _make_stream()
        self._engine: Any = engine
        self._context: Any = engine.create_execution_context()
        if self._context is None:
            raise ModelError("TensorRT could not make room for the plan's activations")

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Self:
        """Loads a trusted .plan or .engine; see `Predictor.load`."""
        check_trusted(path, options, "a TensorRT plan")
        trt: Any = importlib.import_module("tensorrt")
        import torch

        if DEVICE == "cuda" and not torch.cuda.is_available():
            raise ModelError(f"{path} is a TensorRT plan, which needs an NVIDIA GPU; torch finds none")
        logger = _logger(trt)
        trt.init_libnvinfer_plugins(logger, "")
        engine = trt.Runtime(logger).deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            why = "; ".join(logger.errors) or "no reason given"
            raise ModelError(f"{path} is no TensorRT plan for this GPU and TensorRT {trt.__version__}: {why}")
        try:
            return cls(trt, engine)
        except ModelError as error:
            raise ModelError(f"{path}: {error.message}") from error

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        """Runs the plan.

        Raises:
            InvalidRequest: No optimization profile admits the inputs' shapes.
        """
        import torch

        shapes: Shapes = {spec.name: inputs[spec.name].shape for spec in self._description.inputs}
        self._choose_profile(shapes)
        context = self._context
        tensors: dict[str, torch.Tensor] = {}
        for name, shape in shapes.items():
            # Arrays that came over a socket are read-only, and torch takes only what it could write.
            tensors[name] = torch.tensor(inputs[name]).to(DEVICE)
            if not context.set_input_shape(name, shape):
                raise EngineError(f"TensorRT refuses the shape {list(shape)} of {name}")
        for spec in self._description.outputs:
            shape = tuple(context.get_tensor_shape(spec.name))
            if -1 in shape:
                raise EngineError(f"the shape of {spec.name} depends on values, which cannot be served")
            tensors[spec.name] = torch.empty(shape, dtype=self._dtypes[spec.name], device=DEVICE)
        for name, tensor in tensors.items():
            if not context.set_tensor_address(name, tensor.data_ptr()):
                raise EngineError(f"TensorRT refuses the memory of {name}")
        if not context.execute_async_v3(self._stream):
            raise EngineError("TensorRT could not run the plan")
        specs = self._description.outputs
        return as_outputs(specs, [tensors[spec.name].cpu().numpy() for spec in specs])

    def describe(self) -> Description:
        """As in the plan."""
        return self._description

    def unload(self) -> None:
        """Frees the plan; the context must go before its engine."""
        self._context = None
        self._engine = None

    def _choose_profile(self, shapes: Shapes) -> None:
        if self._profiles[self._profile].admits(shapes):
            return
        for number, profile in enumerate(self._profiles):
            if profile.admits(shapes):
                if not self._context.set_optimization_profile_async(number, self._stream):
                    raise EngineError(f"TensorRT could not change to optimization profile {number}")
                self._profile = number
                return
        given = {name: list(shape) for name, shape in shapes.items()}
        allowed = " or ".join(map(str, self._profiles))
        raise InvalidRequest(f"the plan does not take the shapes {given}, only {allowed}", param="inputs")


def _make_stream() -> int:
    """A stream that torch's copies and TensorRT's kernels share from now on; returns its handle."""
    import torch

    stream = torch.cuda.Stream()
    torch.cuda.set_stream(stream)
    return stream.cuda_stream


def _spec(trt: Any, engine: Any, name: str) -> TensorSpec:
    kind = engine.get_tensor_dtype(name).name
    if kind not in DATATYPES:
        raise ModelError(f"{name} is of type {kind}, which cannot be served")
    if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        raise ModelError(f"{name} is a tensor of shapes, which cannot be served")
    if any(
        engine.get_tensor_format(name, profile) != trt.TensorFormat.LINEAR
        for profile in range(engine.num_optimization_profiles)
    ):
        raise ModelError(f"{name} is not laid out linearly, which cannot be served")
    return TensorSpec(name, DATATYPES[kind], tuple(engine.get_tensor_shape(name)))


def _profile(engine: Any, inputs: tuple[TensorSpec, ...], number: int) -> _Profile:
    least: Shapes = {}
    most: Shapes = {}
    for spec in inputs:
        low, _, high = engine.get_tensor_profile_shape(spec.name, number)
        least[spec.name], most[spec.name] = tuple(low), tuple(high)
    return _Profile(least, most)


def _logger(trt: Any) -> Any:
    """A logger that keeps what TensorRT says has gone wrong."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()

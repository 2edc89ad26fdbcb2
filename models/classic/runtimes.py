"""The runtimes of classic models: which file is whose, and loading one."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import ModelError
from .declared import as_declared
from .digests import check_digest
from .predictor import LoadOptions, Predictor, TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Where a runtime is.

    Attributes:
        module: Its module, in this package.
        predictor: Its class.
        suffixes: Of its files, if it loads files.
        folder_with: What its folders hold, if it loads folders.
        extra: The optional extra that brings what it needs, or None if quire has it.
        has_parameters: It makes something of `LoadOptions.parameters`.
    """

    module: str
    predictor: str
    suffixes: tuple[str, ...] = ()
    folder_with: str | None = None
    extra: str | None = None
    has_parameters: bool = False


RUNTIMES: dict[str, Runtime] = {
    "lightgbm": Runtime(
        module="lightgbm_model", predictor="LightGBMPredictor", suffixes=(".txt", ".lgb"), extra="lightgbm"
    ),
    "xgboost": Runtime(
        module="xgboost_model", predictor="XGBoostPredictor", suffixes=(".json", ".ubj"), extra="xgboost"
    ),
    "sklearn": Runtime(
        module="sklearn_model",
        predictor="SklearnPredictor",
        suffixes=(".skops", ".pkl", ".pickle", ".joblib"),
        extra="sklearn",
    ),
    "onnx": Runtime(module="onnx_model", predictor="OnnxPredictor", suffixes=(".onnx",), extra="onnx"),
    "openvino": Runtime(
        module="openvino_model", predictor="OpenVINOPredictor", suffixes=(".xml",), extra="openvino"
    ),
    "torch": Runtime(module="torch_model", predictor="TorchPredictor", suffixes=(".pt2", ".pt")),
    "tensorrt": Runtime(
        module="tensorrt_model",
        predictor="TensorRTPredictor",
        suffixes=(".plan", ".engine"),
        extra="tensorrt",
    ),
    "tensorflow": Runtime(
        module="tensorflow_model",
        predictor="TensorFlowPredictor",
        folder_with="saved_model.pb",
        extra="tensorflow",
        has_parameters=True,
    ),
    "transformers": Runtime(
        module="transformers_model",
        predictor="TransformersPredictor",
        folder_with="config.json",
        has_parameters=True,
    ),
    "python": Runtime(module="python_class", predictor="PythonPredictor", has_parameters=True),
}


def runtime_of(path: Path) -> str:
    """The runtime of a file, by its suffix, or of a folder, by what it holds.

    Raises:
        ModelError: No runtime reads such files.
    """
    for name, runtime in RUNTIMES.items():
        if path.suffix.lower() in runtime.suffixes and not path.is_dir():
            return name
        if runtime.folder_with is not None and (path / runtime.folder_with).is_file():
            return name
    known = [suffix for runtime in RUNTIMES.values() for suffix in runtime.suffixes]
    known += [f"folders with {one.folder_with}" for one in RUNTIMES.values() if one.folder_with is not None]
    raise ModelError(
        f"{path}: no runtime reads files ending in {path.suffix!r}; there are {', '.join(known)}"
    )


def load_predictor(path: Path, options: LoadOptions, runtime: str | None = None) -> Predictor:
    """Loads a model.

    Args:
        path: The file or folder; for runtime "python" whatever the class makes of it.
        options: What the owner says.
        runtime: A key of `RUNTIMES`; by default by the suffix, or by what the folder holds.

    Raises:
        UntrustedModel: Loading it would run code, and it is not trusted.
        ModelError: It cannot be loaded, or its runtime is not installed.
    """
    name = runtime if runtime is not None else runtime_of(path)
    if name not in RUNTIMES:
        raise ModelError(f"there is no runtime {name!r}, only {', '.join(RUNTIMES)}")
    entry = RUNTIMES[name]
    _check(path, options, name, entry)
    predictor: type[Predictor] = getattr(
        importlib.import_module(f".{entry.module}", __package__), entry.predictor
    )
    try:
        if options.sha256 is not None:
            check_digest(predictor.files(path), options)
        loaded = predictor.load(path, options)
    except ImportError as error:
        if entry.extra is None:
            raise
        raise ModelError(
            f"{path} needs {error.name}, which cannot be imported: pip install quire[{entry.extra}]"
        ) from error
    description = loaded.describe()
    try:
        if options.adapt_tensors:
            return as_declared(loaded, options, path)
        _check_agreement(path, options.inputs, description.inputs)
        _check_agreement(path, options.outputs, description.outputs)
    except ModelError:
        loaded.unload()
        raise
    return loaded


def _check_agreement(path: Path, given: Sequence[TensorSpec], described: Sequence[TensorSpec]) -> None:
    """Refuses tensors of the configuration that the model has not, or has otherwise."""
    known = {spec.name: spec for spec in described}
    for spec in given:
        found = known.get(spec.name)
        if found is None:
            raise ModelError(f"{path} has no tensor {spec.name!r} there, only {sorted(known)}")
        sizes = zip(spec.shape, found.shape, strict=False)
        agree = len(spec.shape) == len(found.shape) and all(a == b or -1 in (a, b) for a, b in sizes)
        if spec.datatype != found.datatype or not agree:
            raise ModelError(
                f"{spec.name} is configured as {spec.datatype} {list(spec.shape)}; in {path} it is "
                f"{found.datatype} {list(found.shape)}"
            )


def _check(path: Path, options: LoadOptions, name: str, entry: Runtime) -> None:
    """Refuses what the runtime would ignore, and a path at which its models do not lie."""
    if options.parameters and not entry.has_parameters:
        raise ModelError(f"the runtime {name} takes no parameters; there are {sorted(options.parameters)}")
    if options.python_class is not None and name != "python":
        raise ModelError(f"python_class is for the runtime python, not {name}: {options.python_class!r}")
    if entry.suffixes and not path.is_file():
        raise ModelError(f"there is no file {path}")
    if entry.folder_with is not None and not (path / entry.folder_with).is_file():
        raise ModelError(f"there is no {path / entry.folder_with}")

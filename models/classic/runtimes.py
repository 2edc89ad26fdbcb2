"""The runtimes of classic models: which file is whose, and loading one."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from ...errors import ModelError
from .predictor import LoadOptions, Predictor, check_digest


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where a runtime is.

    Attributes:
        module: Its module, in this package.
        predictor: Its class.
        suffixes: Of its files; none if what it loads is no file.
        extra: The optional extra that brings what it needs, or None if quire has it.
    """

    module: str
    predictor: str
    suffixes: tuple[str, ...]
    extra: str | None


RUNTIMES: dict[str, Runtime] = {
    "lightgbm": Runtime("lightgbm_model", "LightGBMPredictor", (".txt", ".lgb"), "lightgbm"),
    "xgboost": Runtime("xgboost_model", "XGBoostPredictor", (".json", ".ubj"), "xgboost"),
    "sklearn": Runtime(
        "sklearn_model", "SklearnPredictor", (".skops", ".pkl", ".pickle", ".joblib"), "sklearn"
    ),
    "onnx": Runtime("onnx_model", "OnnxPredictor", (".onnx",), "onnx"),
    "torch": Runtime("torch_model", "TorchPredictor", (".pt2", ".pt"), None),
    "transformers": Runtime("transformers_model", "TransformersPredictor", (), None),
    "python": Runtime("python_class", "PythonPredictor", (), None),
}


def runtime_of(path: Path) -> str:
    """The runtime of a file, by its suffix; of a folder with a config.json, Transformers.

    Raises:
        ModelError: No runtime reads such files.
    """
    if (path / "config.json").is_file():
        return "transformers"
    for name, runtime in RUNTIMES.items():
        if path.suffix.lower() in runtime.suffixes:
            return name
    known = ", ".join(suffix for runtime in RUNTIMES.values() for suffix in runtime.suffixes)
    raise ModelError(f"{path}: no runtime reads files ending in {path.suffix!r}; there are {known}")


def load_predictor(path: Path, options: LoadOptions, runtime: str | None = None) -> Predictor:
    """Loads a model.

    Args:
        path: The file; for runtime "transformers" a folder, for "python" whatever the class makes of it.
        options: What the owner says.
        runtime: A key of `RUNTIMES`; by default by the suffix.

    Raises:
        UntrustedModel: Loading it would run code, and it is not trusted.
        ModelError: It cannot be loaded, or its runtime is not installed.
    """
    name = runtime if runtime is not None else runtime_of(path)
    if name not in RUNTIMES:
        raise ModelError(f"there is no runtime {name!r}, only {', '.join(RUNTIMES)}")
    if RUNTIMES[name].suffixes:
        if not path.is_file():
            raise ModelError(f"there is no file {path}")
        check_digest(path, options)
    elif options.sha256 is not None:
        raise ModelError(f"sha256 is the digest of a file, which runtime {name} does not load")
    entry = RUNTIMES[name]
    module = importlib.import_module(f".{entry.module}", __package__)
    try:
        return getattr(module, entry.predictor).load(path, options)
    except ImportError as error:
        if entry.extra is None:
            raise
        raise ModelError(
            f"{path} needs {error.name}, which cannot be imported: pip install quire[{entry.extra}]"
        ) from error

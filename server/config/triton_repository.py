"""Triton's model repository: `MODEL/config.pbtxt` and `MODEL/1/model.onnx`, read as they are.

What the configuration of a model says and quire does not do is refused by its name. Formats that run code
when they are loaded need the parameters `trust` ("true") and `sha256`, which Triton would hand to its
backend.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...engine.batch_queue import BatchingConfig, QueuePolicy
from ...engine.classic_workers import WorkerConfig
from ...engine.managed_model import ModelSpec
from ...engine.model_registry import ClassicModelConfig
from ...errors import ModelError
from ...models.classic.predictor import LoadOptions, TensorSpec
from ...models.classic.warm_up import WarmupInput, WarmupRequest
from .pbtxt import Fields
from .plan import ConfigError
from .tables import make
from .text_format import parse_text
from .version_folders import folders_of_models, model_in, versions_of

BACKENDS = {
    "onnxruntime": "onnx",
    "pytorch": "torch",
    "tensorflow": "tensorflow",
    "tensorrt": "tensorrt",
    "openvino": "openvino",
}
"""Triton's backends and the runtimes that read the same files; `fil` says by a parameter what it reads."""

PLATFORMS = {
    "onnxruntime_onnx": "onnx",
    "pytorch_libtorch": "torch",
    "tensorflow_savedmodel": "tensorflow",
    "tensorrt_plan": "tensorrt",
}
FOREST_FORMATS = {"xgboost_json": "xgboost", "xgboost_ubj": "xgboost", "lightgbm": "lightgbm"}

DATATYPES = {
    **{f"TYPE_{name}": name for name in ("BOOL", "FP16", "FP32", "FP64")},
    **{f"TYPE_{sign}INT{bits}": f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "TYPE_STRING": "BYTES",
}


def read_repository(folder: Path) -> list[ModelSpec]:
    """All models of a repository, each with the versions that its policy says.

    Raises:
        ConfigError: The folder cannot be read, or something in it cannot be honoured.
    """
    found = [spec for each in folders_of_models(folder) for spec in read_model(each)]
    if not found:
        raise ConfigError(f"{folder} has no models, each in a folder of its own")
    return found


def read_model(folder: Path) -> list[ModelSpec]:
    """A model's folder."""
    path = folder / "config.pbtxt"
    text = ""
    if path.exists():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from error
    fields = Fields(parse_text(text, str(path)), str(path))
    name = fields.text("name", folder.name)
    if name != folder.name:
        raise fields.error(f"name is {name!r}, and the folder's is {folder.name!r}")
    parameters = {key: _string_value(value) for key, value in fields.pairs("parameters").items()}
    runtime = _runtime(fields, parameters)
    options = _options(fields, parameters, str(path))
    # The forests' files do not name their tensors, as Triton's clients do.
    options["adapt_tensors"] = runtime in FOREST_FORMATS.values()
    file = fields.text("default_model_filename") or None
    max_batch_size = fields.integer("max_batch_size") if text else None
    batching = _batching(fields, max_batch_size, str(path))
    tensors = {
        key: _tensors(fields, field, (max_batch_size or 0) > 0)
        for key, field in (("inputs", "input"), ("outputs", "output"))
    }
    workers = {
        "instances": _instances(fields),
        "warmup": _warmup(fields, folder),
        "options": make(str(path), LoadOptions, options | tensors),
        "runtime": runtime,
    }
    versions = _chosen(fields, versions_of(folder))
    for harmless in ("model_transaction_policy", "optimization", "response_cache"):
        if (message := fields.message(harmless)) is not None:
            message.done()  # of what they may ask, only that it be left out
    fields.done()
    if not versions:
        raise ConfigError(f"{folder} has no numbered folder with a version of the model")
    return [
        ModelSpec.of(
            make(
                str(path),
                ClassicModelConfig,
                {
                    "name": name,
                    "version": str(number),
                    "workers": make(
                        str(path), WorkerConfig, {**workers, "path": model_in(version, runtime, file)}
                    ),
                    "batching": batching,
                },
            )
        )
        for number, version in versions.items()
    ]


def _runtime(fields: Fields, parameters: dict[str, str]) -> str | None:
    """The runtime; None if only the file says it."""
    platform, backend = fields.text("platform"), fields.text("backend")
    if platform and platform not in PLATFORMS:
        raise fields.error(f"platform {platform!r} cannot be honoured; there are {', '.join(PLATFORMS)}")
    if not backend:
        return PLATFORMS.get(platform)
    if backend == "fil":
        kind = parameters.pop("model_type", "xgboost")
        if kind not in FOREST_FORMATS:
            known = ", ".join(FOREST_FORMATS)
            raise fields.error(f"model_type {kind!r} cannot be honoured; there are {known}")
        return FOREST_FORMATS[kind]
    if backend not in BACKENDS:
        raise fields.error(
            f"backend {backend!r} cannot be honoured; there are {', '.join((*BACKENDS, 'fil'))}"
        )
    return BACKENDS[backend]


def _options(fields: Fields, parameters: dict[str, str], where: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, value in parameters.items():
        if key == "trust" and value in ("true", "false"):
            options["trust"] = value == "true"
        elif key == "sha256":
            options["sha256"] = value
        elif key in ("intra_op_thread_count", "INTRA_OP_THREAD_COUNT") and value.isdecimal():
            options["num_threads"] = int(value)
        else:
            raise ConfigError(f"{where}: the parameter {key!r} ({value[:80]!r}) cannot be honoured")
    return options


def _string_value(value: Fields) -> str:
    text = value.text("string_value")
    value.done()
    return text


def _batching(fields: Fields, max_batch_size: int | None, where: str) -> BatchingConfig | None:
    dynamic = fields.message("dynamic_batching")
    if max_batch_size is None:
        return None  # as the model's own description says
    values: dict[str, Any] = {"max_batch_size": max_batch_size}
    if dynamic is not None:
        policy = dynamic.message("default_queue_policy")
        values |= {
            "preferred_batch_size": dynamic.integers("preferred_batch_size"),
            "max_queue_delay_microseconds": dynamic.integer("max_queue_delay_microseconds"),
            "preserve_ordering": dynamic.flag("preserve_ordering"),
            "priority_levels": dynamic.integer("priority_levels"),
            "default_priority_level": dynamic.integer("default_priority_level"),
        }
        if policy is not None:
            values["default_queue_policy"] = _policy(policy, where)
        dynamic.done()
    return make(where, BatchingConfig, values)


def _policy(fields: Fields, where: str) -> QueuePolicy:
    action = fields.word("timeout_action", ("REJECT", "DELAY"), "REJECT")
    values = {
        "timeout_action": action.lower(),
        "default_timeout_microseconds": fields.integer("default_timeout_microseconds"),
        "allow_timeout_override": fields.flag("allow_timeout_override"),
        "max_queue_size": fields.integer("max_queue_size"),
    }
    fields.done()
    return make(where, QueuePolicy, values)


def _tensors(fields: Fields, name: str, batched: bool) -> tuple[TensorSpec, ...]:
    found: list[TensorSpec] = []
    for tensor in fields.messages(name):
        kind = tensor.word("data_type", tuple(DATATYPES), "")
        if not kind:
            raise tensor.error("data_type is missing")
        dims = tensor.integers("dims")
        tensor.word("format", ("FORMAT_NONE",), "FORMAT_NONE")
        try:
            found.append(TensorSpec(tensor.text("name"), DATATYPES[kind], (-1, *dims) if batched else dims))
        except ModelError as error:
            raise tensor.error(error.message) from error
        tensor.done()
    return tuple(found)


def _instances(fields: Fields) -> int:
    """The sum of the groups, which all compute on CPUs here."""
    total = 0
    for group in fields.messages("instance_group"):
        group.text("name")  # a label
        group.word("kind", ("KIND_AUTO", "KIND_CPU"), "KIND_AUTO")
        total += group.integer("count", 1)
        group.done()
    return total or 1


def _warmup(fields: Fields, folder: Path) -> tuple[WarmupRequest, ...]:
    """Triton's warm-ups and, without any, the one that every model here has."""
    found: list[WarmupRequest] = []
    for sample in fields.messages("model_warmup"):
        name = sample.text("name", "warm-up")
        inputs = {key: _warmup_input(value, folder) for key, value in sample.pairs("inputs").items()}
        values = {
            "name": name,
            "inputs": inputs,
            "batch_size": sample.integer("batch_size", 1) or 1,
            "count": sample.integer("count", 1) or 1,
        }
        found.append(make(f"{folder.name}: model_warmup", WarmupRequest, values))
        sample.done()
    return tuple(found) or (WarmupRequest(),)


def _warmup_input(fields: Fields, folder: Path) -> WarmupInput:
    fields.word("data_type", tuple(DATATYPES), "")  # the model has the last word on it
    values: dict[str, Any] = {"shape": fields.integers("dims")}
    if fields.flag("random_data"):
        values["fill"] = "random"
    if file := fields.text("input_data_file"):
        if Path(file).name != file:
            raise fields.error(f"input_data_file {file!r} must be a file of the folder warmup")
        values["file"] = folder / "warmup" / file
    fields.flag("zero_data")
    fields.done()
    return make("model_warmup", WarmupInput, values)


def _chosen(fields: Fields, versions: dict[int, Path]) -> dict[int, Path]:
    """The versions that the policy says: by default the highest."""
    policy = fields.message("version_policy")
    if policy is None:
        return dict(list(versions.items())[-1:])
    if (all_of_them := policy.message("all")) is not None:
        all_of_them.done()
        chosen = versions
    elif (specific := policy.message("specific")) is not None:
        wanted = specific.integers("versions")
        specific.done()
        if absent := sorted(set(wanted) - versions.keys()):
            raise policy.error(f"specific: there are no versions {absent}")
        chosen = {number: versions[number] for number in sorted(set(wanted))}
    else:
        latest = policy.message("latest")
        number = 1 if latest is None else latest.integer("num_versions", 1) or 1
        if latest is not None:
            latest.done()
        chosen = dict(list(versions.items())[-number:])
    policy.done()
    return chosen

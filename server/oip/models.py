"""What the protocol tells of models: metadata, readiness, Triton's configuration, statistics and index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import __version__
from ...errors import InvalidRequest, NotFound
from ..context import ServerContext
from .names import VERSION, classic_models, is_language_model
from .protocol import (
    BatchSizeStatistics,
    Duration,
    IndexEntry,
    InferStatistics,
    ModelMetadata,
    ModelStatistics,
    ServerMetadata,
    Statistics,
    TensorMetadata,
)

if TYPE_CHECKING:
    from ...engine.batcher import BatchStatistics
    from ...engine.model_registry import ServedModel
    from ...models.classic.predictor import TensorSpec

NANOSECONDS = 1e9
STATES = {"ready": "READY", "loading": "LOADING"}
EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "generate",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "statistics",
]
TEXT_INPUT = TensorMetadata("text_input", "BYTES", [1])
TEXT_OUTPUT = TensorMetadata("text_output", "BYTES", [1])


def server_metadata() -> ServerMetadata:
    """The server's name, version and extensions of the protocol."""
    return ServerMetadata("quire", __version__, list(EXTENSIONS))


def is_live(context: ServerContext) -> bool:
    """Whether every language model steps, or restarts."""
    return all(model.engine.is_alive for model in context.language_models)


def is_ready(context: ServerContext) -> bool:
    """Whether the server takes requests, to every language model."""
    return not context.draining and all(model.engine.is_ready for model in context.language_models)


def model_is_ready(context: ServerContext, model: str, version: str | None) -> bool:
    """Whether a model can be asked; raises NotFound if there is none of the name. Loads nothing."""
    if not is_language_model(context, model, version) and context.classic is not None:
        model, version = context.classic.resolve(model, version)
    found = [each for each in context.manager.index(model) if version in (None, each.version)]
    if not found:
        what = f"model {model!r}" if version is None else f"version {version!r} of a model {model!r}"
        raise NotFound(f"there is no {what}", param="model")
    return not context.draining and any(each.state == "ready" for each in found)


async def model_metadata(context: ServerContext, model: str, version: str | None) -> ModelMetadata:
    """Inputs and outputs of a model; raises NotFound or Unavailable."""
    if is_language_model(context, model, version):
        return ModelMetadata(model, [VERSION], "quire", [TEXT_INPUT], [TEXT_OUTPUT])
    served = await classic_models(context, model).ensure(model, version)
    versions = [version]
    if version is None:
        versions = [each.version for each in context.manager.index(served.config.name)]
    description = served.pool.description
    return ModelMetadata(
        model,
        [each for each in versions if each is not None],
        f"quire_{runtime_of(served)}",
        [_tensor(spec) for spec in description.inputs],
        [_tensor(spec) for spec in description.outputs],
    )


def runtime_of(served: ServedModel) -> str:
    """The name of what a classic model runs on."""
    from ...models.classic import runtimes

    workers = served.config.workers
    return workers.runtime if workers.runtime is not None else runtimes.runtime_of(workers.path)


def _tensor(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(spec.name, spec.datatype, list(spec.shape))


async def model_config(context: ServerContext, model: str, version: str | None) -> dict[str, Any]:
    """A model's configuration, as far as it has one, in Triton's words."""
    if is_language_model(context, model, version):
        return {
            "name": model,
            "platform": "",
            "backend": "quire",
            "max_batch_size": 0,
            "input": [{"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]}],
            "output": [{"name": "text_output", "data_type": "TYPE_STRING", "dims": [1]}],
            "model_transaction_policy": {"decoupled": True},
        }
    served = await classic_models(context, model).ensure(model, version)
    batching = served.batcher.config
    description = served.pool.description
    config: dict[str, Any] = {
        "name": model,
        "platform": "",
        "backend": runtime_of(served),
        "version_policy": {"specific": {"versions": [int(served.config.version)]}},
        "max_batch_size": batching.max_batch_size,
        "input": [_config_tensor(spec, batched=description.batched) for spec in description.inputs],
        "output": [_config_tensor(spec, batched=description.batched) for spec in description.outputs],
        "instance_group": [
            {"name": f"{model}_0", "kind": "KIND_CPU", "count": served.config.workers.instances}
        ],
        "default_model_filename": served.config.workers.path.name,
    }
    if batching.max_batch_size:
        policy = batching.default_queue_policy
        config["dynamic_batching"] = {
            "preferred_batch_size": list(batching.preferred_batch_size),
            "max_queue_delay_microseconds": batching.max_queue_delay_microseconds,
            "preserve_ordering": batching.preserve_ordering,
            "priority_levels": batching.priority_levels,
            "default_priority_level": batching.default_priority_level,
            "default_queue_policy": {
                "timeout_action": policy.timeout_action.upper(),
                "default_timeout_microseconds": policy.default_timeout_microseconds,
                "allow_timeout_override": policy.allow_timeout_override,
                "max_queue_size": policy.max_queue_size,
            },
        }
    return config


def _config_tensor(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    dims = list(spec.shape[1:] if batched else spec.shape)
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": dims or [1]}


def statistics(context: ServerContext, model: str | None = None, version: str | None = None) -> Statistics:
    """What has been asked of a model's versions, or of all classic models."""
    if model is None:
        if context.classic is None:
            return Statistics([])
        entries = [entry for entry in context.classic.registry.index() if entry.model is not None]
    else:
        if is_language_model(context, model, version):
            raise InvalidRequest(
                f"{model} is a language model: its statistics are in /metrics", param="model"
            )
        models = classic_models(context, model)
        model, version = models.resolve(model, version)
        models.registry.get(model, version)
        entries = [
            entry
            for entry in models.registry.index()
            if entry.name == model and version in (None, entry.version) and entry.model is not None
        ]
    return Statistics(
        [
            _statistics(entry.name, entry.version, entry.model.batcher.statistics)
            for entry in entries
            if entry.model is not None
        ]
    )


def _statistics(name: str, version: str, found: BatchStatistics) -> ModelStatistics:
    count = found.num_succeeded

    def took(number: int, seconds: float) -> Duration:
        return Duration(number, round(seconds * NANOSECONDS))

    nothing = Duration()
    return ModelStatistics(
        name=name,
        version=version,
        last_inference=found.last_inference,
        inference_count=found.num_rows,
        execution_count=found.num_executions,
        inference_stats=InferStatistics(
            success=took(count, found.queue_seconds + found.compute_seconds),
            fail=took(found.num_failed, found.failed_seconds),
            queue=took(count, found.queue_seconds),
            compute_input=Duration(count),  # included in compute_infer: rows are put together within it
            compute_infer=took(count, found.compute_seconds),
            compute_output=Duration(count),
            cache_hit=nothing,
            cache_miss=nothing,
        ),
        batch_stats=[
            BatchSizeStatistics(
                rows, Duration(number), took(number, found.batch_seconds.get(rows, 0.0)), Duration(number)
            )
            for rows, number in sorted(found.batch_rows.items())
        ],
    )


def index(context: ServerContext, *, only_ready: bool = False) -> list[IndexEntry]:
    """All models with their states."""
    found = [
        IndexEntry(each.name, each.version, STATES.get(each.state, "UNAVAILABLE"), each.reason)
        for each in context.manager.index()
    ]
    return [entry for entry in found if entry.state == "READY" or not only_ready]

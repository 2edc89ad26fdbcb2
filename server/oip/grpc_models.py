"""The messages of the other calls: metadata, configuration, statistics, the repository."""

from __future__ import annotations

from typing import Any

from ...errors import InvalidRequest
from ..context import ServerContext
from . import models, repository
from .grpc_schema import DATA_TYPES, INSTANCE_KINDS, TIMEOUT_ACTIONS, message_class
from .protocol import Duration, InferStatistics, RepositoryBody


def _answer(name: str, /, **fields: Any) -> Any:
    return message_class(name)(**fields)


async def server_live(context: ServerContext, message: Any) -> Any:
    """Whether every engine steps, or restarts."""
    return _answer("ServerLiveResponse", live=models.is_live(context))


async def server_ready(context: ServerContext, message: Any) -> Any:
    """Whether requests are taken."""
    return _answer("ServerReadyResponse", ready=models.is_ready(context))


async def model_ready(context: ServerContext, message: Any) -> Any:
    """Whether a model can be asked."""
    return _answer("ModelReadyResponse", ready=models.model_is_ready(context, *_named(message)))


async def server_metadata(context: ServerContext, message: Any) -> Any:
    """The server's name, version and extensions."""
    found = models.server_metadata()
    return _answer(
        "ServerMetadataResponse", name=found.name, version=found.version, extensions=found.extensions
    )


async def model_metadata(context: ServerContext, message: Any) -> Any:
    """A model's inputs and outputs."""
    found = await models.model_metadata(context, *_named(message))
    return _answer(
        "ModelMetadataResponse",
        name=found.name,
        versions=found.versions,
        platform=found.platform,
        inputs=[_tensor(each.name, each.datatype, each.shape) for each in found.inputs],
        outputs=[_tensor(each.name, each.datatype, each.shape) for each in found.outputs],
    )


def _tensor(name: str, datatype: str, shape: list[int]) -> Any:
    return _answer("TensorMetadata", name=name, datatype=datatype, shape=shape)


async def model_config(context: ServerContext, message: Any) -> Any:
    """A model's configuration: that of HTTP, with numbers for the names of its enumerations."""
    config = await models.model_config(context, *_named(message))
    for key in ("input", "output"):
        config[key] = [
            {**tensor, "data_type": DATA_TYPES.index(tensor["data_type"])} for tensor in config[key]
        ]
    if "instance_group" in config:
        config["instance_group"] = [
            {**group, "kind": INSTANCE_KINDS.index(group["kind"])} for group in config["instance_group"]
        ]
    if "dynamic_batching" in config:
        policy = config["dynamic_batching"]["default_queue_policy"]
        policy["timeout_action"] = TIMEOUT_ACTIONS.index(policy["timeout_action"])
    return _answer("ModelConfigResponse", config=config)


async def model_statistics(context: ServerContext, message: Any) -> Any:
    """What has been asked of a model, or of all."""
    found = models.statistics(context, message.name or None, message.version or None)
    return _answer(
        "ModelStatisticsResponse",
        model_stats=[
            {
                "name": each.name,
                "version": each.version,
                "last_inference": each.last_inference,
                "inference_count": each.inference_count,
                "execution_count": each.execution_count,
                "inference_stats": {
                    name: _duration(getattr(each.inference_stats, name))
                    for name in InferStatistics.__struct_fields__
                },
                "batch_stats": [
                    {
                        "batch_size": batch.batch_size,
                        "compute_input": _duration(batch.compute_input),
                        "compute_infer": _duration(batch.compute_infer),
                        "compute_output": _duration(batch.compute_output),
                    }
                    for batch in each.batch_stats
                ],
            }
            for each in found.model_stats
        ],
    )


def _duration(found: Duration) -> dict[str, int]:
    return {"count": found.count, "ns": found.ns}


async def repository_index(context: ServerContext, message: Any) -> Any:
    """All models."""
    _check_repository(message)
    found = models.index(context, only_ready=message.ready)
    return _answer(
        "RepositoryIndexResponse",
        models=[
            {"name": each.name, "version": each.version, "state": each.state, "reason": each.reason}
            for each in found
        ],
    )


async def repository_load(context: ServerContext, message: Any) -> Any:
    """Loads a model."""
    _check_repository(message)
    await repository.load(context, message.model_name, _repository_body(message))
    return _answer("RepositoryModelLoadResponse")


async def repository_unload(context: ServerContext, message: Any) -> Any:
    """Unloads a model."""
    _check_repository(message)
    await repository.unload(context, message.model_name, _repository_body(message))
    return _answer("RepositoryModelUnloadResponse")


def _check_repository(message: Any) -> None:
    if message.repository_name:
        raise InvalidRequest(
            f"there is no repository {message.repository_name[:120]!r}; leave its name out",
            param="repository_name",
        )


def _repository_body(message: Any) -> RepositoryBody:
    return RepositoryBody(
        {
            name: None if (choice := value.WhichOneof("parameter_choice")) is None else getattr(value, choice)
            for name, value in message.parameters.items()
        }
    )


def _named(message: Any) -> tuple[str, str | None]:
    return message.name, message.version or None

"""ModelInfer: from the protocol's messages to named arrays, to the data plane, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from . import tensors
from .grpc_schema import message_class
from .infer import Ask, read_outputs, read_parameters
from .names import classic_models, is_language_model
from .protocol import InputTensor, WantedOutput

if TYPE_CHECKING:
    from ...models.classic.predictor import Array

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where the values of a datatype stand that are not raw; FP16 has no place."""

ModelInferResponse = message_class("ModelInferResponse")


async def infer(context: ServerContext, record: RequestRecord, message: Any) -> Any:
    """Answers one request; raises as `DataPlane.infer` does."""
    model, version = message.model_name, message.model_version or None
    if is_language_model(context, model, version):
        raise InvalidRequest(f"{model} is a language model: ask it by ModelStreamInfer", param="model_name")
    models = classic_models(context, model)
    served = await models.ensure(model, version)
    record.model = model
    num_bytes = message.ByteSize()
    ask = await context.offload(num_bytes, lambda: read_request(message))
    outputs = await models.infer(model, version, ask.arrays, ask.names, ask.parameters)
    answered_by = record.model_version or served.config.version
    batched = served.pool.description.batched
    size = sum(array.nbytes for array in outputs.values())
    return await context.offload(
        size, lambda: write_answer(model, answered_by, message.id, ask, outputs, batched=batched)
    )


def read_request(message: Any) -> Ask:
    """The arrays and wishes of a request."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequest(
            f"raw_input_contents has {len(raw)} tensors for {len(message.inputs)} inputs", param="inputs"
        )
    arrays: dict[str, Array] = {}
    for index, given in enumerate(message.inputs):
        if given.name in arrays:
            raise InvalidRequest(f"input {given.name[:120]!r} is there twice", param="inputs")
        if given.parameters:
            names = sorted(given.parameters)[:8]
            raise InvalidRequest(
                f"input {given.name[:120]!r} takes no parameters, got {names}", param="inputs"
            )
        tensor = InputTensor(given.name, list(given.shape), given.datatype)
        if not raw:
            arrays[given.name] = _typed(tensor, given.contents)
        elif given.HasField("contents"):
            raise InvalidRequest(
                f"input {given.name[:120]!r} has contents, and there are raw_input_contents", param="inputs"
            )
        else:
            arrays[given.name] = tensors.from_binary(tensor, memoryview(raw[index]))
    ask = Ask(arrays)
    read_parameters(ask, parameters_of(message.parameters))
    read_outputs(ask, [WantedOutput(each.name, parameters_of(each.parameters)) for each in message.outputs])
    if ask.binary or any(binary is not None for binary, _ in ask.choices.values()):
        raise InvalidRequest(
            "binary_data is a parameter of requests over HTTP; here outputs are always binary",
            param="parameters",
        )
    return ask


def _typed(tensor: InputTensor, contents: Any) -> Array:
    place = CONTENTS.get(tensor.datatype)
    others = [descriptor.name for descriptor, _ in contents.ListFields() if descriptor.name != place]
    if others:
        where = "raw_input_contents" if place is None else place
        raise InvalidRequest(
            f"input {tensor.name[:120]!r} is {tensor.datatype[:40]}, whose values stand in {where}, not in "
            f"{', '.join(others)}",
            param="inputs",
        )
    return tensors.from_values(tensor, [] if place is None else list(getattr(contents, place)))


def parameters_of(given: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """The values of InferParameter messages."""
    found: dict[str, str | int | float | bool] = {}
    for name, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidRequest(f"the parameter {name[:120]!r} has no value", param=name[:120])
        found[name] = getattr(value, choice)
    return found


def write_answer(
    model: str, version: str, id: str, ask: Ask, outputs: Mapping[str, Array], *, batched: bool
) -> Any:
    """The answer, with its outputs raw."""
    answer = ModelInferResponse(model_name=model, model_version=version, id=id)
    for name, array in outputs.items():
        _, num_classes = ask.choices.get(name, (None, 0))
        if num_classes:
            array = tensors.classes(name, array, num_classes, batched=batched)
        answer.outputs.add(name=name, datatype=tensors.datatype(array.dtype), shape=array.shape)
        answer.raw_output_contents.append(tensors.to_binary(array))
    return answer

"""`/v2/models/{model}/infer`: from bytes to named arrays, to the data plane, and back."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from ...errors import InvalidRequest, Unavailable
from .. import json_body, strict_json
from ..context import ServerContext
from ..errors import UnsupportedMediaType
from ..hot import JSON, HotAnswer, HotRequest, HotRoute
from ..settings import ServerSettings
from .failures import write_failure
from .names import classic_models, is_language_model, model_of
from .protocol import LARGEST_HEADER, InferAnswer, InferBody, OutputTensor, Parameters, WantedOutput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...models.classic.predictor import Array, Description

PREFIX, SUFFIX = "/v2/models/", "/infer"
HEADER_LENGTH = b"inference-header-content-length"
BINARY = [(b"content-type", b"application/octet-stream")]
MAX_OUTPUTS = 1024
MAX_CLASSES = 1 << 20
SHORT_BODY = 1 << 19  # with no more bytes there cannot be too many values
FEW_BRACKETS = 32

# Triton's own clients send these, at values that ask for nothing.
NEUTRAL: dict[str, object] = {
    "sequence_id": 0,
    "sequence_start": False,
    "sequence_end": False,
    "triton_enable_empty_final_response": False,
}

_decode = msgspec.json.Decoder(InferBody).decode
_encode = msgspec.json.Encoder().encode


def infer_route() -> HotRoute:
    """The hot route."""
    return HotRoute(PREFIX, SUFFIX, "/v2/models/{model}/infer", infer, write_failure, admit)


@functools.cache
def _tensors() -> ModuleType:
    """`.tensors`, which brings numpy: loaded when there is a classic model to ask."""
    from . import tensors

    return tensors


def admit(request: HotRequest) -> None:
    """Refuses a request whose model is not there or has a full queue, before it is read."""
    model, version = model_of(request.path, PREFIX, SUFFIX)
    context = request.context
    if is_language_model(context, model, version):
        raise InvalidRequest(
            f"{model} is a language model: ask it at /v2/models/{model}/generate", param="model"
        )
    with contextlib.suppress(Unavailable):  # it may be loaded for the request
        classic_models(context, model).refuse_if_full(model, version)
    check_media_type(request.headers)


def check_media_type(headers: Mapping[bytes, bytes]) -> None:
    """Raises `UnsupportedMediaType` for what is not the protocol's, or what a browser sends unasked.

    Triton's Python client names no type at all.
    """
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type not in (b"application/json", b"application/octet-stream") and (
        media_type or b"origin" in headers
    ):
        raise UnsupportedMediaType(
            "the body must be sent with Content-Type: application/json or application/octet-stream"
        )
    encoding = headers.get(b"content-encoding", b"identity").lower()
    if encoding != b"identity":
        raise UnsupportedMediaType(
            f"Content-Encoding {encoding[:40].decode('latin-1')!r} is not supported; send it as it is"
        )


@dataclass(slots=True)
class Ask:
    """A request, understood.

    Attributes:
        arrays: The inputs.
        names: The outputs wanted; None for all.
        parameters: For the data plane.
        id: The client's, which the answer repeats.
        binary: Whether outputs are binary unless they say otherwise.
        choices: What is said of single outputs: binary or not, and the number of classes.
    """

    arrays: dict[str, Array]
    names: list[str] | None = None
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    id: str | UnsetType = UNSET
    binary: bool = False
    choices: dict[str, tuple[bool | None, int]] = field(default_factory=dict[str, tuple[bool | None, int]])


async def infer(request: HotRequest) -> HotAnswer:
    """Answers one request; raises as `DataPlane.infer` does."""
    model, version = model_of(request.path, PREFIX, SUFFIX)
    context = request.context
    models = classic_models(context, model)
    served = await models.ensure(model, version)
    description = served.pool.description
    request.record.model = model
    body, header = request.body, request.headers.get(HEADER_LENGTH)
    if len(body) <= context.settings.inline_bytes:
        ask = read_request(body, header, description, context.settings)
    else:
        ask = await context.offload(
            len(body), lambda: read_request(body, header, description, context.settings)
        )
    outputs = await models.infer(model, version, ask.arrays, ask.names, ask.parameters)
    version = request.record.model_version or served.config.version
    return await _answer(context, model, version, ask, outputs, description)


def read_request(
    body: bytes, header: bytes | None, description: Description, settings: ServerSettings
) -> Ask:
    """What a body says.

    Args:
        body: All of it.
        header: `Inference-Header-Content-Length`: the bytes of JSON, behind which the binary tensors stand; 0
            for a body that is the one input itself; None for JSON alone.
        description: Of the model, which tells the shape of a body without JSON.
        settings: Limits of the JSON.
    """
    if header is None:
        return _understood(parse(body, settings), memoryview(b""))
    if not header.isdigit() or int(header[:20]) > min(len(body), LARGEST_HEADER):
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {header[:40].decode('latin-1')!r}; it must be a number of "
            f"bytes, of which the body has {len(body)}"
        )
    length = int(header)
    if not length:
        return _raw(body, description)
    return _understood(parse(body[:length], settings), memoryview(body)[length:])


def parse(body: bytes, settings: ServerSettings) -> InferBody:
    """The JSON of a request, or InvalidRequest; as strict as `strict_json`, and faster on what is right."""
    try:
        message = _decode(body)
    except (msgspec.ValidationError, RecursionError) as error:
        _check_strictly(body, settings)
        raise json_body.invalid(str(error)) from None
    except msgspec.DecodeError as error:
        _check_strictly(body, settings)
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    # A doubled key is a colon that belongs to nothing.
    if (
        b"\\" in body
        or body.count(b":") != _num_keys(message)
        or len(body) > SHORT_BODY
        or body.count(b"[") + body.count(b"{") > FEW_BRACKETS
        or not body.isascii()
    ):
        _check_strictly(body, settings)
    return message


def _check_strictly(body: bytes, settings: ServerSettings) -> None:
    strict_json.parse(body, max_depth=settings.max_json_depth, max_values=settings.max_json_values)


def _num_keys(message: InferBody) -> int:
    """The keys in the JSON of a message."""
    number = 1 + (message.id is not UNSET)
    number += _num_parameters(message.parameters)
    for tensor in message.inputs:
        number += 3 + bool(tensor.data) + _num_parameters(tensor.parameters)
    if message.outputs is not UNSET:
        number += 1 + sum(1 + _num_parameters(output.parameters) for output in message.outputs)
    return number


def _num_parameters(parameters: Parameters | UnsetType) -> int:
    return 0 if parameters is UNSET else 1 + len(parameters)


def _raw(body: bytes, description: Description) -> Ask:
    """A body without JSON, whose outputs are binary, too."""
    if len(description.inputs) != 1:
        raise InvalidRequest(
            f"a body without JSON is for models of one input; this has {len(description.inputs)}",
            param="inputs",
        )
    tensors, (spec,) = _tensors(), description.inputs
    shape = tensors.raw_shape(spec.shape, spec.datatype, len(body), batched=description.batched)
    if spec.datatype == "BYTES":
        body = len(body).to_bytes(4, "little") + body
    tensor = tensors.InputTensor(spec.name, shape, spec.datatype)
    return Ask({spec.name: tensors.from_binary(tensor, memoryview(body))}, binary=True)


def _understood(message: InferBody, tail: memoryview) -> Ask:
    """The arrays and wishes of a message, whose binary tensors stand one after another in `tail`."""
    tensors = _tensors()
    arrays: dict[str, Array] = {}
    position = 0
    for tensor in message.inputs:
        if tensor.name in arrays:
            raise InvalidRequest(f"input {tensor.name[:120]!r} is there twice", param="inputs")
        if tensor.parameters is UNSET:
            arrays[tensor.name] = tensors.from_json(tensor)
            continue
        size = _binary_size(tensor.name, tensor.parameters, bool(tensor.data))
        if size is None:
            arrays[tensor.name] = tensors.from_json(tensor)
            continue
        if size > len(tail) - position:
            raise InvalidRequest(
                f"binary_data_size of input {tensor.name[:120]!r} is {size}; {len(tail) - position} bytes "
                "are left behind the JSON",
                param="binary_data_size",
            )
        arrays[tensor.name] = tensors.from_binary(tensor, tail[position : position + size])
        position += size
    if position != len(tail):
        raise InvalidRequest(f"{len(tail) - position} bytes behind the JSON belong to no input")
    ask = Ask(arrays, id=message.id)
    if message.parameters is not UNSET:
        read_parameters(ask, message.parameters)
    if message.outputs is not UNSET:
        read_outputs(ask, message.outputs)
    return ask


def _binary_size(name: str, parameters: Parameters, has_data: bool) -> int | None:
    parameters = dict(parameters)
    size = parameters.pop("binary_data_size", None)
    if parameters:
        raise _unknown_parameters(f"input {name[:120]!r}", parameters, ("binary_data_size",))
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InvalidRequest(f"binary_data_size is {size!r}; it must be a number of bytes", param="inputs")
    if has_data:
        raise InvalidRequest(f"input {name[:120]!r} has both data and binary_data_size", param="inputs")
    return size


def read_parameters(ask: Ask, parameters: Parameters) -> None:
    """Takes in the parameters of a request, of which the data plane knows some."""
    for name, value in parameters.items():
        if name == "binary_data_output":
            ask.binary = _flag(name, value)
        elif name not in NEUTRAL:
            ask.parameters[name] = value
        elif type(value) is not type(NEUTRAL[name]) or value != NEUTRAL[name]:
            raise InvalidRequest(f"{name} is {value!r}, which is not supported; leave it out", param=name)


def read_outputs(ask: Ask, outputs: list[WantedOutput]) -> None:
    """Takes in the outputs that are wanted; none is all."""
    if len(outputs) > MAX_OUTPUTS:
        raise InvalidRequest(f"{len(outputs)} outputs; at most {MAX_OUTPUTS} are possible", param="outputs")
    if not outputs:
        return
    ask.names = [output.name for output in outputs]
    for output in outputs:
        if output.parameters is UNSET:
            continue
        parameters = dict(output.parameters)
        binary = parameters.pop("binary_data", None)
        number = parameters.pop("classification", 0)
        if parameters:
            known = ("binary_data", "classification")
            raise _unknown_parameters(f"output {output.name[:120]!r}", parameters, known)
        if type(number) is not int or not 0 <= number <= MAX_CLASSES:
            raise InvalidRequest(
                f"classification is {number!r}; it must be a number of classes", param="classification"
            )
        ask.choices[output.name] = None if binary is None else _flag("binary_data", binary), number


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} is {value!r}; it must be true or false", param=name)
    return value


def _unknown_parameters(whose: str, parameters: Parameters, known: tuple[str, ...]) -> InvalidRequest:
    return InvalidRequest(
        f"{whose} has no parameters {sorted(parameters)[:8]}, only {', '.join(known)}", param="parameters"
    )


async def _answer(
    context: ServerContext,
    model: str,
    version: str,
    ask: Ask,
    outputs: Mapping[str, Array],
    description: Description,
) -> HotAnswer:
    num_bytes = sum(array.nbytes for array in outputs.values())

    def write() -> HotAnswer:
        return write_answer(model, version, ask, outputs, batched=description.batched)

    return write() if num_bytes <= context.settings.inline_bytes else await context.offload(num_bytes, write)


def write_answer(
    model: str, version: str, ask: Ask, outputs: Mapping[str, Array], *, batched: bool
) -> HotAnswer:
    """The answer, binary if one of its outputs is."""
    tensors = _tensors()
    written: list[OutputTensor] = []
    parts: list[bytes] = []
    for name, array in outputs.items():
        binary, num_classes = ask.choices.get(name, (None, 0)) if ask.choices else (None, 0)
        if num_classes:
            array = tensors.classes(name, array, num_classes, batched=batched)
        tensor = OutputTensor(name, tensors.datatype(array.dtype), list(array.shape))
        if ask.binary if binary is None else binary:
            part: bytes = tensors.to_binary(array)
            tensor.parameters = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            tensor.data = tensors.to_json(name, array)
        written.append(tensor)
    head = _encode(InferAnswer(model, version, written, ask.id))
    if not parts:
        return HotAnswer(200, JSON, head)
    return HotAnswer(200, [*BINARY, (HEADER_LENGTH, b"%d" % len(head))], b"".join((head, *parts)))

"""What a classic model's batcher and its worker processes say to each other, over a socket pair.

A frame is two lengths (uint32 and uint64, little-endian), a head in JSON, and the bytes of its tensors one
after another: little-endian, in C order. BYTES elements have their length (uint32) before them. Nothing is
pickled. JSON and not msgpack, as the engine runs where the server's packages are absent.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import errors
from ..errors import EngineError, QuireError
from ..models.classic.predictor import DTYPES, Array, Arrays, Description, LoadOptions, TensorSpec, datatype
from ..models.classic.warm_up import WarmupInput, WarmupRequest

LENGTHS = struct.Struct("<IQ")
_LENGTH = struct.Struct("<I")

JsonObject = dict[str, Any]


def frame(head: Mapping[str, Any], arrays: Arrays | None = None) -> list[bytes]:
    """A message in parts, to be written one after another."""
    kinds = {name: datatype(array.dtype) for name, array in (arrays or {}).items()}
    parts = [_to_bytes(array, kinds[name]) for name, array in (arrays or {}).items()]
    tensors = [
        (name, kinds[name], array.shape, len(part))
        for (name, array), part in zip((arrays or {}).items(), parts, strict=True)
    ]
    text = json.dumps({**head, "tensors": tensors}).encode()
    return [LENGTHS.pack(len(text), sum(map(len, parts))) + text, *parts]


def parse(body: bytearray, head_size: int) -> tuple[JsonObject, dict[str, Array]]:
    """A message: its head, and its tensors, which share the memory of `body`."""
    head: JsonObject = json.loads(body[:head_size])
    arrays: dict[str, Array] = {}
    start = head_size
    for name, kind, shape, size in head.pop("tensors"):
        part = memoryview(body)[start : start + size]
        start += size
        if kind == "BYTES":
            arrays[name] = _parse_bytes(part, shape)
        else:
            arrays[name] = _aligned(part, DTYPES[kind]).reshape(shape)
    return head, arrays


def _aligned(part: memoryview, dtype: np.dtype[Any]) -> Array:
    array = np.frombuffer(part, dtype)
    # Parts follow heads of any length; libraries in C may need addresses that are multiples of the size.
    return array if array.flags.aligned else array.copy()


def _to_bytes(array: Array, kind: str) -> bytes:
    if kind != "BYTES":
        return np.ascontiguousarray(array, DTYPES[kind]).tobytes()
    items = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
    return b"".join(part for item in items for part in (_LENGTH.pack(len(item)), item))


def _parse_bytes(part: memoryview, shape: list[int]) -> Array:
    array = np.empty(math.prod(shape), dtype=object)
    position = 0
    for index in range(array.size):
        (size,) = _LENGTH.unpack_from(part, position)
        position += _LENGTH.size
        array[index] = bytes(part[position : position + size])
        position += size
    return array.reshape(shape)


def options_to_json(options: LoadOptions) -> JsonObject:
    """A model's options, as they go over the socket."""
    return dataclasses.asdict(options)


def options_from_json(message: JsonObject) -> LoadOptions:
    """The inverse of `options_to_json`."""
    specs: JsonObject = {key: _specs(message[key]) for key in ("inputs", "outputs")}
    return LoadOptions(**{**message, **specs})


def warmup_to_json(requests: Sequence[WarmupRequest]) -> list[JsonObject]:
    """Warm-up requests, as they go over the socket."""
    return [
        {
            "name": request.name,
            "inputs": {name: _input_to_json(given) for name, given in request.inputs.items()},
            "others": _input_to_json(request.others),
            "batch_size": request.batch_size,
            "count": request.count,
        }
        for request in requests
    ]


def warmup_from_json(message: list[JsonObject]) -> list[WarmupRequest]:
    """The inverse of `warmup_to_json`."""
    requests: list[WarmupRequest] = []
    for item in message:
        inputs = {name: _input_from_json(given) for name, given in item["inputs"].items()}
        settings: JsonObject = {**item, "inputs": inputs, "others": _input_from_json(item["others"])}
        requests.append(WarmupRequest(**settings))
    return requests


def _input_to_json(given: WarmupInput) -> JsonObject:
    return {**dataclasses.asdict(given), "file": None if given.file is None else str(given.file)}


def _input_from_json(message: JsonObject) -> WarmupInput:
    shape, file = message["shape"], message["file"]
    settings: JsonObject = {
        **message,
        "shape": None if shape is None else tuple(shape),
        "file": None if file is None else Path(file),
    }
    return WarmupInput(**settings)


def description_to_json(description: Description) -> JsonObject:
    """A model's description, as it goes over the socket."""
    return dataclasses.asdict(description)


def description_from_json(message: JsonObject) -> Description:
    """The inverse of `description_to_json`."""
    return Description(_specs(message["inputs"]), _specs(message["outputs"]), message["batched"])


def _specs(items: list[JsonObject]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(item["name"], item["datatype"], tuple(item["shape"])) for item in items)


def failure(error: Exception) -> JsonObject:
    """From a worker: what it was asked for failed."""
    message = error.message if isinstance(error, QuireError) else f"{type(error).__name__}: {error}"
    return {"error": type(error).__name__, "message": message}


def to_error(message: JsonObject) -> QuireError:
    """The error that a failure is about: as it was raised, if it is one of quire's."""
    kind: Any = getattr(errors, message["error"], None)
    if isinstance(kind, type) and issubclass(kind, QuireError):
        return kind(message["message"])
    return EngineError(f"the model failed: {message['message']}")

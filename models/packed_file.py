"""A model's weights in the form in which the CPU kernels read them, as one file to be mapped.

The file is safetensors: an 8-byte length, a JSON header, and the tensors. It is written tensor by tensor,
so that writing takes no memory, and read by the safetensors library, whose tensors are views of the
mapped file. Each tensor begins at a multiple of 64 bytes and has a checksum.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..kernels.cpu import PackedDense, PackedQuantized
from ..kernels.types import FLOAT_FORMATS, LinearWeight
from .layers import Matrix
from .text_model import TextModel

ALIGNMENT = 64
METADATA = "quire"
ORDER = ".order"
_DTYPES: dict[torch.dtype, str] = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int32: "I32",
    torch.uint8: "U8",
}
_BY_NAME = {name: dtype for dtype, name in _DTYPES.items()}


class DamagedFile(Exception):
    """A file is not what was written."""


def packed_bytes(model: TextModel) -> int:
    """Bytes of the tensors that `write_packed` writes."""
    return sum(tensor.nbytes for _, tensor in _tensors(model)[0])


def is_packed(model: TextModel) -> bool:
    """Whether kernels have repacked every matrix."""
    return all(matrix.owner.weight.packed is not None for matrix in model.matrices())


def write_packed(model: TextModel, stream: BinaryIO) -> None:
    """Writes a model whose matrices are all packed."""
    tensors, matrices = _tensors(model)
    header: dict[str, Any] = {}
    checksums: dict[str, int] = {}
    padding: dict[str, int] = {}
    end = 0
    for name, tensor in tensors:
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        checksums[name] = _checksum(_bytes(tensor))
        end += tensor.nbytes
        if end % ALIGNMENT:
            # The format allows no holes, so what lies between is a tensor, too.
            padding[name] = -end % ALIGNMENT
            offsets = [end, end + padding[name]]
            header[f"{name}.padding"] = {"dtype": "U8", "shape": [padding[name]], "data_offsets": offsets}
            end += padding[name]
    content = {"matrices": matrices, "checksums": checksums, "tied": model.config.tie_word_embeddings}
    header["__metadata__"] = {METADATA: json.dumps(content)}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-(8 + len(encoded)) % ALIGNMENT)
    stream.write(struct.pack("<Q", len(encoded)) + encoded)
    for name, tensor in tensors:
        stream.write(_bytes(tensor))
        stream.write(bytes(padding.get(name, 0)))


def read_tied(path: Path) -> bool:
    """Whether the model in a file ties its embeddings. Raises `DamagedFile` if it cannot be read."""
    _, content = _open(path)
    return bool(content["tied"])


def read_packed(path: Path, model: TextModel, *, int8_activations: bool) -> None:
    """Fills a model from a file; its matrices then are views of the file.

    Args:
        path: The file.
        model: A model of the same shape as the one that was written.
        int8_activations: How integer matrices take their inputs.

    Raises:
        DamagedFile: The file is not what `write_packed` wrote. The model may be filled in part.
    """
    handle, content = _open(path)
    try:
        tensors: dict[str, Tensor] = {name: handle.get_tensor(name) for name in content["checksums"]}
        _verify(tensors, content["checksums"])
        for matrix in model.matrices():
            _fill(matrix, content["matrices"], tensors, int8_activations)
        for name, target in model.vectors():
            target.copy_(tensors[name].view(target.shape))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedFile(str(error)) from error


def _open(path: Path) -> tuple[Any, dict[str, Any]]:
    try:
        handle = safe_open(path, framework="pt")
        return handle, json.loads(handle.metadata()[METADATA])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DamagedFile(str(error)) from error


def _tensors(model: TextModel) -> tuple[list[tuple[str, Tensor]], dict[str, dict[str, Any]]]:
    """Everything that is stored, and what is to be known about each matrix."""
    tensors: list[tuple[str, Tensor]] = []
    matrices: dict[str, dict[str, Any]] = {}
    for matrix in model.matrices():
        name, packed = _name(matrix), matrix.owner.weight.packed
        tensors.append((name, packed.data))
        matrices[name] = entry = {"shape": [packed.out_features, packed.in_features]}
        if isinstance(packed, PackedQuantized):
            entry |= {
                "format": packed.format,
                "group_size": packed.group_size,
                "scales": _DTYPES[packed.scale_dtype],
                "asymmetric": packed.asymmetric,
            }
            if packed.order is not None:
                tensors.append((name + ORDER, packed.order))
    return [*tensors, *model.vectors()], matrices


def _name(matrix: Matrix) -> str:
    """A merged matrix has the names of all its parts."""
    return " ".join(matrix.parts)


def _fill(
    matrix: Matrix,
    matrices: Mapping[str, dict[str, Any]],
    tensors: Mapping[str, Tensor],
    int8_activations: bool,
) -> None:
    name, skeleton = _name(matrix), matrix.owner.weight
    entry, data = matrices[name], tensors[name]
    n, k = skeleton.out_features, skeleton.in_features
    if entry["shape"] != [n, k]:
        raise DamagedFile(f"{name} has the shape {entry['shape']}, not {[n, k]}")
    empty = data.new_empty(0)
    if "format" not in entry:
        weight = LinearWeight(FLOAT_FORMATS[data.dtype], n, k, empty)
        weight.packed = PackedDense(data, n, k)
    else:
        weight = LinearWeight(entry["format"], n, k, empty, group_size=entry["group_size"])
        weight.int8_activations = int8_activations
        weight.packed = PackedQuantized(
            data,
            entry["format"],
            n,
            k,
            entry["group_size"],
            _BY_NAME[entry["scales"]],
            entry["asymmetric"],
            tensors.get(name + ORDER),
        )
    matrix.owner.weight = weight


def _bytes(tensor: Tensor) -> memoryview:
    array: Any = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _checksum(data: memoryview) -> int:
    return zlib.crc32(data)


def _verify(tensors: Mapping[str, Tensor], checksums: Mapping[str, int]) -> None:
    """Compares all checksums, on all cores; this also brings the file into memory."""

    def is_whole(name: str) -> bool:
        return _checksum(_bytes(tensors[name])) == checksums[name]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        names = sorted(tensors, key=lambda name: -tensors[name].nbytes)
        for name, whole in zip(names, pool.map(is_whole, names), strict=True):
            if not whole:
                raise DamagedFile(f"the checksum of {name} is wrong")

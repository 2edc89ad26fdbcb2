"""Reading the weights of a model folder: safetensors, in one file or in shards with an index."""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import ModelError, UntrustedModel
from .config_reader import Fields, read_json

INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 16 << 20
"""The header of a shard with 50,000 tensors takes 6 MB."""

REMAP_BYTES = 16 << 20
"""So much is read before the file is mapped anew: what was read would count as this process's memory."""

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor is stored, and its shape and dtype as safetensors names them."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Lists all tensors of a folder's checkpoint by name, from the files' headers alone.

    Raises:
        UntrustedModel: The folder has only pickled weights.
        ModelError: A file is missing, malformed or cut short, or two files hold the same tensor.
    """
    index = folder / INDEX
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        for tensor in _read_header(file):
            if tensor.name in tensors:
                raise ModelError(f"{tensor.name} is in both {tensors[tensor.name].file} and {file}.")
            tensors[tensor.name] = tensor
    if index.exists():
        for name, file in _weight_map(index).items():
            if name not in tensors:
                raise ModelError(f"{index} says that {file} holds {name}, but it does not.")
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the checkpoint of a folder."""
    index, single = folder / INDEX, folder / "model.safetensors"
    if index.exists():
        files = [folder / name for name in sorted(set(_weight_map(index).values()))]
        for file in files:
            if not file.is_file():
                raise ModelError(f"{index} names {file.name}, which is missing.")
        return files
    if single.exists():
        return [single]
    # Mistral's repositories hold a second copy under the names of another framework.
    files = sorted(set(folder.glob("*.safetensors")) - set(folder.glob("consolidated*")))
    if files:
        return files
    if any(file for pattern in _PICKLES for file in folder.glob(pattern)):
        raise UntrustedModel(
            f"{folder} holds its weights as pickles only, and loading a pickle can run any code; "
            "use a safetensors version of the model."
        )
    raise ModelError(f"{folder} holds no model.safetensors.")


def _weight_map(index: Path) -> dict[str, str]:
    weights = Fields(read_json(index), index.name).object("weight_map")
    if weights is None or not weights.values:
        raise ModelError(f"{index} has no weight_map.")
    for name in weights.values:
        file = weights.string(name)
        if "/" in file or "\\" in file or "\0" in file or not file.endswith(".safetensors"):
            raise ModelError(f"{index}: {file[:200]!r} is no name of a safetensors file beside it.")
    return dict(weights.values)


def _read_header(file: Path) -> Iterator[StoredTensor]:
    """Yields a file's tensors, having checked the header's length before it is parsed."""
    with file_errors(file):
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
        if len(start) < 8:
            raise ModelError(f"{file} is cut short: it has {size} bytes.")
        (header,) = struct.unpack("<Q", start)
        if header > min(size - 8, MAX_HEADER_BYTES):
            raise ModelError(f"{file} announces a header of {header} bytes; the file has {size}.")
        with safe_open(file, framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118 (the handle is no mapping)
                part = handle.get_slice(name)
                yield StoredTensor(file, name, tuple(part.get_shape()), str(part.get_dtype()))


@contextmanager
def file_errors(file: Path) -> Generator[None]:
    """Turns what a malformed file raises into a `ModelError` naming it."""
    try:
        yield
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise ModelError(f"{file} is no valid safetensors file: {error}") from error


class TensorReader:
    """Reads stored tensors as views of their mapped files.

    Pages of a mapped file that were read count as this process's memory, so a file is mapped anew
    after every `REMAP_BYTES`; a view that is still held keeps its mapping.
    """

    def __init__(self) -> None:
        self._file: Path | None = None
        self._handle: Any = None
        self._num_bytes = 0

    def read(self, tensor: StoredTensor) -> Tensor:
        """A whole tensor. Raises `ModelError` naming the file if it changed or cannot be read."""
        with file_errors(tensor.file):
            values: Tensor = self._open(tensor.file).get_tensor(tensor.name)
            self._num_bytes += values.nbytes
            return values

    def rows(self, tensor: StoredTensor, start: int, stop: int) -> Tensor:
        """Rows `start..stop - 1` of a tensor. Raises as `read` does."""
        with file_errors(tensor.file):
            values: Tensor = self._open(tensor.file).get_slice(tensor.name)[start:stop]
            self._num_bytes += values.nbytes
            return values

    def _open(self, file: Path) -> Any:
        if file != self._file or self._num_bytes > REMAP_BYTES:
            self._handle = None  # before the next one is mapped
            self._handle = safe_open(file, framework="pt")
            self._file, self._num_bytes = file, 0
        return self._handle

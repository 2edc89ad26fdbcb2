"""Writing a checkpoint beside the float one that it comes from: the same files with the same tensors, but for
the matrices that are integers now. config.json comes last; without it, what an interrupted run leaves behind
is no model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ...errors import InvalidRequest
from ..config_reader import read_json
from ..safetensors_reader import INDEX, TensorReader, stored_tensors, weight_files
from . import compressed_tensors_writer, gptq_writer
from .gptq_quantizer import GptqOptions, QuantizedMatrix

CONFIG = "config.json"

COPIED = ("*.json", "*.jinja", "*.model", "*.txt", "*.md", "LICENSE*")
"""What belongs to a checkpoint besides its weights: the tokenizer, configurations, what it is."""


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """A layout that checkpoints of rounded matrices can have.

    Attributes:
        name: As users know it.
        can_store: Whether a matrix of so many rows and columns can be written.
        pack_matrix: The tensors of a matrix, by the last part of their names.
        quantization_config: config.json's entry, of the options and the modules that are left float, by
            their names in their decoder layer.
    """

    name: str
    can_store: Callable[[int, int, GptqOptions], bool]
    pack_matrix: Callable[[QuantizedMatrix, GptqOptions], dict[str, Tensor]]
    quantization_config: Callable[[GptqOptions, Iterable[str]], dict[str, Any]]


WRITTEN_LAYOUTS: dict[str, WeightLayout] = {
    name: WeightLayout(name, module.can_store, module.pack_matrix, module.quantization_config)
    for name, module in (("gptq", gptq_writer), ("compressed-tensors", compressed_tensors_writer))
}


def check_output(folder: Path) -> None:
    """Raises `InvalidRequest` if a checkpoint cannot be written to a folder, or would replace something."""
    if folder.exists() and not folder.is_dir():
        raise InvalidRequest(f"{folder} is a file; the output is a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise InvalidRequest(f"{folder} cannot be written: {error.strerror}") from error
    if occupied:
        raise InvalidRequest(f"{folder} is not empty; nothing in it would be replaced")


def write_checkpoint(
    source: Path,
    target: Path,
    matrices: Mapping[str, QuantizedMatrix],
    layout: WeightLayout,
    options: GptqOptions,
    float_modules: Iterable[str],
) -> None:
    """Writes a checkpoint in which some matrices of another one are integers.

    Args:
        source: The float checkpoint.
        target: An empty folder.
        matrices: By the names of the modules in a model, which begin with `model.`; the checkpoint's own
            may lack that.
        layout: How the matrices are written.
        options: What they were rounded to.
        float_modules: The modules that are left float, by their names in their decoder layer.
    """
    named = {f"{name}.weight": matrix for name, matrix in matrices.items()}
    named |= {name.removeprefix("model."): matrix for name, matrix in named.items()}
    stored = stored_tensors(source)
    reader = TensorReader()
    weight_map: dict[str, str] = {}
    num_bytes = 0
    for file in weight_files(source):
        tensors: dict[str, Tensor] = {}
        for tensor in (each for each in stored.values() if each.file == file):
            matrix = named.get(tensor.name)
            if matrix is None:
                tensors[tensor.name] = reader.read(tensor)
            else:
                module = tensor.name.removesuffix("weight")
                tensors |= {
                    module + suffix: values for suffix, values in layout.pack_matrix(matrix, options).items()
                }
        save_file(tensors, target / file.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file.name)
        num_bytes += sum(values.nbytes for values in tensors.values())
    _copy_others(source, target)
    if (source / INDEX).exists():
        _write_json(target / INDEX, {"metadata": {"total_size": num_bytes}, "weight_map": weight_map})
    config = {"quantization_config": layout.quantization_config(options, float_modules)}
    _write_json(target / CONFIG, read_json(source / CONFIG) | config)


def _copy_others(source: Path, target: Path) -> None:
    """Copies all files of a checkpoint that are neither weights nor about them."""
    for pattern in COPIED:
        for file in source.glob(pattern):
            if file.is_file() and file.name not in (CONFIG, INDEX):
                shutil.copyfile(file, target / file.name)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

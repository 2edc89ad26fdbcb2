"""Writing GPTQ checkpoints, as `gptq` describes them, in the first format ("gptq"): vLLM reads them, too.

A checkpoint is written beside the one that it comes from: the same files with the same tensors, but for
the matrices that are integers now. config.json comes last; without it, what an interrupted run leaves
behind is no model.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...errors import InvalidRequest
from ..config_reader import read_json
from ..safetensors_reader import INDEX, TensorReader, stored_tensors, weight_files
from .bits import WORD_BITS
from .gptq import ONES
from .gptq_quantizer import GptqOptions, QuantizedMatrix

CONFIG = "config.json"
COLUMN_MULTIPLE = 32
"""Kernels for this layout read so many columns at once."""

COPIED = ("*.json", "*.jinja", "*.model", "*.txt", "*.md", "LICENSE*")
"""What belongs to a checkpoint besides its weights: the tokenizer, configurations, what it is."""


def can_store(rows: int, columns: int, options: GptqOptions) -> bool:
    """Whether GPTQ's layout can store a matrix so that the kernels of others read it, too."""
    whole_groups = options.group_size == -1 or columns % options.group_size == 0
    return rows % (WORD_BITS // options.bits) == 0 and columns % COLUMN_MULTIPLE == 0 and whole_groups


def pack_matrix(matrix: QuantizedMatrix) -> dict[str, Tensor]:
    """The tensors of a matrix, by the last part of their names; see `gptq`."""
    qzeros = _pack(matrix.zeros.t(), matrix.bits) - ONES[matrix.bits]
    return {
        "qweight": _pack(matrix.q, matrix.bits).t().contiguous(),
        "qzeros": qzeros,  # no zero point is 0, so that no word borrows
        # Parts of one matrix share memory, which safetensors does not store.
        "scales": matrix.scales.t().clone(memory_format=torch.contiguous_format),
        "g_idx": matrix.g_idx.clone(),
    }


def _pack(values: Tensor, bits: int) -> Tensor:
    """uint8 `[R, count]`, in whole words, to int32 `[R, words]`, the first value in the lowest bits."""
    packed = values[:, ::2] | values[:, 1::2] << 4 if bits == 4 else values
    # A copy, whatever the strides: those of a single row may be any, and still pass for contiguous.
    return packed.clone(memory_format=torch.contiguous_format).view(torch.int32)


def quantization_config(options: GptqOptions, float_modules: Iterable[str]) -> dict[str, Any]:
    """config.json's `quantization_config`.

    Args:
        options: The format.
        float_modules: The modules that are left float, by their names in their decoder layer.
    """
    return {
        "quant_method": "gptq",
        "bits": options.bits,
        "group_size": options.group_size,
        "desc_act": options.desc_act,
        "sym": options.symmetric,
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
        "lm_head": False,
        "damp_percent": options.damping,
        "static_groups": False,
        "true_sequential": False,
        "dynamic": {rf"-:.*\.{re.escape(name)}$": {} for name in sorted(float_modules)},
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
    source: Path, target: Path, matrices: Mapping[str, QuantizedMatrix], config: Mapping[str, Any]
) -> None:
    """Writes a checkpoint in which some matrices of another one are integers.

    Args:
        source: The float checkpoint.
        target: An empty folder.
        matrices: By the names of the modules in a model, which begin with `model.`; the checkpoint's own
            may lack that.
        config: The `quantization_config`.
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
                tensors |= {module + suffix: values for suffix, values in pack_matrix(matrix).items()}
        save_file(tensors, target / file.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file.name)
        num_bytes += sum(values.nbytes for values in tensors.values())
    _copy_others(source, target)
    if (source / INDEX).exists():
        _write_json(target / INDEX, {"metadata": {"total_size": num_bytes}, "weight_map": weight_map})
    _write_json(target / CONFIG, {**read_json(source / CONFIG), "quantization_config": dict(config)})


def _copy_others(source: Path, target: Path) -> None:
    """Copies all files of a checkpoint that are neither weights nor about them."""
    for pattern in COPIED:
        for file in source.glob(pattern):
            if file.is_file() and file.name not in (CONFIG, INDEX):
                shutil.copyfile(file, target / file.name)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

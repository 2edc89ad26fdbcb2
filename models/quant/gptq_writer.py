"""What `gptq` describes, written: in the first of its formats ("gptq"), which vLLM reads, too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .bits import WORD_BITS, pack_rows
from .gptq import ONES
from .gptq_quantizer import GptqOptions, QuantizedMatrix

COLUMN_MULTIPLE = 32
"""Kernels for this layout read so many columns at once."""


def can_store(rows: int, columns: int, options: GptqOptions) -> bool:
    """Whether GPTQ's layout can store a matrix so that the kernels of others read it, too."""
    whole_groups = options.group_size == -1 or columns % options.group_size == 0
    return rows % (WORD_BITS // options.bits) == 0 and columns % COLUMN_MULTIPLE == 0 and whole_groups


def pack_matrix(matrix: QuantizedMatrix, _options: GptqOptions) -> dict[str, Tensor]:
    """The tensors of a matrix, by the last part of their names; see `gptq`."""
    qzeros = pack_rows(matrix.zeros.t(), matrix.bits) - ONES[matrix.bits]
    return {
        "qweight": pack_rows(matrix.q, matrix.bits).t().contiguous(),
        "qzeros": qzeros,  # no zero point is 0, so that no word borrows
        # Parts of one matrix share memory, which safetensors does not store.
        "scales": matrix.scales.t().clone(memory_format=torch.contiguous_format),
        "g_idx": matrix.g_idx.clone(),
    }


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

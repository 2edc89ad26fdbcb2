"""What `compressed_tensors` describes, written: "pack-quantized", which vLLM reads, too.

Unlike GPTQ's layout it fills the last words and the last group of a row in part, so that a matrix of any
shape can be stored; kernels of others may still want whole groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .bits import pack_rows
from .gptq_quantizer import GptqOptions, QuantizedMatrix


def can_store(_rows: int, _columns: int, _options: GptqOptions) -> bool:
    """Whether the layout can store a matrix: every one."""
    return True


def pack_matrix(matrix: QuantizedMatrix, options: GptqOptions) -> dict[str, Tensor]:
    """The tensors of a matrix, by the last part of their names; see `compressed_tensors`.

    Integers are unsigned here, which is what the layout stores of signed ones.
    """
    rows, columns = matrix.q.shape
    tensors = {
        "weight_packed": pack_rows(matrix.q, matrix.bits),
        "weight_scale": matrix.scales.clone(memory_format=torch.contiguous_format),
        "weight_shape": torch.tensor([rows, columns], dtype=torch.int64),
    }
    if not options.symmetric:
        tensors["weight_zero_point"] = pack_rows(matrix.zeros.t(), matrix.bits).t().contiguous()
    if options.desc_act:
        tensors["weight_g_idx"] = matrix.g_idx.clone()
    return tensors


def quantization_config(options: GptqOptions, float_modules: Iterable[str]) -> dict[str, Any]:
    """config.json's `quantization_config`.

    Args:
        options: The format.
        float_modules: The modules that are left float, by their names in their decoder layer.
    """
    whole_rows = options.group_size == -1
    weights = {
        "num_bits": options.bits,
        "type": "int",
        "symmetric": options.symmetric,
        "strategy": "channel" if whole_rows else "group",
        "group_size": None if whole_rows else options.group_size,
        "actorder": "group" if options.desc_act else None,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": None,
                "output_activations": None,
            }
        },
        "ignore": ["lm_head", *(rf"re:.*\.{re.escape(name)}$" for name in sorted(float_modules))],
        "kv_cache_scheme": None,
    }

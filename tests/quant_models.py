"""What tests of integer weights share: one forward pass, and transformers on given matrices."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tiny_models
from quire.kernels import reference
from quire.kernels.types import AttentionMetadata
from quire.models.causal_lm import CausalLM


@torch.inference_mode()
def logits_of(model: CausalLM, ids: list[int]) -> Tensor:
    """The logits `[len(ids), vocab]` of one sequence, in one pass over a cache of one block."""
    config, length = model.config, len(ids)
    shape = (2, 1, config.num_kv_heads, length, config.head_size)
    positions = torch.arange(length)
    meta = AttentionMetadata(
        positions=positions,
        slot_mapping=positions,
        query_start=torch.tensor([0, length], dtype=torch.int32),
        seq_lens=torch.tensor([length], dtype=torch.int32),
        block_tables=torch.zeros(1, 1, dtype=torch.int32),
        block_size=length,
        max_query_len=length,
        max_seq_len=length,
    )
    caches = [torch.zeros(shape, dtype=model.dtype) for _ in range(config.num_layers)]
    return model.compute_logits(model.forward(torch.tensor(ids), caches, meta))


def dequantized(model: CausalLM) -> dict[str, Tensor]:
    """Every matrix of a model as fp32, by the checkpoint's names; on the reference kernels."""
    found: dict[str, Tensor] = {}
    for matrix in model.matrices():
        dense = reference.dequantize(matrix.owner.weight).float()
        parts = dense.split(list(matrix.parts.values()))
        found |= {f"{name}.weight": part for name, part in zip(matrix.parts, parts, strict=True)}
    return found


def oracle_with(folder: Path, matrices: Mapping[str, Tensor]) -> Any:
    """The transformers model of a dense folder in fp32, with other values in some of its matrices."""
    oracle = copy.deepcopy(tiny_models.oracle(folder))
    parameters = dict(oracle.named_parameters())
    with torch.no_grad():
        for name, values in matrices.items():
            parameters[name].copy_(values)
    return oracle


def oracle_logits(oracle: Any, ids: list[int]) -> Tensor:
    """transformers' logits `[len(ids), vocab]`."""
    with torch.inference_mode():
        return oracle(torch.tensor([ids])).logits[0]

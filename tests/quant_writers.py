"""Writers of the layouts that integer weights are stored in, straight from their descriptions.

Nothing here is shared with the readers: words are made one integer at a time, in numpy.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass
class Quantized:
    """An integer matrix: `W[n, k] = (q[n, k] - zeros[n, g_idx[k]]) * scales[n, g_idx[k]]`, all unsigned.

    Attributes:
        q: `[N, K]`, 0 to `2 ** bits - 1`.
        scales: `[N, groups]`.
        zeros: `[N, groups]`.
        g_idx: `[K]`.
    """

    bits: int
    q: NDArray[np.int64]
    scales: Tensor
    zeros: NDArray[np.int64]
    g_idx: NDArray[np.int64]

    def dense(self) -> Tensor:
        """W as fp32."""
        difference = torch.from_numpy(self.q - self.zeros[:, self.g_idx]).float()
        return difference * self.scales.float()[:, torch.from_numpy(self.g_idx)]


def groups_of(columns: int, group_size: int, rng: np.random.Generator | None = None) -> NDArray[np.int64]:
    """The group of each column; with a generator, of columns in a random order."""
    g_idx = np.arange(columns) // group_size
    return g_idx if rng is None else g_idx[rng.permutation(columns)]


def random_matrix(
    rng: np.random.Generator,
    rows: int,
    columns: int,
    bits: int,
    g_idx: NDArray[np.int64],
    symmetric: bool,
    lowest_zero: int = 0,
) -> Quantized:
    """Random integers, scales and zero points."""
    shape = (rows, int(g_idx.max()) + 1)
    top = 1 << bits
    zeros = np.full(shape, top // 2) if symmetric else rng.integers(lowest_zero, top, shape)
    scales = torch.from_numpy(rng.uniform(1e-3, 1e-2, shape)).half()
    return Quantized(bits, rng.integers(0, top, (rows, columns)), scales, zeros, g_idx)


def round_matrix(dense: Tensor, bits: int, g_idx: NDArray[np.int64], symmetric: bool) -> Quantized:
    """Rounds a float matrix to the nearest values, with a scale and a zero point for each group."""
    rows, values, top = dense.shape[0], dense.double().numpy(), (1 << bits) - 1
    num_groups = int(g_idx.max()) + 1
    scales = np.zeros((rows, num_groups))
    zeros = np.zeros((rows, num_groups), dtype=np.int64)
    for group in range(num_groups):
        part = values[:, g_idx == group]
        if symmetric:
            scales[:, group] = np.abs(part).max(1) * 2 / top
            zeros[:, group] = (top + 1) // 2
        else:
            low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
            scales[:, group] = (high - low) / top
            # AutoGPTQ's first format has no zero point of 0.
            zeros[:, group] = np.clip(np.round(-low / scales[:, group]), 1, top)
    half = torch.from_numpy(scales).half()
    q = np.clip(np.round(values / half.double().numpy()[:, g_idx]) + zeros[:, g_idx], 0, top)
    return Quantized(bits, q.astype(np.int64), half, zeros, g_idx)


def pack(values: NDArray[np.int64], bits: int, order: list[int] | None = None) -> NDArray[np.int64]:
    """Packs along the last axis into words of 32 bits; the last word is filled with zeros.

    Args:
        values: Unsigned integers.
        bits: Of each.
        order: Which of a word's integers is in its lowest bits, in the next, and so on.
    """
    per_word = 32 // bits
    order = order or list(range(per_word))
    missing = -values.shape[-1] % per_word
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)])
    packed = np.zeros((*padded.shape[:-1], padded.shape[-1] // per_word), dtype=np.int64)
    for place, index in enumerate(order):
        packed |= padded[..., index::per_word] << (bits * place)
    return packed


def int32(values: NDArray[np.int64]) -> Tensor:
    """Words as torch stores them."""
    return torch.from_numpy((values & 0xFFFFFFFF).astype(np.uint32).view(np.int32).copy())


def awq(matrix: Quantized) -> dict[str, Tensor]:
    """AutoAWQ's GEMM layout."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return {
        "qweight": int32(pack(matrix.q.T, 4, order)),
        "qzeros": int32(pack(matrix.zeros.T, 4, order)),
        "scales": matrix.scales.T.contiguous(),
    }


def gptq(matrix: Quantized, *, v2: bool = False, with_g_idx: bool = True) -> dict[str, Tensor]:
    """AutoGPTQ's layout; its first version subtracts one from each zero point, in whole words."""
    bits = matrix.bits
    ones = sum(1 << shift for shift in range(0, 32, bits))
    tensors = {
        "qweight": int32(pack(matrix.q, bits).T),
        "qzeros": int32(pack(matrix.zeros.T, bits) - (0 if v2 else ones)),
        "scales": matrix.scales.T.contiguous(),
    }
    if with_g_idx:
        tensors["g_idx"] = torch.from_numpy(matrix.g_idx.astype(np.int32))
    return tensors


def compressed(matrix: Quantized, *, symmetric: bool, with_g_idx: bool = False) -> dict[str, Tensor]:
    """compressed-tensors' pack-quantized format: signed integers with half of their range added."""
    tensors = {
        "weight_packed": int32(pack(matrix.q, matrix.bits)),
        "weight_scale": matrix.scales.contiguous(),
        "weight_shape": torch.tensor(matrix.q.shape),
    }
    if not symmetric:
        tensors["weight_zero_point"] = int32(pack(matrix.zeros.T, matrix.bits).T)
    if with_g_idx:
        tensors["weight_g_idx"] = torch.from_numpy(matrix.g_idx.astype(np.int32))
    return tensors


@dataclass
class Recipe:
    """How to store a whole model.

    Attributes:
        method: awq, gptq or compressed-tensors.
        act_order: Whether columns are grouped in a random order, one for each input.
        skip: Parts of the names of modules that stay float.
        head: Whether lm_head is stored as integers, too.
    """

    method: str
    bits: int = 4
    group_size: int = 32
    symmetric: bool = False
    v2: bool = False
    act_order: bool = False
    with_g_idx: bool = True
    skip: tuple[str, ...] = ()
    head: bool = False

    def tensors(self, matrix: Quantized) -> dict[str, Tensor]:
        """The stored form of a matrix."""
        if self.method == "awq":
            return awq(matrix)
        if self.method == "gptq":
            return gptq(matrix, v2=self.v2, with_g_idx=self.with_g_idx)
        return compressed(matrix, symmetric=self.symmetric, with_g_idx=self.act_order)

    def config(self) -> dict[str, Any]:
        """config.json's quantization_config."""
        if self.method == "awq":
            return {
                "quant_method": "awq",
                "bits": self.bits,
                "group_size": self.group_size,
                "zero_point": not self.symmetric,
                "version": "GEMM",
                "modules_to_not_convert": list(self.skip) or None,
            }
        if self.method == "gptq":
            return {
                "quant_method": "gptq",
                "bits": self.bits,
                "group_size": self.group_size,
                "sym": self.symmetric,
                "desc_act": self.act_order,
                "checkpoint_format": "gptq_v2" if self.v2 else "gptq",
                "lm_head": self.head,
                "dynamic": {rf"-:.*{name}": {} for name in self.skip},
                "damp_percent": 0.01,
                "true_sequential": True,
                "static_groups": False,
            }
        weights = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": self.symmetric,
            "strategy": "channel" if self.group_size == -1 else "group",
            "group_size": None if self.group_size == -1 else self.group_size,
            "actorder": "group" if self.act_order else None,
            "dynamic": False,
        }
        group = {
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": None,
            "output_activations": None,
        }
        ignored = [rf"re:.*{name}" for name in self.skip]
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ignored if self.head else [*ignored, "lm_head"],
            "kv_cache_scheme": None,
        }


def quantize_folder(source: Path, target: Path, recipe: Recipe, seed: int = 0) -> dict[str, Tensor]:
    """Writes a checkpoint with integer matrices, rounded from a dense one's.

    Returns:
        The values of the matrices that were rounded, as fp32, by their names in the dense checkpoint.
    """
    shutil.copytree(source, target)
    stored = load_file(source / "model.safetensors")
    tensors: dict[str, Tensor] = {}
    dense: dict[str, Tensor] = {}
    for name, values in stored.items():
        module = name.removesuffix(".weight")
        is_matrix = "_proj.weight" in name or (recipe.head and name == "lm_head.weight")
        if not is_matrix or any(part in name for part in recipe.skip):
            tensors[name] = values
            continue
        columns = values.shape[1]
        # Matrices of one input, such as q, k and v, have one order, which follows from that input.
        place = (
            name.split(".self_attn.")[0] if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj") else name
        )
        place = place.replace("up_proj", "gate_proj")
        rng = np.random.default_rng([seed, *place.encode()]) if recipe.act_order else None
        g_idx = groups_of(columns, columns if recipe.group_size == -1 else recipe.group_size, rng)
        matrix = round_matrix(values, recipe.bits, g_idx, recipe.symmetric)
        dense[name] = matrix.dense()
        tensors |= {f"{module}.{suffix}": tensor for suffix, tensor in recipe.tensors(matrix).items()}
    save_file(tensors, target / "model.safetensors")
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = recipe.config()
    (target / "config.json").write_text(json.dumps(config))
    return dense

"""How much memory a model's weights take in the form in which they run, from its configuration alone."""

from __future__ import annotations

import torch

from .config import ModelConfig
from .layers import Matrix
from .parallel import Ranks
from .quant.config import LM_HEAD, SCORE
from .quant.options import Rounding, WeightOptions
from .registry import model_class
from .sharding import SINGLE, shard_model

SCALE_BYTES = 2

GPU_COLUMNS = 128
"""GPU kernels store columns of integer matrices in whole blocks of so many."""


def weight_bytes(
    config: ModelConfig,
    dtype: torch.dtype,
    options: WeightOptions,
    device_type: str = "cpu",
    ranks: Ranks = SINGLE,
) -> int:
    """Bytes of all weights, within a few percent: kernels pad matrices, and may add sums of rows.

    Args:
        config: The checkpoint's configuration.
        dtype: Of the model.
        options: The format of its matrices.
        device_type: Where it runs, "cpu" or "cuda", which stores integer matrices in a form of its own.
        ranks: Those that share the model; what this one has is counted.

    Raises:
        ModelError: The model cannot be shared out to so many.
    """
    with torch.device("meta"):
        skeleton = model_class(config.architecture)(config, dtype, 1)
        shard_model(skeleton, ranks, options)
    total = sum(tensor.numel() * dtype.itemsize for _, tensor in skeleton.vectors())
    for matrix in skeleton.matrices():
        total += _matrix_bytes(matrix, config, dtype, options, device_type)
    return total


def rounding_of(matrix: Matrix, config: ModelConfig, options: WeightOptions) -> Rounding | None:
    """The integer format that a float matrix of a model shall be rounded to; None leaves it as it is."""
    if is_head(matrix, config):
        return options.head
    return None if matrix.is_embedding or matrix.is_experts or SCORE in matrix.parts else options.layers


def is_head(matrix: Matrix, config: ModelConfig) -> bool:
    """Whether a matrix is the output projection, or the embedding that it is tied to."""
    return LM_HEAD in matrix.parts or (matrix.is_embedding and config.tie_word_embeddings)


def _matrix_bytes(
    matrix: Matrix, config: ModelConfig, dtype: torch.dtype, options: WeightOptions, device_type: str
) -> int:
    columns = matrix.owner.weight.in_features
    rounding = rounding_of(matrix, config, options)
    total = 0
    for name, rows in matrix.parts.items():
        scheme = None if is_head(matrix, config) and options.lm_head == "float" else config.scheme_of(name)
        if rounding is not None:
            bits, group_size = (4 if rounding.format == "int4" else 8), rounding.group_size
        elif scheme is not None:
            bits, group_size = scheme.bits, scheme.group_size
        else:
            total += rows * columns * dtype.itemsize
            continue
        groups = -(-columns // group_size) if group_size else 1
        group_bytes, stored = SCALE_BYTES, columns
        if device_type != "cpu":
            stored += -columns % GPU_COLUMNS
            group_bytes += 0 if rounding is not None or scheme is None or scheme.symmetric else 1
        total += rows * (-(-stored * bits // 8) + groups * group_bytes)
    return total

"""How the product of a weight is cut into programs: tiles, stages and splits, and what a kernel must know.

The tile's height in output channels, and the splits of K, follow from the weight alone; how many rows of x a
tile has, and how many blocks are in flight, change no result.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .linear_packed import PLANE, PackedInteger, block_columns

SPLIT_TILE = 64
"""Output channels that are counted as one program when K is split, whatever the tile is."""

WANTED_PROGRAMS = 264
"""Two for each of the 132 multiprocessors of an H100: enough to keep its memory busy."""

MOST_SPLITS = 8
MIN_SPLIT_COLUMNS = 512

INVARIANT_ROWS = 64
"""The tile for so many rows is that of all where it must not depend on them."""

FLOAT_WIDTH = {torch.float32: 32, torch.bfloat16: 64, torch.float16: 64}
"""Columns of a block of a float weight: 128 bytes of a row."""


@dataclass(frozen=True, slots=True)
class Tile:
    """How a product is cut: output channels and rows of x in a program, its warps, blocks in flight."""

    block_n: int
    block_m: int
    num_warps: int
    num_stages: int


# Up to how many rows of x: the tile, and its stages on Hopper, on an A100 and on smaller GPUs, which have
# 227, 163 and 99 KiB of shared memory per multiprocessor. A stage holds a block of the weight (4 or 8 KiB for
# 64 channels) and the block of x beside it. With few rows, memory is the limit: about 16 KiB in flight per
# multiprocessor hide its latency, and three or four programs share one, so that one computes while another
# waits. These numbers follow from sizes and from published designs; nobody has measured them.
_FLOAT_X = (
    (16, Tile(64, 16, 4, 5), 4, 4),
    (32, Tile(64, 32, 4, 5), 4, 3),
    (64, Tile(64, 64, 4, 4), 3, 2),
    (1 << 62, Tile(64, 128, 8, 3), 3, 2),
)
# Full fp32 products run on the ordinary cores, whose operands take many registers.
_FLOAT32_X = ((16, Tile(64, 16, 4, 3), 3, 3), (1 << 62, Tile(64, 32, 4, 2), 2, 2))
_INT8_X = (
    (16, Tile(64, 16, 4, 5), 4, 4),
    (32, Tile(64, 32, 4, 5), 4, 4),
    (64, Tile(64, 64, 4, 4), 4, 3),
    (1 << 62, Tile(128, 128, 8, 4), 3, 2),
)
_FLOAT_WEIGHT = ((1 << 62, Tile(128, 64, 4, 4), 3, 3),)


@cache
def architecture() -> int:
    """Which column of the tables holds here: 0 is Hopper, 1 an A100, 2 anything smaller."""
    if not torch.cuda.is_available():
        return 1
    capability = torch.cuda.get_device_capability()
    if capability >= (9, 0) and capability[0] < 12:
        return 0
    return 1 if capability == (8, 0) else 2


def choose_tile(
    num_rows: int, x_dtype: torch.dtype, is_float_weight: bool, is_invariant: bool, column: int
) -> Tile:
    """The tile of a product.

    Args:
        num_rows: M.
        x_dtype: Of x, int8 where it is rounded.
        is_float_weight: Whether the weight is not an integer one.
        is_invariant: Whether the tile must not depend on M.
        column: See `architecture`.
    """
    if is_float_weight:
        table = _FLOAT_WEIGHT
    elif x_dtype == torch.int8:
        table = _INT8_X
    else:
        table = _FLOAT32_X if x_dtype == torch.float32 else _FLOAT_X
    rows = INVARIANT_ROWS if is_invariant else num_rows
    for limit, tile, on_ampere, on_others in table:
        if rows <= limit:
            stages = (tile.num_stages, on_ampere, on_others)[column]
            return Tile(tile.block_n, tile.block_m, tile.num_warps, stages)
    raise AssertionError("the last row of each table has no limit")


def num_splits(out_features: int, in_features: int) -> int:
    """In how many parts K is summed, from the shape of the weight alone."""
    tiles = -(-out_features // SPLIT_TILE)
    return max(1, min(MOST_SPLITS, -(-WANTED_PROGRAMS // tiles), in_features // MIN_SPLIT_COLUMNS))


@dataclass(frozen=True, slots=True)
class WeightForm:
    """What the kernel has to know of a weight."""

    data: Tensor
    scales: Tensor | None
    zeros: Tensor | None
    bits: int
    width: int
    planes: int
    scaled_planes: int
    strides: tuple[int, int]
    group_size: int
    num_groups: int
    one_group: bool

    @classmethod
    def of(cls, weight: PackedInteger | Tensor) -> WeightForm:
        if isinstance(weight, Tensor):
            width = FLOAT_WIDTH[weight.dtype]
            return cls(weight, None, None, 0, width, 1, 1, (weight.stride(0), width), 1, 1, True)
        groups, width = weight.scales.shape[0], weight.width
        scaled = scaled_planes(weight.group_size, weight.in_features) if weight.format == "int4" else 1
        return cls(
            weight.data,
            weight.scales,
            weight.zeros,
            weight.bits,
            width,
            weight.planes,
            scaled,
            weight.strides,
            weight.group_size,
            groups,
            groups == 1,
        )


def scaled_planes(group_size: int, columns: int) -> int:
    """Planes of an int4 weight's chunk that share a scale."""
    return block_columns(group_size, columns) // PLANE

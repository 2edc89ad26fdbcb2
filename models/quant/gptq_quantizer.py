"""GPTQ (Frantar et al., 2023): rounding a matrix so that its products change little, not its values.

For inputs X the error of a rounded matrix is `||(W - Q) X||^2`, and each row's share of it is a quadratic
form with the same matrix, `H = X X^T`. Columns are rounded one after the other; what a column's rounding
does to the products, the columns that are still to come make up for as well as they can:

    q_j = round(w_j),  e = (w_j - q_j) / U_jj,  w_i -= e U_ji for i > j,  where U^T U = H^-1

U, upper triangular, is the Cholesky factor of the inverse of the damped H. This is pure torch and knows
nothing of models or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import ModelError

BLOCK_COLUMNS = 128
"""Columns that are rounded before the ones behind them are brought up to date, all at once. Groups are
whole rows, or their sizes divide it, so that a group's columns are up to date when its scale is chosen."""

GROUP_SIZES = (32, 64, 128)

NUM_CANDIDATES = 24
CANDIDATE_RANGE = (0.7, 1.4)
"""Scales are tried that stretch or shrink the grid to so many times a group's largest value. Where the
largest value is alone, cutting it off is better; where it can be met by a positive level, stretching is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GptqOptions:
    """What a matrix is rounded to. Raises ValueError naming a value that is out of range.

    Attributes:
        bits: Of a value: 4 or 8.
        group_size: Columns that share a scale: 32, 64, 128, or -1 for one scale per row.
        symmetric: Whether all zero points are the middle of the range.
        desc_act: Whether columns are rounded, and grouped, in the order of their inputs' energy. That
            helps where groups are large; kernels must then gather the inputs.
        damping: What is added to the diagonal of H, as a fraction of the diagonal's mean.
    """

    bits: int = 4
    group_size: int = 128
    symmetric: bool = True
    desc_act: bool = False
    damping: float = 0.01

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits must be 4 or 8, got {self.bits!r}")
        if self.group_size not in (*GROUP_SIZES, -1):
            choices = ", ".join(map(str, GROUP_SIZES))
            raise ValueError(f"group_size must be one of {choices} or -1, got {self.group_size!r}")
        if not 0.0 < self.damping <= 1.0:
            raise ValueError(f"damping must be in (0, 1], got {self.damping!r}")


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """`W[n, k] = (q[n, k] - zeros[n, g_idx[k]]) * scales[n, g_idx[k]]`, all integers unsigned.

    Attributes:
        bits: Of a value.
        q: uint8 `[N, K]`, 0 to `2 ** bits - 1`.
        scales: float16 `[N, groups]`. In symmetric matrices they may be negative.
        zeros: uint8 `[N, groups]`, at least 1.
        g_idx: int32 `[K]`, the group of each column.
    """

    bits: int
    q: Tensor
    scales: Tensor
    zeros: Tensor
    g_idx: Tensor

    def dense(self) -> Tensor:
        """W as fp32 `[N, K]`."""
        group = self.g_idx.long()
        return (self.q.float() - self.zeros.float()[:, group]) * self.scales.float()[:, group]


def quantize_matrix(weight: Tensor, hessian: Tensor, options: GptqOptions) -> QuantizedMatrix:
    """Rounds a matrix for given inputs.

    Args:
        weight: `[N, K]`, float.
        hessian: fp32 `[K, K]`, `X X^T`: the sum over all inputs x of `x x^T`.
        options: The format. Of the last group there may be fewer columns than of the others.

    Raises:
        ModelError: The matrix or its inputs have values that are not finite, or the damping is too small.
    """
    if not (bool(torch.isfinite(weight).all()) and bool(torch.isfinite(hessian).all())):
        raise ModelError("a matrix, or one of its inputs, has values that are not finite")
    rows, columns = weight.shape
    group_size = columns if options.group_size == -1 else options.group_size
    energy = hessian.diagonal()
    order = torch.arange(columns)
    if options.desc_act:
        order = energy.argsort(descending=True, stable=True)
    factor = inverse_factor(hessian[order][:, order], options.damping)
    W = weight.float()[:, order]
    # A column without any input counts a little, lest the scale of its group be arbitrary.
    importance = (energy + options.damping * energy.mean())[order]
    if not bool(importance.any()):
        importance = torch.ones(columns)
    q = torch.empty(rows, columns, dtype=torch.uint8)
    grids: list[tuple[Tensor, Tensor]] = []
    for start in range(0, columns, BLOCK_COLUMNS):
        stop = min(start + BLOCK_COLUMNS, columns)
        errors = torch.empty(rows, stop - start)
        for j in range(start, stop):
            if j % group_size == 0:
                end = min(j + group_size, columns)
                grids.append(choose_grid(W[:, j:end], importance[j:end], options.bits, options.symmetric))
            scale, zero = grids[-1]
            level = to_levels(W[:, j], scale, zero, options.bits)
            q[:, j] = level
            error = (W[:, j] - (level - zero) * scale) / factor[j, j]
            W[:, j + 1 : stop] -= torch.outer(error, factor[j, j + 1 : stop])
            errors[:, j - start] = error
        W[:, stop:] -= errors @ factor[start:stop, stop:]
    place = torch.empty_like(order)
    place[order] = torch.arange(columns)
    scales, zeros = (torch.stack(parts, 1) for parts in zip(*grids, strict=True))
    g_idx = (place // group_size).to(torch.int32)
    return QuantizedMatrix(options.bits, q[:, place], scales.half(), zeros.to(torch.uint8), g_idx)


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """The upper triangular U with `U^T U = (H + damping * mean(diag H) * I)^-1`, fp32 `[K, K]`.

    It is computed in fp64: H is close to singular, as inputs have fewer independent directions than
    channels.

    Raises:
        ModelError: H is not positive definite even so.
    """
    H = hessian.double()
    diagonal = H.diagonal()
    mean = diagonal.mean()
    # Where no input was anything but zero, all columns are alike, and rounding is to the nearest.
    diagonal += damping * mean if bool(mean > 0) else 1.0
    lower, failed = torch.linalg.cholesky_ex(H)
    if not bool(failed):
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not bool(failed):
            return upper.float()
    raise ModelError(f"the inputs' covariance cannot be inverted with a damping of {damping}; it needs more")


def choose_grid(values: Tensor, importance: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The scale and the zero point of a group, for each row those with the least squared error.

    Each candidate is a grid that covers a range a little larger or smaller than the values'; its scale is
    then the one that fits the levels that the values take in it best (least squares). A symmetric grid
    has one more level below its zero than above, and the value of largest magnitude is given the side
    with more levels, by a negative scale if need be (llama.cpp's Q4_0 does the same).

    Args:
        values: fp32 `[N, columns]`.
        importance: fp32 `[columns]`, what the squared error of each column counts.
        bits: 4 or 8.
        symmetric: Whether the zero point must be the middle of the range.

    Returns:
        fp32 `[N]` twice: scales that fp16 holds exactly, and zero points, at least 1.
    """
    top, middle = (1 << bits) - 1, 1 << bits - 1
    low, high = values.amin(1), values.amax(1)
    largest = torch.where(-low >= high, low, high)
    # Zero itself must have a level.
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    best = torch.full_like(low, torch.inf)
    best_scale, best_zero = torch.zeros_like(low), torch.full_like(low, float(middle))
    for stretch in torch.linspace(*CANDIDATE_RANGE, NUM_CANDIDATES).tolist():
        if symmetric:
            scale, zero = largest * (stretch / -middle), torch.full_like(low, float(middle))
        else:
            scale = (high - low) * (stretch / top)
            # GPTQ's first format stores zero points less one, and readers differ about what -1 becomes.
            zero = torch.where(scale > 0, torch.round(-low / scale), float(middle)).clamp(1, top)
        scale = _as_half(scale)
        level = to_levels(values, scale[:, None], zero[:, None], bits) - zero[:, None]
        norm = (importance * level * level).sum(1)
        fitted = _as_half(torch.where(norm > 0, (importance * level * values).sum(1) / norm, scale))
        for each in (scale, fitted):
            level = to_levels(values, each[:, None], zero[:, None], bits) - zero[:, None]
            error = (importance * (level * each[:, None] - values) ** 2).sum(1)
            better = error < best
            best = torch.where(better, error, best)
            best_scale = torch.where(better, each, best_scale)
            best_zero = torch.where(better, zero, best_zero)
    return best_scale, best_zero


def to_levels(values: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The nearest level of each value, 0 to `2 ** bits - 1`, as fp32; where the scale is 0, the zero."""
    steps = torch.where(scale == 0, 0.0, torch.round(values / scale))
    return (steps + zero).clamp(0, (1 << bits) - 1)


def _as_half(scale: Tensor) -> Tensor:
    """The scale that is stored, as fp32. One too large for fp16 becomes the largest that is not."""
    limit = torch.finfo(torch.float16).max
    return scale.clamp(-limit, limit).half().float()

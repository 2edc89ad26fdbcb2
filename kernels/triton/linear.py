"""Linear layers on a GPU: which of several ways a product takes, by the weight's format and the rows of x.

    float weights                     cuBLAS, through torch
    int4, int8, up to 128 rows        one kernel that makes values of integers as it multiplies: `linear_tile`
    int4, int8, more rows             values are written out, some channels at a time, for cuBLAS
    int4, int8 with int8 activations  rows are rounded to int8, and the same kernel multiplies integers

Within one of these ways a row's result does not depend on the other rows: the order of its sums follows from
the weight alone. From one way to another it may differ in the last bit, and cuBLAS, too, sums in an order
that depends on how many rows there are. With the environment variable `QUIRE_BATCH_INVARIANT=1`, which is
read once, all products take the one kernel, and with the same tile for any number of rows: then a request's
results are the same bit for bit whatever shares its batch. That costs speed where there are many rows. Where
activations are int8, results never depend on the batch.

fp32 is multiplied as torch is told to: as fp32 by default, as TF32 if the process has asked for it. With
`QUIRE_BATCH_INVARIANT=1` it is always fp32.
"""

from __future__ import annotations

import os
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import reference
from ..types import LinearWeight, WeightFormat
from .linear_packed import BITS, PackedInteger, pack, unsupported
from .linear_rows import dequantize, quantize_rows
from .linear_tile import multiply

PACKED_FORMATS: tuple[WeightFormat, ...] = ("int4", "int8")
"""Formats that `prepare` repacks."""

INVARIANT_VARIABLE = "QUIRE_BATCH_INVARIANT"

MOST_TILE_ROWS = 128
"""With more rows, writing the values out costs less than making them anew for each tile of rows."""

PANEL_VALUES = 1 << 24
"""Values that are written out at once: 32 MiB in 16 bits, which stay in an H100's second-level cache."""

MOST_INT8_COLUMNS = 65536
"""Columns that share a scale, with int8 activations: as many as 32-bit sums hold."""


@cache
def is_batch_invariant() -> bool:
    """Whether `QUIRE_BATCH_INVARIANT` asks for results that do not depend on the batch.

    Raises:
        ValueError: It is neither 0 nor 1.
    """
    text = os.environ.get(INVARIANT_VARIABLE, "")
    if text not in ("", "0", "1"):
        raise ValueError(f"{INVARIANT_VARIABLE} must be 0 or 1, got {text!r}")
    return text == "1"


def prepare(weight: LinearWeight, *, release: bool = False) -> PackedInteger | None:
    """Repacks an integer weight for `linear`, on its own device; does nothing twice.

    Float weights are read as they are, and stay so.

    Args:
        weight: Its `packed` is set.
        release: Frees the canonical form, so that the weight is in memory once. `reference.dequantize` then
            unpacks, and `PackedInteger.rows_as` gives single rows.

    Returns:
        The packed form, or None for a float weight.
    """
    if weight.format not in PACKED_FORMATS:
        return None
    packed: PackedInteger = weight.packed or pack(weight)
    weight.packed = packed
    if release:
        weight.data = packed.data.new_empty(0)
        weight.scales = weight.zeros = weight.order = None
    return packed


def linear(x: Tensor, weight: LinearWeight, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """`reference.linear`; see the module about the order of sums."""
    n, k = weight.out_features, weight.in_features
    shape = (*x.shape[:-1], n)
    if x.shape[-1] != k:
        raise ValueError(f"linear takes {k} input features, got x of shape {tuple(x.shape)}")
    if out is not None and (out.shape != shape or not out.is_contiguous()):
        raise ValueError(f"the result is contiguous {list(shape)}, got an out of shape {list(out.shape)}")
    if bias is not None and bias.numel() != n:
        raise ValueError(f"a bias of {n} values is needed, got shape {tuple(bias.shape)}")
    is_float = weight.format not in BITS
    if is_float and out is None and not is_batch_invariant():
        return F.linear(x, weight.data.to(x.dtype), bias)
    if not is_float and weight.packed is None and unsupported(weight) is not None:
        return reference.linear(x, weight, bias, out)
    y = torch.empty(shape, dtype=x.dtype, device=x.device) if out is None else out
    rows, target = _rows(x, k), y.view(-1, n)
    if not rows.shape[0] or not n:
        return y
    if is_float:
        _float_product(rows, weight.data.to(x.dtype), bias, target)
    else:
        _integer_product(rows, weight, bias, target)
    return y


def _rows(x: Tensor, size: int) -> Tensor:
    """x as `[M, K]`, a copy only where neighbours in a row are not side by side."""
    rows = x.reshape(-1, size)
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _float_product(x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
    if not is_batch_invariant():
        _cublas(x, weight, bias, y)
        return
    multiply(x, None, weight if weight.stride(1) == 1 else weight.contiguous(), bias, y, True)


def _integer_product(x: Tensor, weight: LinearWeight, bias: Tensor | None, y: Tensor) -> None:
    packed: PackedInteger = weight.packed or pack(weight)
    weight.packed = packed
    if packed.order is not None:
        x = x.index_select(1, packed.order)
    if weight.int8_activations:
        columns = min(packed.group_size, packed.in_features)
        if columns > MOST_INT8_COLUMNS:
            raise ValueError(
                f"int8 activations take at most {MOST_INT8_COLUMNS} columns that share a scale, got {columns}"
            )
        q, scales = quantize_rows(x)
        multiply(q, scales, packed, bias, y, is_batch_invariant())
    elif x.shape[0] <= MOST_TILE_ROWS or is_batch_invariant():
        multiply(x, None, packed, bias, y, is_batch_invariant())
    else:
        _in_panels(x, packed, bias, y)


def _in_panels(x: Tensor, packed: PackedInteger, bias: Tensor | None, y: Tensor) -> None:
    """The product with some output channels after the others, each written out for cuBLAS."""
    n = packed.out_features
    step = max(64, PANEL_VALUES // packed.in_features // 64 * 64)
    for first in range(0, n, step):
        last = min(first + step, n)
        panel = dequantize(packed, first, last, x.dtype)
        _cublas(x, panel, None if bias is None else bias[first:last], y[:, first:last])


def _cublas(x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
    """`y = x @ W.T + bias` by torch, of x and a weight of one dtype. y may be a wider one."""
    if y.dtype == x.dtype and (bias is None or bias.dtype == x.dtype):
        if bias is None:
            torch.mm(x, weight.t(), out=y)
        else:
            torch.addmm(bias, x, weight.t(), out=y)
        return
    if y.dtype == torch.float32 and x.is_cuda:
        # cuBLAS sums in fp32, and need not round what is asked for in fp32: the logits.
        torch.mm(x, weight.t(), out_dtype=torch.float32, out=y)
    else:
        y.copy_(torch.mm(x, weight.t()))
    if bias is not None:
        y += bias

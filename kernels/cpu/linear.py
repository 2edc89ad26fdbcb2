"""Linear layers in C++: the packed forms of weights, and the products with them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..types import LinearWeight, WeightFormat
from .extension import _C, DTYPE_CODES, as_rows, dtype_code
from .recorder import empty

PANEL = 32
"""Rows of a weight that lie side by side in its packed form."""

PACKED_LAYOUT = 1
"""Version of the packed forms; a packed weight that was stored by another version must not be used."""

MOST_INT8_COLUMNS = 65536
"""Input features of a product with int8 activations: as many as its 32-bit sums hold."""

PACKED_FORMATS: tuple[WeightFormat, ...] = ("float32", "bfloat16", "int8", "int4")
"""Formats that `prepare` repacks."""

_SCALE_CODES: dict[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_BITS: dict[WeightFormat, int] = {"int8": 8, "int4": 4}


def _check_index(index: Tensor) -> Tensor:
    if index.dtype != torch.int64:
        raise TypeError(f"rows are numbered in int64, got {index.dtype}")
    return index.contiguous()


@dataclass(frozen=True, slots=True)
class PackedDense:
    """A float weight in the order in which the kernels read it.

    Attributes:
        data: `[N / 32, ceil(K / w), 32, w]`, where w is 1 for float32 and 2 for bfloat16 (neighbouring
            columns that one dot-product instruction takes). Rows and columns past N and K are zeros.
        out_features: N.
        in_features: K.
    """

    data: Tensor
    out_features: int
    in_features: int

    def unpack(self) -> Tensor:
        """The weight as `[N, K]`, bit for bit what was packed; a copy."""
        panels, steps, _, word = self.data.shape
        rows = self.data.permute(0, 2, 1, 3).reshape(panels * PANEL, steps * word)
        return rows[: self.out_features, : self.in_features]

    def rows_as(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows `index` in a dtype. Raises IndexError for a row that is not there."""
        index = _check_index(index)
        out = empty((index.shape[0], self.in_features), dtype)
        _C.read_dense_rows(
            index.data_ptr(),
            index.shape[0],
            self.data.data_ptr(),
            DTYPE_CODES[self.data.dtype],
            self.out_features,
            self.in_features,
            out.data_ptr(),
            dtype_code(out),
        )
        return out


@dataclass(frozen=True, slots=True)
class PackedQuantized:
    """An int8 or int4 weight as `QuantizedLayout` in csrc/kernels.h describes it.

    Attributes:
        data: uint8, panels of 32 output channels.
        format: int8 or int4.
        out_features: N.
        in_features: K.
        group_size: Columns that share a scale.
        scale_dtype: Of the scales within `data`.
        asymmetric: Whether each group has a zero point.
        order: As `LinearWeight.order`.
    """

    data: Tensor
    format: WeightFormat
    out_features: int
    in_features: int
    group_size: int
    scale_dtype: torch.dtype
    asymmetric: bool
    order: Tensor | None = None

    @property
    def layout(self) -> tuple[int, int, int, int, int, bool]:
        """Bits, N, K, group size, the code of the scales' dtype, asymmetry: as the extension takes them."""
        return (
            _BITS[self.format],
            self.out_features,
            self.in_features,
            self.group_size,
            _SCALE_CODES[self.scale_dtype],
            self.asymmetric,
        )

    def unpack(self) -> Tensor:
        """The weight as fp32 `[N, K]`, in the order of x's columns."""
        return self.rows_as(torch.arange(self.out_features), torch.float32)

    def rows_as(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows `index` in a dtype. Raises IndexError for a row that is not there."""
        index = _check_index(index)
        out = empty((index.shape[0], self.in_features), dtype)
        _C.read_quantized_rows(
            index.data_ptr(),
            index.shape[0],
            self.data.data_ptr(),
            *self.layout,
            0 if self.order is None else self.order.data_ptr(),
            out.data_ptr(),
            dtype_code(out),
        )
        return out


def prepare(weight: LinearWeight, *, release: bool = False) -> PackedDense | PackedQuantized:
    """Packs a weight for `linear`, which otherwise does so on first use; does nothing twice.

    Args:
        weight: Its `packed` is set.
        release: Frees the canonical form, so that the weight is in memory once. A loader does this weight by
            weight. `reference.dequantize` then unpacks.
    """
    packed = weight.packed
    if packed is None:
        packed = _pack_dense(weight) if weight.scales is None else _pack_quantized(weight, weight.scales)
        weight.packed = packed
    if release:
        weight.data = packed.data.new_empty(0)
        weight.scales = weight.zeros = weight.order = None
    return packed


def _pack_dense(weight: LinearWeight) -> PackedDense:
    data = weight.data
    if data.dtype not in DTYPE_CODES:
        raise TypeError(f"no packed form of {data.dtype} weights")
    if data.stride(-1) != 1:
        data = data.contiguous()
    n, k = weight.out_features, weight.in_features
    word = 1 if data.dtype == torch.float32 else 2
    target = torch.empty(-(-n // PANEL), -(-k // word), PANEL, word, dtype=data.dtype)
    _C.pack_weight(data.data_ptr(), DTYPE_CODES[data.dtype], data.stride(0), n, k, target.data_ptr())
    return PackedDense(target, n, k)


def _pack_quantized(weight: LinearWeight, scales: Tensor) -> PackedQuantized:
    n, k, group = weight.out_features, weight.in_features, weight.group_size
    if group < 1 or (group < k and group % 8):
        raise ValueError(f"a group size must be a multiple of 8, got {group}")
    groups = -(-k // group)
    if scales.dtype not in _SCALE_CODES:
        raise TypeError(f"scales must be float32, bfloat16 or float16, got {scales.dtype}")
    columns = -(-k // 2) if weight.format == "int4" else k
    if weight.data.shape != (n, columns) or scales.shape != (n, groups):
        raise ValueError(
            f"an {weight.format} weight of [{n}, {k}] in groups of {group} needs data [{n}, {columns}] and "
            f"scales [{n}, {groups}], got {list(weight.data.shape)} and {list(scales.shape)}"
        )
    kind = torch.uint8 if weight.format == "int4" else torch.int8
    if weight.data.dtype != kind:
        raise TypeError(f"an {weight.format} weight has its data in {_name(kind)}, got {weight.data.dtype}")
    data, scales = weight.data.contiguous(), scales.contiguous()
    zeros = None if weight.zeros is None else _check_zeros(weight.zeros, scales, min(group, k))
    order = None if weight.order is None else weight.order.to(torch.int32).contiguous()
    if order is not None and not torch.equal(order.sort().values, torch.arange(k, dtype=torch.int32)):
        raise ValueError("the order of columns is no permutation")
    packed = PackedQuantized(
        torch.empty(0, dtype=torch.uint8), weight.format, n, k, group, scales.dtype, zeros is not None, order
    )
    target = torch.empty(_C.packed_bytes(*packed.layout), dtype=torch.uint8)
    _C.pack_quantized(
        data.data_ptr(),
        scales.data_ptr(),
        0 if zeros is None else zeros.data_ptr(),
        *packed.layout[:5],
        target.data_ptr(),
    )
    return replace(packed, data=target)


def _check_zeros(zeros: Tensor, scales: Tensor, columns: int) -> Tensor:
    """The zero points as the extension takes them; `columns` is how many share one."""
    if zeros.shape != scales.shape:
        raise ValueError(f"zero points must have the shape of the scales, got {list(zeros.shape)}")
    if zeros.is_floating_point():
        raise TypeError(f"zero points must be integers, got {zeros.dtype}")
    # With int8 activations, a group's sum of `(q - zero) * x` is computed in 32 bits.
    most = min(2**15, (2**31 - 1) // (127 * min(columns, MOST_INT8_COLUMNS)) - 128)
    if zeros.numel() > 0 and (int(zeros.min()) < -most or int(zeros.max()) >= most):
        raise ValueError(f"zero points of a group of {columns} columns must be in [-{most}, {most})")
    return zeros.to(torch.int16).contiguous()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def quantize_weight(
    dense: Tensor, format: WeightFormat, group_size: int, scale_dtype: torch.dtype = torch.float16
) -> LinearWeight:
    """See `reference.quantize_weight`; bit for bit the same."""
    dense = dense if dense.stride(-1) == 1 else dense.contiguous()
    n, k = dense.shape
    group_size = min(group_size, -(-k // 8) * 8)
    columns, kind = (-(-k // 2), torch.uint8) if format == "int4" else (k, torch.int8)
    data = torch.empty(n, columns, dtype=kind)
    scales = torch.empty(n, -(-k // group_size), dtype=scale_dtype)
    _C.quantize_weight(
        dense.data_ptr(),
        dtype_code(dense),
        dense.stride(0),
        n,
        k,
        group_size,
        _BITS[format],
        _SCALE_CODES[scale_dtype],
        data.data_ptr(),
        scales.data_ptr(),
    )
    return LinearWeight(format, n, k, data, scales, None, group_size)


def embedding(ids: Tensor, weight: LinearWeight, dtype: torch.dtype) -> Tensor:
    """See `reference.embedding`. Raises IndexError for an id that is not in the vocabulary."""
    packed: PackedDense | PackedQuantized = weight.packed or prepare(weight)
    return packed.rows_as(ids, dtype)


def linear(x: Tensor, weight: LinearWeight, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """`reference.linear`. Sums are fp32; a float weight is not rounded to the dtype of x first."""
    packed: PackedDense | PackedQuantized = weight.packed or prepare(weight)
    n, k = packed.out_features, packed.in_features
    shape = x.shape
    if shape[-1] != k:
        raise ValueError(f"linear takes {k} input features, got x of shape {tuple(shape)}")
    rows, num_rows, stride = as_rows(x)
    y = empty((*shape[:-1], n), x.dtype) if out is None else out
    if y.shape != (*shape[:-1], n) or not y.is_contiguous():
        raise ValueError(f"the result is contiguous {[*shape[:-1], n]}, got an out of shape {list(y.shape)}")
    bias_address = bias_code = 0
    if bias is not None:
        if bias.numel() != n:
            raise ValueError(f"a bias of {n} values is needed, got shape {tuple(bias.shape)}")
        bias = bias.contiguous()
        bias_address, bias_code = bias.data_ptr(), dtype_code(bias)
    operands = rows.data_ptr(), dtype_code(x), stride, num_rows, packed.data.data_ptr()
    result = bias_address, bias_code, y.data_ptr(), dtype_code(y)
    if isinstance(packed, PackedDense):
        _C.linear(*operands, DTYPE_CODES[packed.data.dtype], n, k, *result)
    else:
        order = 0 if packed.order is None else packed.order.data_ptr()
        _C.quantized_linear(*operands, *packed.layout, weight.int8_activations, order, *result)
    return y

"""Integer weights in the order in which the GPU's kernels read them, and single rows of them.

int4: words of 16 bits in `[ceil(K / 128), N, 32]`. Word j of a row has the columns j, 32 + j, 64 + j and
96 + j of a chunk of 128, from its lowest nibble on. So one shift and one mask make 32 neighbouring columns of
all words at once, which is what a tensor core takes at a time, without any value changing its place; and the
words of a tile are one piece of memory, whatever its height. Words have 16 bits as activations do, so that
values and words lie in registers alike.

int8: bytes in `[N, K]`, columns padded to whole blocks (`block_columns`); where there is nothing to pad, the
canonical data itself.

Scales are `[groups, N]` in their own dtype, and zero points, where there are any, int8 in the same shape.
Nothing is rounded: what is unpacked is what was packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..types import LinearWeight, WeightFormat
from .support import CompileCase, next_power_of_2

CHUNK = 128
"""Columns of a chunk of int4 words, and the most of a block of int8 columns."""

PLANE = 32
"""Columns that one nibble of all words of a chunk makes."""

PLANES = CHUNK // PLANE

NEUTRAL_NIBBLE = 8
"""The zero point of symmetric int4 weights."""

ZERO_RANGES: dict[WeightFormat, tuple[int, int]] = {"int4": (-112, 127), "int8": (-128, 127)}
"""Zero points that kernels take: of int4 weights, `q - zero` must be an int8."""

SCALE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BITS: dict[WeightFormat, int] = {"int4": 4, "int8": 8}

VALUES_AT_ONCE = 1 << 24
"""Values that are packed at once, which bounds what packing takes besides its result."""

ROW_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class PackedInteger:
    """An int4 or int8 weight as kernels read it; see the module.

    Attributes:
        data: int4: int16 `[ceil(K / 128), N, 32]`. int8: int8 `[N, columns]`.
        scales: `[groups, N]`.
        zeros: int8 in the shape of `scales`, or None for symmetric weights.
        format: int4 or int8.
        out_features: N.
        in_features: K.
        group_size: Columns that share a scale; K or more for one scale per row.
        order: As `LinearWeight.order`, or None.
    """

    data: Tensor
    scales: Tensor
    zeros: Tensor | None
    format: WeightFormat
    out_features: int
    in_features: int
    group_size: int
    order: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        parts = (self.data, self.scales, self.zeros, self.order)
        return sum(part.nbytes for part in parts if part is not None)

    @property
    def bits(self) -> int:
        """Of a value."""
        return BITS[self.format]

    @property
    def strides(self) -> tuple[int, int]:
        """Elements of `data` from one row of a block to the next, and from a block to the next."""
        if self.format == "int4":
            return PLANE, self.out_features * PLANE
        return self.data.stride(0), self.width

    @property
    def width(self) -> int:
        """Columns that are multiplied at once: they share a scale."""
        return PLANE if self.format == "int4" else block_columns(self.group_size, self.in_features)

    @property
    def planes(self) -> int:
        """Blocks of `width` columns in each block of `data`."""
        return PLANES if self.format == "int4" else 1

    def unpack(self) -> Tensor:
        """The weight as fp32 `[N, K]`, in the order of x's columns."""
        n, k = self.out_features, self.in_features
        if self.format == "int4":
            planes = [(self.data >> 4 * plane) & 15 for plane in range(PLANES)]
            # [chunks, planes, N, 32] -> [N, chunks, planes, 32]
            q = torch.stack(planes, 1).permute(2, 0, 1, 3).reshape(n, -1)[:, :k].float()
            zeros = float(NEUTRAL_NIBBLE) if self.zeros is None else self._per_column(self.zeros)
        else:
            q = self.data[:, :k].float()
            zeros = 0.0 if self.zeros is None else self._per_column(self.zeros)
        values = (q - zeros) * self._per_column(self.scales)
        if self.order is None:
            return values
        return torch.empty_like(values).index_copy_(1, self.order.long(), values)

    def _per_column(self, values: Tensor) -> Tensor:
        """One value per group as one per column, fp32 `[N, K]`."""
        size = min(self.group_size, self.in_features)
        return values.float().repeat_interleave(size, dim=0)[: self.in_features].t()

    def rows_as(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows `index`, int64, in a dtype: what an embedding reads of a matrix that is tied to it."""
        if index.dtype != torch.int64:
            raise TypeError(f"rows are numbered in int64, got {index.dtype}")
        k = self.in_features
        y = torch.empty(index.shape[0], k, dtype=dtype, device=self.data.device)
        if y.numel():
            row_stride, block_stride = self.strides
            block = min(ROW_BLOCK, next_power_of_2(k))
            read_rows_kernel[(index.shape[0], triton.cdiv(k, block))](
                index.contiguous(),
                self.data,
                self.scales,
                self.scales if self.zeros is None else self.zeros,
                index if self.order is None else self.order,
                y,
                self.out_features,
                k,
                row_stride,
                block_stride,
                min(self.group_size, k),
                HAS_ZEROS=self.zeros is not None,
                HAS_ORDER=self.order is not None,
                BITS=self.bits,
                BLOCK=block,
                num_warps=row_warps(block),
            )
        return y


def block_columns(group_size: int, columns: int) -> int:
    """Columns of a block of an int8 weight: as many as share a scale, at most 128."""
    return CHUNK if group_size >= columns else gcd(group_size, CHUNK)


def unsupported(weight: LinearWeight) -> str | None:
    """Why kernels cannot take an integer weight, from its format alone, or None."""
    group, k = weight.group_size, weight.in_features
    if group < k and group % PLANE:
        return f"groups of {group} columns, which are no multiple of {PLANE}"
    return None


def pack(weight: LinearWeight) -> PackedInteger:
    """Repacks an integer weight on its own device.

    Raises:
        TypeError: A tensor has another dtype than `LinearWeight` says.
        ValueError: A shape, a zero point or the order is not possible; names it.
    """
    scales = _checked(weight)
    n, k, group = weight.out_features, weight.in_features, weight.group_size
    order = None if weight.order is None else _checked_order(weight.order, k)
    zeros = None if weight.zeros is None else _checked_zeros(weight.zeros, scales, weight.format)
    data = _int4_words(weight.data, n, k) if weight.format == "int4" else _int8_blocks(weight.data, group, k)
    return PackedInteger(data, scales.t().contiguous(), zeros, weight.format, n, k, group, order)


def _checked(weight: LinearWeight) -> Tensor:
    """The scales of a weight whose tensors are what they should be."""
    n, k, group, scales = weight.out_features, weight.in_features, weight.group_size, weight.scales
    if scales is None or weight.format not in BITS:
        raise TypeError(f"only int4 and int8 weights are packed, got {weight.format}")
    reason = unsupported(weight)
    if group < 1 or reason is not None:
        raise ValueError(reason or f"a group size must be at least 1, got {group}")
    if scales.dtype not in SCALE_DTYPES:
        raise TypeError(f"scales must be float32, bfloat16 or float16, got {scales.dtype}")
    columns, kind = (-(-k // 2), torch.uint8) if weight.format == "int4" else (k, torch.int8)
    if weight.data.dtype != kind:
        raise TypeError(f"an {weight.format} weight has its data in {kind}, got {weight.data.dtype}")
    groups = -(-k // group)
    if weight.data.shape != (n, columns) or scales.shape != (n, groups):
        raise ValueError(
            f"an {weight.format} weight of [{n}, {k}] in groups of {group} needs data [{n}, {columns}] and "
            f"scales [{n}, {groups}], got {list(weight.data.shape)} and {list(scales.shape)}"
        )
    return scales


def _checked_order(order: Tensor, columns: int) -> Tensor:
    order = order.to(torch.int32).contiguous()
    if not torch.equal(order.sort().values, torch.arange(columns, dtype=torch.int32, device=order.device)):
        raise ValueError("the order of columns is no permutation")
    return order


def _checked_zeros(zeros: Tensor, scales: Tensor, format: WeightFormat) -> Tensor:
    """Zero points as int8 `[groups, N]`."""
    if zeros.shape != scales.shape:
        raise ValueError(f"zero points must have the shape of the scales, got {list(zeros.shape)}")
    if zeros.is_floating_point():
        raise TypeError(f"zero points must be integers, got {zeros.dtype}")
    low, high = ZERO_RANGES[format]
    if zeros.numel() and (int(zeros.min()) < low or int(zeros.max()) > high):
        found = f"{int(zeros.min())} to {int(zeros.max())}"
        raise ValueError(f"zero points of {format} weights must be in [{low}, {high}], got {found}")
    return zeros.to(torch.int8).t().contiguous()


def _int4_words(data: Tensor, n: int, k: int) -> Tensor:
    chunks = -(-k // CHUNK)
    words = torch.empty(chunks, n, PLANE, dtype=torch.int16, device=data.device)
    step = max(1, VALUES_AT_ONCE // max(k, 1))
    for start in range(0, n, step):
        rows = data[start : start + step]
        q = torch.stack((rows & 15, rows >> 4), -1).flatten(1)[:, :k]
        q = F.pad(q, (0, chunks * CHUNK - k), value=NEUTRAL_NIBBLE)
        planes = q.view(len(rows), chunks, PLANES, PLANE).to(torch.int16)
        word = planes[:, :, 0]
        for plane in range(1, PLANES):
            word = word | planes[:, :, plane] << 4 * plane
        words[:, start : start + step] = word.transpose(0, 1)
    return words


def _int8_blocks(data: Tensor, group_size: int, k: int) -> Tensor:
    missing = -k % block_columns(group_size, k)
    return F.pad(data, (0, missing)) if missing else data.contiguous()


@triton.jit
def read_rows_kernel(
    index_ptr,
    data_ptr,
    scales_ptr,
    zeros_ptr,
    order_ptr,
    y_ptr,
    num_rows,
    size,
    row_stride,
    block_stride,
    group_size,
    HAS_ZEROS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A piece of one row."""
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(index_ptr + place)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    if BITS == 4:
        words = data_ptr + (columns // 128).to(tl.int64) * block_stride + row * row_stride + columns % 32
        word = tl.load(words, mask=inside, other=0).to(tl.int32)
        q = (word >> (columns % 128) // 32 * 4) & 15
    else:
        q = tl.load(data_ptr + row * row_stride + columns, mask=inside, other=0).to(tl.int32)
    group = (columns // group_size).to(tl.int64) * num_rows + row
    if HAS_ZEROS:
        q -= tl.load(zeros_ptr + group, mask=inside, other=0).to(tl.int32)
    elif BITS == 4:
        q -= 8
    scale = tl.load(scales_ptr + group, mask=inside, other=0.0).to(tl.float32)
    target = columns
    if HAS_ORDER:
        target = tl.load(order_ptr + columns, mask=inside, other=0)
    y = (q.to(tl.float32) * scale).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + place * size + target, y, mask=inside)


def row_warps(block: int) -> int:
    """Warps of a program: 8 columns for each thread."""
    return max(1, block // 256)


def compile_cases() -> Iterator[CompileCase]:
    """Both widths: as quire rounds them, and as a GPTQ checkpoint with an activation order has them."""
    for bits in (4, 8):
        for is_plain in (True, False):
            pointers = {
                "index_ptr": "*i64",
                "data_ptr": "*i16" if bits == 4 else "*i8",
                "scales_ptr": "*fp16",
                "zeros_ptr": "*fp16" if is_plain else "*i8",
                "order_ptr": "*i64" if is_plain else "*i32",
                "y_ptr": "*bf16",
            }
            sizes = ("num_rows", "size", "row_stride", "block_stride", "group_size")
            yield CompileCase(
                f"rows of int{bits}{'' if is_plain else ' with zeros and order'}",
                read_rows_kernel,
                pointers | dict.fromkeys(sizes, "i32"),
                {"HAS_ZEROS": not is_plain, "HAS_ORDER": not is_plain, "BITS": bits, "BLOCK": ROW_BLOCK},
                num_warps=row_warps(ROW_BLOCK),
                aligned=(*pointers, *sizes),
            )

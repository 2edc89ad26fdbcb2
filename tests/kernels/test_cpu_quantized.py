"""The C++ column: int8 and int4 weights, from rounding and packing them to products and single rows.

Every format against the reference on every instruction set, and the same bits in any company.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from kernel_inputs import FLOATS, random
from quire.kernels import cpu, reference
from quire.kernels.types import LinearWeight

pytestmark = pytest.mark.skipif(
    cpu.unavailable() is not None,
    reason="the C++ extension is not built: no compiler when quire was installed",
)

Format = Literal["int8", "int4"]

FORMATS: tuple[Format, ...] = ("int8", "int4")
SCALES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    before, torch_before = cpu.num_threads(), torch.get_num_threads()
    torch.set_num_threads(1)  # what the tests compute themselves is too small for torch's threads
    yield
    torch.set_num_threads(torch_before)
    cpu.set_num_threads(before)


@pytest.fixture(name="format", params=FORMATS)
def _format(request: pytest.FixtureRequest) -> Format:
    return request.param


@pytest.fixture(params=[True, False], ids=["int8 x", "float x"])
def int8_activations(request: pytest.FixtureRequest) -> bool:
    return request.param


def pack_nibbles(q: Tensor) -> Tensor:
    """Values 0..15 `[N, K]` as bytes `[N, ceil(K / 2)]`, what is past an odd end random."""
    n, k = q.shape
    if k % 2:
        q = torch.cat((q, torch.randint(16, (n, 1), generator=torch.Generator().manual_seed(k))), 1)
    return (q[:, ::2] | q[:, 1::2] << 4).to(torch.uint8)


def make_weight(
    format: Format,
    n: int,
    k: int,
    group_size: int,
    *,
    scale_dtype: torch.dtype = torch.float32,
    asymmetric: bool = False,
    ordered: bool = False,
    int8_activations: bool = True,
    seed: int = 0,
) -> LinearWeight:
    """Every value that the format has, scales of both signs, and all zero points if asymmetric."""
    generator = torch.Generator().manual_seed(seed)
    groups = -(-k // group_size)

    def integers(low: int, high: int, columns: int) -> Tensor:
        return torch.randint(low, high, (n, columns), generator=generator)

    q = integers(-128, 128, k) if format == "int8" else integers(0, 16, k)
    scales = torch.rand(n, groups, generator=generator) * 0.02 + 0.001
    scales *= integers(0, 2, groups) * 2 - 1
    zeros = integers(-128, 128, groups) if format == "int8" else integers(0, 17, groups)
    return LinearWeight(
        format,
        n,
        k,
        q.to(torch.int8) if format == "int8" else pack_nibbles(q),
        scales.to(scale_dtype),
        zeros.to(torch.int16) if asymmetric else None,
        group_size,
        torch.randperm(k, generator=generator).int() if ordered else None,
        int8_activations,
    )


def assert_product(
    actual: Tensor, x: Tensor, weight: LinearWeight, bias: Tensor | None, dtype: torch.dtype
) -> None:
    """`actual` is `reference.linear`, up to a few roundings of each summand and one of the result."""
    w = reference.dequantize(weight).double()
    if weight.int8_activations:
        q, scale = reference.quantize_rows(x)
        inputs = q.double() * scale.double()
    else:
        inputs = x.double()
    shift = torch.zeros(()) if bias is None else bias.double()
    exact = inputs @ w.T + shift
    allowed = 4e-7 * (inputs.abs() @ w.abs().T + shift.abs())
    if dtype == torch.bfloat16:
        allowed += exact.abs() * 2**-8
    assert actual.dtype == dtype
    assert actual.shape == exact.shape
    worst = ((actual.double() - exact).abs() / allowed.clamp(min=1e-30)).max().item()
    assert worst <= 1, f"differs by {worst:.3g} times what is allowed"


# M, N, K, group size: each of M around the tiles' heights; N and K odd, and no multiples of 4 or 8; groups
# of 8 to whole rows, ragged last ones, and more columns than there are.
SHAPES = [(1, 1, 1, 8), (1, 32, 8, 8), (2, 33, 9, 9), (2, 7, 12, 64), (3, 31, 65, 8), (4, 64, 100, 24)]
SHAPES += [(5, 100, 127, 32), (6, 65, 130, 64), (7, 96, 257, 128), (13, 40, 301, 301), (32, 70, 514, 256)]
SHAPES += [(33, 257, 896, 128), (130, 65, 66, 16), (1100, 37, 72, 32), (2050, 5, 20, 16), (1, 999, 1030, 128)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear(isa: str, format: Format, int8_activations: bool, shape: tuple[int, int, int, int]) -> None:
    m, n, k, group_size = shape
    for i, (asymmetric, ordered) in enumerate(itertools.product([False, True], repeat=2)):
        weight = make_weight(
            format,
            n,
            k,
            group_size,
            scale_dtype=SCALES[(i + m) % 3],
            asymmetric=asymmetric,
            ordered=ordered,
            int8_activations=int8_activations,
        )
        dtype = FLOATS[(i + n) % 2]
        x = random(m, k, dtype=dtype)
        assert_product(cpu.linear(x, weight), x, weight, None, dtype)


@pytest.mark.parametrize("group_size", [16, 56])
def test_linear_takes_every_combination(
    isa: str, format: Format, int8_activations: bool, group_size: int
) -> None:
    n, k = 45, 91
    for scale_dtype, asymmetric, ordered in itertools.product(SCALES, [False, True], [False, True]):
        weight = make_weight(
            format,
            n,
            k,
            group_size,
            scale_dtype=scale_dtype,
            asymmetric=asymmetric,
            ordered=ordered,
            int8_activations=int8_activations,
        )
        for dtype, out_dtype, bias_dtype in itertools.product(FLOATS, FLOATS, [None, *FLOATS]):
            x = random(8, k, dtype=dtype)
            bias = None if bias_dtype is None else random(n, dtype=bias_dtype, seed=2)
            out = torch.empty(x.shape[0], weight.out_features, dtype=out_dtype)
            assert cpu.linear(x, weight, bias, out) is out
            assert_product(out, x, weight, bias, out_dtype)


def extreme_values(format: Format, n: int, k: int) -> tuple[Tensor, Tensor]:
    """Integers q `[N, K]` and x `[N, K]` whose products are the largest there are, and random ones."""
    low, high = (-128, 127) if format == "int8" else (0, 15)
    generator = torch.Generator().manual_seed(n)
    q = torch.randint(low, high + 1, (n, k), generator=generator)
    x = torch.randint(-127, 128, (n, k), generator=generator)
    q[0], q[1], q[2, ::2] = low, high, low
    x[0], x[1], x[2, 1::2] = 127, -127, 127
    x[:, 0] = 127  # so that the scale of each row is 1
    return q, x


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("group_size", [8, 40, 512])
def test_integer_products_are_exact(
    isa: str, format: Format, int8_activations: bool, group_size: int, asymmetric: bool
) -> None:
    n, k = 40, 512
    q, x = extreme_values(format, n, k)
    data = q.to(torch.int8) if format == "int8" else pack_nibbles(q)
    groups = -(-k // group_size)
    centre = 0 if format == "int8" else 8
    zeros = torch.full((n, groups), centre, dtype=torch.int16)
    if asymmetric:
        zeros[0], zeros[1], zeros[2:] = q.max().int(), q.min().int(), torch.arange(groups) % 16
    weight = LinearWeight(
        format, n, k, data, torch.ones(n, groups), zeros if asymmetric else None, group_size, None
    )
    weight.int8_activations = int8_activations
    expected = x @ (q - zeros.long().repeat_interleave(group_size, 1)[:, :k]).T
    # Every partial sum is an integer that fp32 holds exactly.
    assert expected.abs().max() < 2**24
    for rows in (x, x[:1], x[1:4]):
        y = cpu.linear(rows.float(), weight)
        assert torch.equal(y.long(), expected[: len(rows)] if len(rows) != 3 else expected[1:4])
        assert torch.equal(y, y.round())


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_row_has_the_same_bits_in_any_batch(
    isa: str, format: Format, int8_activations: bool, dtype: torch.dtype
) -> None:
    for n, k, group_size in ((200, 301, 32), (65, 898, 898)):
        weight = make_weight(format, n, k, group_size, int8_activations=int8_activations, ordered=n == 65)
        x, bias = random(300, k, dtype=dtype), random(n, dtype=dtype, seed=2)
        cpu.set_num_threads(1)
        whole = cpu.linear(x, weight, bias)
        for threads in (1, 2):
            cpu.set_num_threads(threads)
            assert torch.equal(cpu.linear(x, weight, bias), whole)
            for m in (1, 2, 3, 5, 6, 7, 13, 32, 128):
                for first in (0, 17, 300 - m):
                    part = cpu.linear(x[first : first + m], weight, bias)
                    assert torch.equal(part, whole[first : first + m]), (threads, m, first)


def test_a_column_has_the_same_bits_in_any_weight(isa: str, format: Format, int8_activations: bool) -> None:
    weight = make_weight(
        format, 200, 150, 32, asymmetric=True, ordered=True, int8_activations=int8_activations
    )
    assert weight.scales is not None
    assert weight.zeros is not None
    for m in (1, 9):
        x = random(m, 150, dtype=torch.bfloat16)
        whole = cpu.linear(x, weight)
        for begin, end in ((0, 1), (3, 40), (64, 200), (199, 200)):
            rows = LinearWeight(
                format,
                end - begin,
                150,
                weight.data[begin:end],
                weight.scales[begin:end],
                weight.zeros[begin:end],
                32,
                weight.order,
                int8_activations,
            )
            assert torch.equal(cpu.linear(x, rows), whole[:, begin:end])


def test_strided_rows_and_more_dimensions(format: Format, int8_activations: bool) -> None:
    weight = make_weight(format, 20, 33, 8, int8_activations=int8_activations)
    x = random(6, 100, dtype=torch.float32)
    expected = cpu.linear(x[:, 10:43].contiguous(), weight)
    assert torch.equal(cpu.linear(x[:, 10:43], weight), expected)
    assert torch.equal(cpu.linear(x[:, 10:43].reshape(2, 3, 33), weight), expected.view(2, 3, 20))
    columns = x[:, 10:43].t().contiguous().t()  # neighbours in a row are far apart
    assert torch.equal(cpu.linear(columns, weight), expected)
    assert torch.equal(cpu.linear(x[2:3, 10:43].expand(4, 33), weight), expected[2:3].expand(4, 20))
    assert cpu.linear(x[:0, 10:43], weight).shape == (0, 20)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_poisoned_row_keeps_to_itself(
    isa: str, format: Format, int8_activations: bool, dtype: torch.dtype, poison: float
) -> None:
    weight = make_weight(format, 50, 65, 16, int8_activations=int8_activations)
    x = random(20, 65, dtype=dtype)
    clean = cpu.linear(x, weight)
    for column in (0, 64):
        poisoned = x.clone()
        poisoned[7, column] = poison
        y = cpu.linear(poisoned, weight)
        assert not y[7].isfinite().any()
        y[7] = clean[7]
        assert torch.equal(y, clean)


def test_rows_at_the_edges_of_floats(isa: str, format: Format) -> None:
    """Rows of zeros, and rows so small that 127 / max|x| is infinite, are as exact as fp32 can be."""
    weight = make_weight(format, 40, 64, 32)
    assert weight.scales is not None
    weight.scales *= 1e25  # so that the products of small rows are no smaller than others
    x = random(6, 64, dtype=torch.float32)
    for row, size in enumerate((0.0, 1e-44, 1e-38, 1e-36, 1e9)):
        x[row] *= size
    y = cpu.linear(x, weight)
    assert y[0].eq(0).all()
    assert_product(y, x, weight, None, torch.float32)


# How a weight is rounded.


def bits_of(x: Tensor) -> Tensor:
    """x as integers, so that zeros of different sign differ."""
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int16)


def dense_with_special_groups(group_size: int, dtype: torch.dtype) -> Tensor:
    """Rows `[N, 2.5 groups]` of zeros, of ties, of values that are hard to scale, and of random ones."""
    k = 2 * group_size + group_size // 2 - 1
    rows = random(40, k, dtype=torch.float32)
    rows[0] = 0
    rows[1] = -0.0
    rows[2, ::3], rows[2, 1::3] = 5.0, -5.0  # of two largest, the negative one decides
    rows[3, ::3], rows[3, 1::3] = -5.0, 5.0
    rows[4] = rows[4].abs()
    rows[5] = -rows[5].abs()
    rows[6, : k // 2] = 0
    # Halves between two values: with a scale of 1, they are rounded to even.
    rows[7] = torch.arange(k) % 15 - 7.5
    rows[7, ::group_size], rows[7, 1::group_size] = -8.0, 0.5
    rows[8] = torch.arange(k) % 253 - 126.5
    rows[8, ::group_size] = 127.0
    # Scales that are subnormal in fp16, in fp32, or zero in either; and some past the end of fp16.
    small, tiny, large = (
        (1e-2, 1e-4, 1e-5, 3e-6, 1e-6),
        (1e-7, 1e-36, 3e-37, 1e-38, 1e-44),
        (1e4, 1e6, 1e7, 1e30),
    )
    for row, size in enumerate((*small, *tiny, *large), 10):
        rows[row] *= size
    return rows.to(dtype)


@pytest.mark.parametrize("scale_dtype", SCALES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("group_size", [8, 32, 72, 2000])
def test_rounding_is_the_references_bit_for_bit(
    isa: str, format: Format, group_size: int, dtype: torch.dtype, scale_dtype: torch.dtype
) -> None:
    dense = dense_with_special_groups(group_size, dtype)
    for matrix in (dense, dense[:, 1:], dense[:, : group_size // 2 + 1], dense[1:, ::2], dense[5:6]):
        for size in (group_size, 8192):
            actual = cpu.quantize_weight(matrix, format, size, scale_dtype)
            expected = reference.quantize_weight(matrix, format, size, scale_dtype)
            assert torch.equal(actual.data, expected.data)
            assert actual.scales is not None
            assert expected.scales is not None
            assert torch.equal(bits_of(actual.scales), bits_of(expected.scales))
            assert (actual.format, actual.group_size) == (expected.format, expected.group_size)
            assert (actual.out_features, actual.in_features) == tuple(matrix.shape)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_poisoned_weight_does_not_become_a_number(
    isa: str, format: Format, dtype: torch.dtype, poison: float
) -> None:
    for k, group_size, column in ((70, 16, 20), (70, 16, 69), (40, 40, 0), (2500, 2500, 1)):
        dense = random(5, k, dtype=dtype)
        dense[2, column] = poison
        weights = [f(dense, format, group_size) for f in (cpu.quantize_weight, reference.quantize_weight)]
        assert torch.equal(weights[0].data, weights[1].data)
        for weight in weights:
            assert weight.scales is not None
            assert weight.scales.isnan().sum() == 1
            values = reference.dequantize(weight)
            begin = column // group_size * group_size
            assert not values[2, begin : begin + group_size].isfinite().any()
            values[2, begin : begin + group_size] = 0
            assert values.isfinite().all()


def test_rounding_does_not_depend_on_threads(format: Format) -> None:
    dense = random(500, 900, dtype=torch.bfloat16)
    results: list[LinearWeight] = []
    for threads in (1, 2, 3):
        cpu.set_num_threads(threads)
        results.append(cpu.quantize_weight(dense, format, 64))
    for other in results[1:]:
        assert torch.equal(other.data, results[0].data)
        assert other.scales is not None
        assert results[0].scales is not None
        assert torch.equal(other.scales, results[0].scales)


# Packing, and reading single rows.


@pytest.mark.parametrize("scale_dtype", SCALES)
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_packed_weight_unpacks_to_the_same_bits(
    format: Format, scale_dtype: torch.dtype, asymmetric: bool, ordered: bool
) -> None:
    for n, k, group_size in ((1, 1, 8), (32, 8, 8), (33, 7, 7), (70, 65, 16), (64, 100, 100), (31, 130, 64)):
        weight = make_weight(
            format, n, k, group_size, scale_dtype=scale_dtype, asymmetric=asymmetric, ordered=ordered
        )
        expected = reference.dequantize(weight)
        packed = cpu.prepare(weight, release=True)
        assert weight.data.numel() == 0
        assert torch.equal(packed.unpack(), expected)
        assert torch.equal(reference.dequantize(weight), expected)
        assert cpu.prepare(weight) is packed


def some_weights(n: int, k: int) -> list[LinearWeight]:
    dense = [LinearWeight.from_dense(random(n, k, dtype=dtype)) for dtype in FLOATS]
    return dense + [
        make_weight(kind, n, k, 16, scale_dtype=scale_dtype, asymmetric=asymmetric, ordered=asymmetric)
        for kind in FORMATS
        for scale_dtype in SCALES
        for asymmetric in (False, True)
    ]


@pytest.mark.parametrize("dtype", FLOATS)
def test_embedding(dtype: torch.dtype) -> None:
    for weight in some_weights(77, 45):
        rows = reference.dequantize(weight).to(dtype)
        generator = torch.Generator().manual_seed(3)
        for count in (0, 1, 200, 5000):
            ids = torch.randint(77, (count,), generator=generator)
            assert torch.equal(cpu.embedding(ids, weight, dtype), rows[ids])
        # Ids that are not contiguous are copied, and the copy lives as long as it is read.
        ids = torch.randint(77, (200_000, 2), generator=generator)[:, 1]
        assert torch.equal(cpu.embedding(ids[:1000], weight, dtype), rows[ids[:1000]])


def test_embedding_refuses_ids_that_are_not_there() -> None:
    for weight in some_weights(33, 16):
        for bad in (-1, 33, 2**40):
            with pytest.raises(IndexError, match=rf"row {bad} is not in \[0, 33\)"):
                cpu.embedding(torch.tensor([0, 32, bad, 1]), weight, torch.float32)
        with pytest.raises(TypeError, match="int64"):
            cpu.embedding(torch.zeros(3, dtype=torch.int32), weight, torch.float32)
        with pytest.raises(TypeError, match="float16"):
            cpu.embedding(torch.zeros(3, dtype=torch.int64), weight, torch.float16)


# What is refused.


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": torch.zeros(20, 31, dtype=torch.int8)}, ValueError, r"needs data \[20, 32\]"),
        ({"data": torch.zeros(19, 32, dtype=torch.int8)}, ValueError, r"needs data \[20, 32\]"),
        ({"data": torch.zeros(20, 32, dtype=torch.uint8)}, TypeError, "data in int8"),
        ({"data": torch.zeros(20, 32)}, TypeError, "data in int8"),
        ({"format": "int4", "data": torch.zeros(20, 16, dtype=torch.int8)}, TypeError, "data in uint8"),
        ({"format": "int4"}, ValueError, r"needs data \[20, 16\]"),
        ({"scales": torch.ones(20, 3)}, ValueError, r"scales \[20, 4\]"),
        ({"scales": torch.ones(20)}, ValueError, r"scales \[20, 4\]"),
        ({"scales": torch.ones(20, 4, dtype=torch.float64)}, TypeError, "scales must be .*float64"),
        ({"group_size": 16}, ValueError, r"scales \[20, 2\]"),
        ({"group_size": 12}, ValueError, "multiple of 8, got 12"),
        ({"group_size": 0}, ValueError, "multiple of 8, got 0"),
        ({"group_size": -8}, ValueError, "multiple of 8, got -8"),
        ({"zeros": torch.zeros(20, 3, dtype=torch.int16)}, ValueError, "zero points must have the shape"),
        ({"zeros": torch.zeros(20, 4)}, TypeError, "zero points must be integers"),
        ({"order": torch.arange(31, dtype=torch.int32)}, ValueError, "no permutation"),
        ({"order": torch.zeros(32, dtype=torch.int32)}, ValueError, "no permutation"),
        ({"order": torch.arange(1, 33, dtype=torch.int32)}, ValueError, "no permutation"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    fields: dict[str, Any] = {
        "format": "int8",
        "out_features": 20,
        "in_features": 32,
        "data": torch.zeros(20, 32, dtype=torch.int8),
        "scales": torch.ones(20, 4),
        "group_size": 8,
    }
    with pytest.raises(error, match=message):
        cpu.prepare(LinearWeight(**fields | changes))


def test_products_that_do_not_fit_are_refused(format: Format) -> None:
    weight = make_weight(format, 20, 32, 8)
    with pytest.raises(ValueError, match="32 input features"):
        cpu.linear(random(2, 31, dtype=torch.float32), weight)
    with pytest.raises(ValueError, match="bias of 20"):
        cpu.linear(random(2, 32, dtype=torch.float32), weight, random(19, dtype=torch.float32))
    with pytest.raises(TypeError, match="float16"):
        cpu.linear(random(2, 32, dtype=torch.float16), weight)
    with pytest.raises(TypeError, match="float16"):
        cpu.linear(random(2, 32, dtype=torch.float32), weight, None, torch.empty(2, 20, dtype=torch.float16))


def test_int8_activations_take_as_many_columns_as_32_bits_hold(isa: str) -> None:
    n, k = 2, 65536
    q = torch.full((n, k), -128, dtype=torch.int8)
    q[1] = 127
    weight = LinearWeight("int8", n, k, q, torch.ones(n, 1), None, k, None, True)
    x = torch.full((2, k), 127.0)
    x[1] = -127.0
    expected = x.double() @ q.double().T
    assert torch.equal(cpu.linear(x, weight).double(), expected.float().double())
    zeros = torch.tensor([[127], [-128]], dtype=torch.int16)
    shifted = LinearWeight("int8", n, k, q, torch.ones(n, 1), zeros, k, None, True)
    expected = x.double() @ (q.double() - zeros.double()).T
    assert torch.equal(cpu.linear(x, shifted).double(), expected.float().double())
    shifted = LinearWeight("int8", n, k, q, torch.ones(n, 1), zeros * 2, k, None, True)
    with pytest.raises(ValueError, match="zero points of a group of 65536"):
        cpu.linear(x, shifted)


def test_more_columns_take_float_activations_only() -> None:
    k = 65537
    weight = LinearWeight("int8", 1, k, torch.ones(1, k, dtype=torch.int8), torch.ones(1, 1), None, k)
    x = torch.ones(1, k)
    assert cpu.linear(x, weight).item() == k
    weight.int8_activations = True
    with pytest.raises(ValueError, match="65536 input features, got 65537"):
        cpu.linear(x, weight)


# Half precision, which plain C++ converts with its own arithmetic.


def test_every_half_is_read_as_numpy_reads_it(isa: str) -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    expected = torch.from_numpy(halves.astype(np.float32))
    numbers = ~expected.isnan()
    weight = LinearWeight(
        "int8",
        65536,
        1,
        torch.ones(65536, 1, dtype=torch.int8),
        torch.from_numpy(halves.copy()).view(-1, 1),
        None,
        8,
    )
    product = cpu.linear(torch.ones(1, 1), weight)[0]
    for actual in (product, cpu.prepare(weight).unpack()[:, 0]):
        assert torch.equal(actual[numbers], expected[numbers])
        assert actual[~numbers].isnan().all()


def test_floats_are_rounded_to_half_as_numpy_rounds_them(isa: str) -> None:
    """All halves, the floats in the middle between two, and the floats around those."""
    halves = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (halves[:-1] + halves[1:]) / 2  # exact: fp32 has 13 bits more
    exact = np.concatenate((halves, middles, [65519.996, 65520.0, 65536.0, 1e6, 1e37]), dtype=np.float32)
    below, above = np.nextafter(exact, np.float32(0)), np.nextafter(exact, np.float32(1e38))
    values = np.concatenate((exact, below, above))
    values = np.concatenate((values, -values))
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).view(np.int16)
    # The scale of a group is its value of largest magnitude, divided by -8, which is exact.
    weight = cpu.quantize_weight(torch.from_numpy(values * np.float32(-8)).view(-1, 1), "int4", 8)
    assert weight.scales is not None
    assert np.array_equal(weight.scales.view(torch.int16).numpy()[:, 0], expected)

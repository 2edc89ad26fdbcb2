"""The Triton linear layers against the reference: every format, every way that a product may take.

Results are compared with exact products, up to a few roundings of each summand and one of the result; and
the same rows have the same bits in any company.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kernel_inputs import random
from quire.kernels import reference
from quire.kernels.types import LinearWeight, WeightFormat

SCALES = (torch.float32, torch.bfloat16, torch.float16)

# M, N, K, group size. M around the tiles; N and K odd, whole tiles, and around the edges of groups, of chunks
# of 128 columns and of splits; groups of a row, with more columns than there are, and no power of two.
SHAPES = [
    (1, 64, 128, 128),
    (1, 7, 33, 64),
    (3, 65, 160, 32),
    (16, 128, 256, 128),
    (17, 70, 130, 64),
    (3, 33, 301, 301),
    (2, 40, 290, 96),
    (3, 40, 1100, 128),
    (2, 9, 1537, 1537),
    (130, 70, 97, 32),
]


@pytest.fixture(params=["int4", "int8"], name="format")
def _format(request: pytest.FixtureRequest) -> WeightFormat:
    return request.param


@pytest.fixture
def invariant(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs the test with QUIRE_BATCH_INVARIANT=1."""
    from quire.kernels.triton.linear import INVARIANT_VARIABLE, is_batch_invariant

    monkeypatch.setenv(INVARIANT_VARIABLE, "1")
    is_batch_invariant.cache_clear()
    yield
    monkeypatch.undo()
    is_batch_invariant.cache_clear()


def make_weight(
    format: WeightFormat,
    n: int,
    k: int,
    group_size: int,
    device: torch.device,
    *,
    scale_dtype: torch.dtype = torch.float16,
    asymmetric: bool = False,
    ordered: bool = False,
    int8_activations: bool = False,
    seed: int = 0,
) -> LinearWeight:
    """Every value that the format has, scales of both signs, and zero points of all checkpoints."""
    generator = torch.Generator().manual_seed(seed)
    groups = -(-k // group_size)

    def integers(low: int, high: int, columns: int) -> Tensor:
        return torch.randint(low, high, (n, columns), generator=generator)

    if format == "int4":
        q = integers(0, 16, k + k % 2)
        data, zeros = (q[:, ::2] | q[:, 1::2] << 4).to(torch.uint8), integers(0, 17, groups)
    else:
        data, zeros = integers(-128, 128, k).to(torch.int8), integers(-128, 128, groups)
    scales = (torch.rand(n, groups, generator=generator) * 0.02 + 0.001) * (integers(0, 2, groups) * 2 - 1)
    return LinearWeight(
        format,
        n,
        k,
        data.to(device),
        scales.to(scale_dtype).to(device),
        zeros.to(torch.int16).to(device) if asymmetric else None,
        group_size,
        torch.randperm(k, generator=generator).int().to(device) if ordered else None,
        int8_activations,
    )


def canonical(weight: LinearWeight) -> Tensor:
    """The values of a weight, computed on the CPU from its canonical form."""

    def on_cpu(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.cpu()

    return reference.dequantize(
        LinearWeight(
            weight.format,
            weight.out_features,
            weight.in_features,
            weight.data.cpu(),
            on_cpu(weight.scales),
            on_cpu(weight.zeros),
            weight.group_size,
            on_cpu(weight.order),
        )
    )


def assert_product(
    actual: Tensor,
    x: Tensor,
    weight: LinearWeight,
    bias: Tensor | None = None,
    *,
    rounds_weight: bool = False,
    dtype: torch.dtype | None = None,
) -> None:
    """`actual` is the exact product, up to a few roundings of each summand and one of the result.

    Args:
        actual: What is tested.
        x: The inputs.
        weight: In its canonical form.
        bias: What is added.
        rounds_weight: Whether the weight's values may be rounded to the dtype of x, as for cuBLAS.
        dtype: Of the result; that of x by default.
    """
    dtype = dtype or x.dtype
    w, x = canonical(weight).double(), x.cpu()
    if weight.int8_activations:
        q, scale = reference.quantize_rows(x)
        inputs = q.double() * scale.double()
    else:
        inputs = x.double()
    shift = torch.zeros(()) if bias is None else bias.cpu().double()
    exact = inputs @ w.T + shift
    allowed = 1e-6 * (inputs.abs() @ w.abs().T + shift.abs())
    unit = torch.finfo(dtype).eps / 2
    allowed += exact.abs() * unit
    if rounds_weight:
        allowed += torch.finfo(x.dtype).eps / 2 * (inputs.abs() @ w.abs().T)
    assert actual.dtype == dtype
    assert actual.shape == exact.shape
    worst = ((actual.cpu().double() - exact).abs() / allowed.clamp(min=1e-30)).max().item()
    assert worst <= 1, f"differs by {worst:.3g} times what is allowed"


@pytest.mark.parametrize("int8_activations", [False, True], ids=["float x", "int8 x"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear(
    format: WeightFormat,
    shape: tuple[int, int, int, int],
    int8_activations: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    from quire.kernels.triton.linear import MOST_TILE_ROWS, linear

    m, n, k, group_size = shape
    for i in range(2):
        weight = make_weight(
            format,
            n,
            k,
            group_size,
            device,
            scale_dtype=SCALES[(i + m) % 3],
            asymmetric=i == 1,
            ordered=(i + m + n) % 2 == 0,
            int8_activations=int8_activations,
        )
        x = random(m, k, dtype=dtype).to(device)
        bias = random(n, dtype=dtype, seed=2).to(device) if i % 2 else None
        y = linear(x, weight, bias)
        assert_product(y, x, weight, bias, rounds_weight=m > MOST_TILE_ROWS and not int8_activations)


def test_random_shapes(dtype: torch.dtype, device: torch.device) -> None:
    from quire.kernels.triton.linear import linear

    seed = int(torch.randint(2**31, ()))
    print(f"seed {seed}")
    generator = torch.Generator().manual_seed(seed)

    def pick(*choices: int) -> int:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    for _ in range(4):
        m, n = (int(torch.randint(1, high, (), generator=generator)) for high in (40, 100))
        k = int(torch.randint(1, 400, (), generator=generator))
        weight = make_weight(
            "int4" if pick(0, 1) else "int8",
            n,
            k,
            pick(32, 64, 128, 160, 1024),
            device,
            scale_dtype=SCALES[pick(0, 1, 2)],
            asymmetric=bool(pick(0, 1)),
            ordered=bool(pick(0, 1)),
            int8_activations=bool(pick(0, 1)),
            seed=seed,
        )
        x = random(m, k, dtype=dtype, seed=seed).to(device)
        print(m, n, k, weight.format, weight.group_size, weight.int8_activations)
        assert_product(linear(x, weight), x, weight)


@pytest.mark.parametrize("int8_activations", [False, True], ids=["float x", "int8 x"])
@pytest.mark.parametrize(("m", "k"), [(3, 1030), (130, 70)])
def test_the_result_goes_where_it_is_asked_for(
    format: WeightFormat,
    m: int,
    k: int,
    int8_activations: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Into a tensor of any dtype, from strided rows in more dimensions, with a bias of any dtype."""
    from quire.kernels.triton.linear import linear

    n = 20
    weight = make_weight(format, n, k, 64, device, int8_activations=int8_activations)
    wide = random(m, k + 30, dtype=dtype).to(device)
    x = wide[:, 10 : 10 + k]
    expected = linear(x.contiguous(), weight)
    assert torch.equal(linear(x, weight), expected)
    assert torch.equal(linear(x.t().contiguous().t(), weight), expected)
    rounds = m > 128 and not int8_activations
    for out_dtype, bias_dtype in ((torch.float32, dtype), (dtype, torch.float32)):
        bias = random(n, dtype=bias_dtype, seed=2).to(device)
        out = torch.full((m, 1, n), torch.nan, dtype=out_dtype, device=device)
        assert linear(x.unsqueeze(1), weight, bias, out) is out
        # What cuBLAS computes may be rounded to the dtype of x before the bias is added.
        if not rounds or (out_dtype == bias_dtype == dtype):
            assert_product(out.squeeze(1), x, weight, bias, rounds_weight=rounds, dtype=out_dtype)
        else:
            torch.testing.assert_close(
                out.squeeze(1).float(), (expected.float() + bias.float()), rtol=4e-3, atol=4e-3
            )


def test_no_rows(format: WeightFormat, dtype: torch.dtype, device: torch.device) -> None:
    from quire.kernels.triton.linear import linear

    for int8_activations in (False, True):
        weight = make_weight(format, 20, 64, 32, device, int8_activations=int8_activations)
        assert linear(torch.empty(0, 64, dtype=dtype, device=device), weight).shape == (0, 20)
        assert linear(torch.empty(2, 0, 64, dtype=dtype, device=device), weight).shape == (2, 0, 20)


@pytest.mark.parametrize("shape", [(1, 40, 33), (3, 7, 100), (130, 64, 128)], ids=str)
def test_float_weights(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> None:
    from quire.kernels.triton.linear import linear

    m, n, k = shape
    x, w = random(m, k, dtype=dtype).to(device), random(n, k, dtype=dtype, seed=1).to(device)
    bias, weight = random(n, dtype=dtype, seed=2).to(device), LinearWeight.from_dense(w)
    assert_product(linear(x, weight), x, weight)
    assert_product(linear(x, weight, bias), x, weight, bias)
    out = torch.full((m, n), torch.nan, dtype=dtype, device=device)
    assert linear(x, weight, bias, out) is out
    assert_product(out, x, weight, bias)
    wide = torch.full((m, n), torch.nan, dtype=torch.float32, device=device)
    assert linear(x, weight, None, wide) is wide
    torch.testing.assert_close(wide, out.float() - bias.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.usefixtures("invariant")
@pytest.mark.parametrize("shape", [(1, 40, 33), (3, 130, 100), (70, 33, 1100)], ids=str)
def test_float_weights_in_the_invariant_mode(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    from quire.kernels.triton.linear import linear

    m, n, k = shape
    x, w = random(m, k, dtype=dtype).to(device), random(n, 2 * k, dtype=dtype, seed=1).to(device)[:, :k]
    bias, weight = random(n, dtype=dtype, seed=2).to(device), LinearWeight.from_dense(w)
    assert_product(linear(x, weight), x, weight)
    for out_dtype in (torch.float32, dtype):
        out = torch.empty(m, n, dtype=out_dtype, device=device)
        assert_product(linear(x, weight, bias, out), x, weight, bias, dtype=out_dtype)
    turned = LinearWeight.from_dense(w.t().contiguous().t())
    assert torch.equal(linear(x, turned), linear(x, weight))


@pytest.mark.usefixtures("invariant")
@pytest.mark.parametrize("format", ["float", "int4", "int8"])
@pytest.mark.parametrize("int8_activations", [False, True], ids=["float x", "int8 x"])
def test_a_row_has_the_same_bits_in_any_batch(
    format: str, int8_activations: bool, dtype: torch.dtype, device: torch.device
) -> None:
    from quire.kernels.triton.linear import linear

    if format == "float" and int8_activations:
        pytest.skip("float weights take x as it is")
    n, k = 40, 1100
    if format == "float":
        weight = LinearWeight.from_dense(random(n, k, dtype=dtype, seed=1).to(device))
    else:
        kind: WeightFormat = "int4" if format == "int4" else "int8"
        weight = make_weight(kind, n, k, 32, device, asymmetric=True, int8_activations=int8_activations)
    x, bias = random(100, k, dtype=dtype).to(device), random(n, dtype=dtype, seed=2).to(device)
    whole = linear(x, weight, bias)
    for first, last in ((0, 1), (77, 78), (3, 20), (0, 64), (30, 99)):
        assert torch.equal(linear(x[first:last], weight, bias), whole[first:last]), (first, last)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # the interpreter's numpy
@pytest.mark.parametrize("int8_activations", [False, True], ids=["float x", "int8 x"])
def test_rows_of_one_tile_do_not_see_each_other(
    format: WeightFormat, int8_activations: bool, dtype: torch.dtype, device: torch.device
) -> None:
    """Without the invariant mode, too: other rows may even be NaN."""
    from quire.kernels.triton.linear import linear

    weight = make_weight(format, 20, 1100, 64, device, int8_activations=int8_activations)
    x = random(16, 1100, dtype=dtype).to(device)
    whole = linear(x, weight)
    for row in (0, 7, 15):
        assert torch.equal(linear(x[row : row + 1], weight), whole[row : row + 1])
    for poison in (float("nan"), float("inf"), -float("inf")):
        poisoned = x.clone()
        poisoned[7, 1099] = poison
        y = linear(poisoned, weight)
        assert not y[7].isfinite().any()
        y[7] = whole[7]
        assert torch.equal(y, whole)


def test_integer_products_are_exact(format: WeightFormat, device: torch.device) -> None:
    """With int8 activations, the largest products that there are, in splits of K and not."""
    from quire.kernels.triton.linear import linear

    n, k = 8, 1280
    weight = make_weight(format, n, k, k, device, asymmetric=True, int8_activations=True)
    assert weight.scales is not None
    assert weight.zeros is not None
    weight.scales.fill_(1.0)
    low, high = (0, 255) if format == "int4" else (-128, 127)
    weight.data[0], weight.data[1] = low, high
    weight.zeros[0], weight.zeros[1] = (16, 0) if format == "int4" else (127, -128)
    x = torch.randint(-127, 128, (3, k), generator=torch.Generator().manual_seed(0)).float().to(device)
    x[0], x[1], x[:, 0] = 127, -127, 127
    expected = x.cpu().double() @ canonical(weight).double().T
    out = linear(x, weight).cpu().double()
    assert ((out - expected).abs() <= 2**-24 * expected.abs()).all()


def test_rows_are_rounded_as_by_the_reference(dtype: torch.dtype, device: torch.device) -> None:
    """Bit for bit, with ties, rows of zeros, rows too small to divide by, infinite rows and NaN."""
    from quire.kernels.triton.linear_rows import quantize_rows

    x = random(14, 333, dtype=torch.float32)
    x[0] = torch.arange(333) % 255 - 127  # whole numbers
    x[1] = (torch.arange(333) % 253 - 126) + 0.5  # ties
    x[1, 0] = 127
    for row, size in enumerate((0.0, 1e-44, 1e-38, 1e-36, 1e-30, 1e9), start=2):
        x[row] *= size
    x[8, 5], x[9, 5], x[10, 0] = torch.nan, torch.inf, -torch.inf
    x[11] = torch.nan
    x = x.to(dtype)
    q, scales = quantize_rows(x.to(device))
    expected, expected_scales = reference.quantize_rows(x)
    assert torch.equal(q.cpu(), expected)
    assert torch.equal(scales.cpu().view(torch.int32), expected_scales.flatten().view(torch.int32))
    wide = torch.cat((x, x), 1).to(device)
    assert torch.equal(quantize_rows(wide[:, :333])[0].cpu(), expected)
    assert quantize_rows(x[:0].to(device))[0].shape == (0, 333)


# The packed form.


@pytest.mark.parametrize("shape", [(1, 1, 32), (33, 257, 32), (64, 128, 128), (7, 301, 301), (20, 160, 96)])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_packed_weight_unpacks_to_the_same_bits(
    format: WeightFormat,
    shape: tuple[int, int, int],
    asymmetric: bool,
    ordered: bool,
    device: torch.device,
) -> None:
    from quire.kernels.triton.linear import prepare

    n, k, group_size = shape
    for scale_dtype in SCALES[n % 2 : 3 : 2]:
        weight = make_weight(
            format, n, k, group_size, device, scale_dtype=scale_dtype, asymmetric=asymmetric, ordered=ordered
        )
        expected = canonical(weight)
        packed = prepare(weight)
        assert packed is not None
        assert prepare(weight) is packed
        assert torch.equal(canonical(weight), expected)
        assert prepare(weight, release=True) is packed
        assert weight.data.numel() == 0
        assert (weight.scales, weight.zeros, weight.order) == (None, None, None)
        assert torch.equal(packed.unpack().cpu(), expected)
        assert torch.equal(reference.dequantize(weight).cpu(), expected)
        index = torch.tensor([n - 1, 0, 0, n // 2], device=device)
        for dtype in (torch.float32, torch.float16):
            assert torch.equal(packed.rows_as(index, dtype).cpu(), expected[index.cpu()].to(dtype))
        assert packed.rows_as(index[:0], torch.float32).shape == (0, k)


def test_a_released_weight_multiplies_as_before(
    format: WeightFormat, dtype: torch.dtype, device: torch.device
) -> None:
    from quire.kernels.triton.linear import linear, prepare

    for m in (2, 130):
        weight = make_weight(format, 40, 300, 64, device, asymmetric=True, ordered=True)
        x = random(m, 300, dtype=dtype).to(device)
        expected = linear(x, weight)
        prepare(weight, release=True)
        assert torch.equal(linear(x, weight), expected)


def test_packing_in_pieces_gives_the_same(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    from quire.kernels.triton import linear_packed

    weight = make_weight("int4", 33, 200, 64, device)
    whole = linear_packed.pack(weight)
    monkeypatch.setattr(linear_packed, "VALUES_AT_ONCE", 7 * 200)
    assert torch.equal(linear_packed.pack(weight).data, whole.data)


def test_an_int8_weight_of_whole_blocks_is_not_copied(device: torch.device) -> None:
    from quire.kernels.triton.linear import prepare

    weight = make_weight("int8", 10, 256, 256, device)
    data = weight.data
    packed = prepare(weight, release=True)
    assert packed is not None
    assert packed.data.data_ptr() == data.data_ptr()


def test_many_rows_are_multiplied_in_panels(
    format: WeightFormat, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, device: torch.device
) -> None:
    from quire.kernels.triton import linear as module

    weight = make_weight(format, 150, 96, 32, device, asymmetric=True, ordered=True)
    x, bias = random(130, 96, dtype=dtype).to(device), random(150, dtype=dtype, seed=2).to(device)
    monkeypatch.setattr(module, "PANEL_VALUES", 64 * 96)
    assert_product(module.linear(x, weight, bias), x, weight, bias, rounds_weight=True)


def test_what_the_kernels_do_not_take_goes_to_the_reference(device: torch.device) -> None:
    from quire.kernels.triton.linear import linear

    weight = make_weight("int4", 20, 48, 16, device, ordered=True)
    x = random(3, 48, dtype=torch.float32).to(device)
    assert torch.equal(linear(x, weight), reference.linear(x, weight))
    assert weight.packed is None


def test_refusals_name_what_does_not_fit(device: torch.device) -> None:
    from quire.kernels.triton.linear import linear, prepare

    weight = make_weight("int4", 20, 64, 32, device)
    x = random(2, 64, dtype=torch.float32).to(device)
    with pytest.raises(ValueError, match="64 input features"):
        linear(x[:, :63], weight)
    with pytest.raises(ValueError, match="bias of 20"):
        linear(x, weight, x[0, :19])
    with pytest.raises(ValueError, match=r"contiguous \[2, 20\]"):
        linear(x, weight, None, x[:, :20])
    zeros = torch.full((20, 2), 8, dtype=torch.int16, device=device)
    for change, error, words in (
        ({"group_size": 0}, ValueError, "group size"),
        ({"group_size": 48}, ValueError, "multiple of 32"),
        ({"group_size": 64}, ValueError, r"\[20, 1\]"),
        ({"data": x.to(torch.int8)}, TypeError, "uint8"),
        ({"scales": zeros}, TypeError, "scales"),
        ({"zeros": zeros[:1]}, ValueError, "shape of the scales"),
        ({"zeros": zeros.float()}, TypeError, "integers"),
        ({"zeros": zeros + 120}, ValueError, r"\[-112, 127\].*128"),
        ({"order": torch.zeros(64, dtype=torch.int32, device=device)}, ValueError, "permutation"),
    ):
        wrong = make_weight("int4", 20, 64, 32, device)
        for name, value in change.items():
            setattr(wrong, name, value)
        with pytest.raises(error, match=words):
            prepare(wrong)
    packed, index = prepare(weight), torch.zeros(1, dtype=torch.int32, device=device)
    assert packed is not None
    with pytest.raises(TypeError, match="int64"):
        packed.rows_as(index, torch.float32)


def test_int8_activations_have_a_bound(device: torch.device) -> None:
    from quire.kernels.triton.linear import linear

    k = 65537
    weight = make_weight("int8", 1, k, k, device, int8_activations=True)
    with pytest.raises(ValueError, match="65536 columns"):
        linear(torch.ones(1, k, device=device), weight)


def test_the_tile_of_the_invariant_mode_does_not_depend_on_the_rows() -> None:
    """numpy, which multiplies tiles in the interpreter, would not tell; a tensor core might."""
    from quire.kernels.triton.linear_plan import choose_tile

    for x_dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int8):
        for is_float_weight, column in itertools.product((False, True), range(3)):
            tiles = {choose_tile(m, x_dtype, is_float_weight, True, column) for m in (1, 16, 64, 129, 8192)}
            assert len(tiles) == 1


def test_the_height_of_a_tile_does_not_depend_on_the_rows() -> None:
    """So that a row has the same bits with any number of others; integers are exact anyhow."""
    from quire.kernels.triton.linear_plan import choose_tile

    for x_dtype, column in itertools.product((torch.float32, torch.float16, torch.bfloat16), range(3)):
        heights = {choose_tile(m, x_dtype, False, False, column).block_n for m in range(1, 129)}
        assert heights == {64}


def test_the_invariant_mode_is_on_or_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from quire.kernels.triton.linear import INVARIANT_VARIABLE, is_batch_invariant

    for text, expected in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv(INVARIANT_VARIABLE, text)
        is_batch_invariant.cache_clear()
        assert is_batch_invariant() is expected
    monkeypatch.setenv(INVARIANT_VARIABLE, "yes")
    is_batch_invariant.cache_clear()
    with pytest.raises(ValueError, match="'yes'"):
        is_batch_invariant()
    monkeypatch.undo()
    is_batch_invariant.cache_clear()

"""The C++ column: linear, norms, gates, RoPE and the choice of instruction set.

Every op against the reference on every instruction set, and the same bits in any company.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from kernel_inputs import CACHES, FLOATS, assert_close, make_step, random
from quire.kernels import cpu, reference
from quire.kernels.types import LinearWeight

pytestmark = pytest.mark.skipif(
    cpu.unavailable() is not None,
    reason="the C++ extension is not built: no compiler when quire was installed",
)

LINEAR_SHAPES = [(1, 1, 1), (1, 64, 64), (3, 172, 64), (5, 64, 172), (7, 33, 65), (14, 100, 17), (15, 31, 96)]
LINEAR_SHAPES += [(29, 96, 97), (130, 257, 896), (1100, 40, 24)]


@pytest.mark.parametrize("weight_dtype", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "n", "k"), LINEAR_SHAPES)
def test_linear(isa: str, m: int, n: int, k: int, dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    x, w = random(m, k, dtype=dtype), random(n, k, dtype=weight_dtype, seed=1)
    bias = random(n, dtype=dtype, seed=2)
    exact = x.double() @ w.double().T
    assert_close(cpu.linear(x, LinearWeight.from_dense(w)), exact.to(dtype))
    assert_close(cpu.linear(x, LinearWeight.from_dense(w), bias), (exact + bias.double()).to(dtype))


@pytest.mark.parametrize("weight_dtype", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_row_of_linear_has_the_same_bits_in_any_batch(
    isa: str, dtype: torch.dtype, weight_dtype: torch.dtype
) -> None:
    for n, k in ((100, 301), (65, 64), (320, 896)):
        x, weight = random(129, k, dtype=dtype), LinearWeight.from_dense(random(n, k, dtype=weight_dtype))
        bias = random(n, dtype=dtype, seed=2)
        whole = cpu.linear(x, weight, bias)
        for m in (1, 2, 3, 7, 8, 13, 14, 15, 32, 128):
            for first in (0, 129 - m):
                part = cpu.linear(x[first : first + m], weight, bias)
                assert torch.equal(part, whole[first : first + m]), (m, first)


def test_a_column_of_linear_has_the_same_bits_in_any_weight(isa: str) -> None:
    x, w = random(5, 70, dtype=torch.bfloat16), random(200, 70, dtype=torch.bfloat16, seed=1)
    whole = cpu.linear(x, LinearWeight.from_dense(w))
    for begin, end in ((0, 1), (3, 40), (64, 200)):
        assert torch.equal(cpu.linear(x, LinearWeight.from_dense(w[begin:end])), whole[:, begin:end])


def test_linear_takes_strided_rows_and_more_dimensions() -> None:
    x, weight = (
        random(6, 100, dtype=torch.float32),
        LinearWeight.from_dense(random(20, 32, dtype=torch.float32)),
    )
    expected = cpu.linear(x[:, 10:42].contiguous(), weight)
    assert torch.equal(cpu.linear(x[:, 10:42], weight), expected)
    assert torch.equal(cpu.linear(x[:, 10:42].reshape(2, 3, 32), weight), expected.view(2, 3, 20))
    columns = x[:, 10:42].t().contiguous().t()  # neighbours in a row are far apart
    assert torch.equal(cpu.linear(columns, weight), expected)
    assert cpu.linear(x[:0, 10:42], weight).shape == (0, 20)


def test_linear_refuses_what_does_not_fit() -> None:
    weight = LinearWeight.from_dense(random(20, 32, dtype=torch.float32))
    with pytest.raises(ValueError, match="32 input features"):
        cpu.linear(random(2, 31, dtype=torch.float32), weight)
    with pytest.raises(ValueError, match="bias of 20"):
        cpu.linear(random(2, 32, dtype=torch.float32), weight, random(19, dtype=torch.float32))
    with pytest.raises(TypeError, match="float16"):
        cpu.linear(random(2, 32, dtype=torch.float16), weight)
    with pytest.raises(TypeError, match="float16"):
        cpu.prepare(LinearWeight.from_dense(random(2, 2, dtype=torch.float16)))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1), (32, 2), (33, 7), (100, 65), (64, 64)])
def test_a_packed_weight_unpacks_to_the_same_bits(
    isa: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    w = random(*shape, dtype=dtype)
    weight = LinearWeight.from_dense(w)
    packed = cpu.prepare(weight, release=True)
    assert weight.data.numel() == 0
    assert torch.equal(packed.unpack(), w)
    assert torch.equal(reference.dequantize(weight), w)
    index = torch.tensor([shape[0] - 1, 0, 0])
    assert torch.equal(packed.rows_as(index, dtype), w[index])
    assert cpu.prepare(weight) is packed


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_poisoned_row_of_linear_keeps_to_itself(isa: str, dtype: torch.dtype, poison: float) -> None:
    x, weight = random(20, 65, dtype=dtype), LinearWeight.from_dense(random(50, 65, dtype=dtype, seed=1))
    clean = cpu.linear(x, weight)
    x[7, 64] = poison
    y = cpu.linear(x, weight)
    assert not y[7].isfinite().any()
    y[7] = clean[7]
    assert torch.equal(y, clean)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1, 8, 16, 63, 64, 100, 896, 4097])
def test_norms(isa: str, size: int, dtype: torch.dtype) -> None:
    x, residual = random(9, size, dtype=dtype), random(9, size, dtype=dtype, seed=1)
    weight = random(size, dtype=dtype, seed=2)
    assert_close(cpu.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5))
    normed, total = cpu.add_rms_norm(x, residual, weight, 1e-5)
    expected, expected_total = reference.add_rms_norm(x, residual, weight, 1e-5)
    assert_close(normed, expected)
    assert torch.equal(total, expected_total)
    # Alone, strided, and in more dimensions: the same bits.
    assert torch.equal(cpu.rms_norm(x[3:4], weight, 1e-5), cpu.rms_norm(x, weight, 1e-5)[3:4])
    wide = torch.cat((x, residual), -1)
    assert torch.equal(cpu.rms_norm(wide[:, :size], weight, 1e-5), cpu.rms_norm(x, weight, 1e-5))
    assert torch.equal(
        cpu.add_rms_norm(x.view(3, 3, size), residual.view(3, 3, size), weight, 1e-5)[1],
        total.view(3, 3, size),
    )


def test_a_norm_of_mixed_dtypes_is_promoted_as_by_the_reference() -> None:
    x, weight = random(3, 32, dtype=torch.bfloat16), random(32, dtype=torch.float32)
    assert torch.equal(cpu.rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6))
    for actual, expected in zip(
        cpu.add_rms_norm(x, x, weight, 1e-6), reference.add_rms_norm(x, x, weight, 1e-6), strict=True
    ):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1, 15, 16, 172, 1000])
@pytest.mark.parametrize("op", ["silu_and_mul", "gelu_and_mul"])
def test_gates(isa: str, op: str, size: int, dtype: torch.dtype) -> None:
    x = random(11, 2 * size, dtype=dtype) * 8
    actual, expected = getattr(cpu, op)(x), getattr(reference, op)(x)
    assert_close(actual, expected)
    assert torch.equal(getattr(cpu, op)(x[4]), actual[4])


def test_gates_at_the_edges_of_floats(isa: str) -> None:
    gate = torch.tensor(
        [-torch.inf, -3e38, -100, -88.8, -87.4, -1e-30, -0.0, 0, 1e-40, 60, 3e38, torch.inf, torch.nan]
    )
    x = torch.cat((gate, torch.ones_like(gate)))
    for op in ("silu_and_mul", "gelu_and_mul"):
        actual, expected = getattr(cpu, op)(x), getattr(reference, op)(x)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-36, equal_nan=True)
    actual, expected = (module.gelu_and_mul(x, "none") for module in (cpu, reference))
    torch.testing.assert_close(actual[:10], expected[:10], rtol=1e-5, atol=1e-36, equal_nan=True)
    assert torch.equal(actual[10:12], gate[10:12])  # where torch's product overflows
    assert actual[12].isnan()
    with pytest.raises(ValueError, match="even"):
        cpu.silu_and_mul(torch.ones(3))


@pytest.mark.parametrize("cache_dtype", CACHES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("head_size", "rotary"), [(64, 64), (8, 8), (80, 32), (128, 128), (20, 10), (33, 30)]
)
@pytest.mark.parametrize("normed", [False, True])
def test_rope_and_cache_write(
    isa: str, head_size: int, rotary: int, normed: bool, dtype: torch.dtype, cache_dtype: torch.dtype
) -> None:
    step = make_step([5, 40, 17], [5, 1, 9], head_size=head_size, dtype=dtype, cache_dtype=cache_dtype)
    cos_sin = random(50, rotary, dtype=torch.float32)
    norms = [random(head_size, dtype=dtype, seed=s) if normed else None for s in (1, 2)]
    caches = [step.kv_cache.clone() for _ in range(2)]
    actual = cpu.rope_and_cache_write(step.q, step.k, step.v, cos_sin, caches[0], step.meta, *norms)
    expected = reference.rope_and_cache_write(step.q, step.k, step.v, cos_sin, caches[1], step.meta, *norms)
    assert_close(actual, expected)
    assert torch.equal(caches[0][1], caches[1][1])
    if cache_dtype == torch.int8:  # a normed key may be rounded to the neighbouring int8
        assert_close(*(reference.from_cache(cache[0]) for cache in caches), tolerance=1 / 64)
    else:
        assert_close(caches[0], caches[1])
    if not normed:  # no sum is involved, so the bits are the reference's
        assert torch.equal(actual, expected)
        assert torch.equal(caches[0], caches[1])


def test_rope_refuses_what_does_not_fit() -> None:
    step = make_step([3], [3], head_size=2048)
    cos_sin = random(4, 16, dtype=torch.float32)
    norm = torch.ones(2048)
    with pytest.raises(ValueError, match="1024 channels"):
        cpu.rope_and_cache_write(step.q, step.k, step.v, cos_sin, step.kv_cache, step.meta, norm)
    with pytest.raises(ValueError, match="even"):
        cpu.rope_and_cache_write(
            step.q, step.k, step.v, cos_sin[:, :9].contiguous(), step.kv_cache, step.meta
        )
    with pytest.raises(ValueError, match="does not fit"):
        cpu.rope_and_cache_write(step.q[..., :8], step.k, step.v, cos_sin, step.kv_cache, step.meta)
    with pytest.raises(ValueError, match="do not fit"):
        cpu.rope_and_cache_write(step.q, step.k[:2], step.v, cos_sin, step.kv_cache, step.meta)
    with pytest.raises(TypeError, match="one dtype"):
        cpu.rope_and_cache_write(step.q, step.k.bfloat16(), step.v, cos_sin, step.kv_cache, step.meta)


def test_rope_refuses_to_write_outside_of_the_cache() -> None:
    step = make_step([5, 4], [5, 1])
    cos_sin = random(50, 16, dtype=torch.float32)
    before = step.kv_cache.clone()
    for field, value, message in (
        ("slot_mapping", 10**6, "slot"),
        ("slot_mapping", -1, "slot"),
        ("positions", 50, "position"),
    ):
        kept = getattr(step.meta, field)
        wrong = kept.clone()
        wrong[-1] = value
        setattr(step.meta, field, wrong)
        with pytest.raises(IndexError, match=message):
            cpu.rope_and_cache_write(step.q, step.k, step.v, cos_sin, step.kv_cache, step.meta)
        setattr(step.meta, field, kept)
    assert torch.equal(step.kv_cache, before)


def run_alone(code: str, **environment: str) -> str:
    """What `code` prints in a new process that has loaded the extension, as `_C`, and no torch."""
    from quire.kernels import _C

    load = f"""
import importlib.machinery, importlib.util, os
loader = importlib.machinery.ExtensionFileLoader("_C", {_C.__file__!r})
_C = importlib.util.module_from_spec(importlib.util.spec_from_loader("_C", loader))
loader.exec_module(_C)
"""
    done = subprocess.run(
        [sys.executable, "-c", load + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_environment_forces_an_instruction_set() -> None:
    code = "print(_C.isa())"
    assert run_alone(code, QUIRE_ISA="plain").strip() == "plain"
    assert "QUIRE_ISA must be one of plain, avx2, avx2_vnni," in run_alone(code, QUIRE_ISA="sse9")
    for name in ("avx2", "avx512", "avx512_bf16"):
        shown = run_alone(code, QUIRE_ISA=name)
        assert shown.strip() == name if name in cpu_isas() else f"this CPU has no {name}" in shown


def cpu_isas() -> list[str]:
    from quire.kernels import _C

    return _C.available_isas()


def test_unavailable_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise RuntimeError("QUIRE_ISA=avx512, but this CPU has no avx512")

    monkeypatch.setattr(cpu.extension._C, "isa", refuse)
    assert cpu.unavailable() == "QUIRE_ISA=avx512, but this CPU has no avx512"
    monkeypatch.setattr(cpu.extension, "_import_error", "No module named '_C'")
    assert cpu.unavailable() == "the C++ extension is not built (No module named '_C')"


def test_importing_starts_no_threads() -> None:
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("no /proc on this system")
    assert run_alone('_C.num_threads(); print(len(os.listdir("/proc/self/task")))').strip() == "1"

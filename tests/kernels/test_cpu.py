"""The C++ column: every op against the reference on every instruction set, and the same bits in any company."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kernel_inputs import Step, make_meta, make_step
from quire.kernels import cpu, reference
from quire.kernels.types import LinearWeight

pytestmark = pytest.mark.skipif(
    cpu.unavailable() is not None,
    reason="the C++ extension is not built: no compiler when quire was installed",
)

FLOATS = (torch.float32, torch.bfloat16)
# Relative to the largest value of the result. bf16 rounds to 8 bits: one unit in the last place is 2^-8.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2**-8}

ISAS = ("plain", "avx2", "avx512", "avx512+bf16")


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on each instruction set that this CPU has."""
    from quire.kernels import _C

    name, _, bf16 = request.param.partition("+")
    if name != "plain" and not cpu.cpu_features()[name]:
        pytest.skip(f"this CPU has no {name}")
    if bf16 and not cpu.cpu_features()["avx512_bf16"]:
        pytest.skip("this CPU has no bf16 dot products")
    _C.set_isa(name, bool(bf16))
    yield request.param
    _C.set_isa("", True)


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    before = cpu.num_threads()
    yield
    cpu.set_num_threads(before)


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    limit = (tolerance or TOLERANCE[expected.dtype]) * max(1e-30, expected.abs().max().item())
    worst = (actual.double() - expected.double()).abs().max().item()
    assert worst <= limit, f"differs by {worst:.3g}, {limit:.3g} is allowed"


# --- linear ------------------------------------------------------------------------------------------------

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
    assert torch.equal(packed.rows(index), w[index])
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


# --- row-wise ops ------------------------------------------------------------------------------------------


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
    assert torch.equal(cpu.gelu_and_mul(x, "none"), reference.gelu_and_mul(x, "none")) or x.isnan().any()
    with pytest.raises(ValueError, match="even"):
        cpu.silu_and_mul(torch.ones(3))


# --- rope_and_cache_write ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cache_dtype", FLOATS)
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
    assert_close(caches[0], caches[1])
    assert torch.equal(caches[0][1], caches[1][1])
    if not normed:  # no sum is involved, so the bits are the reference's
        assert torch.equal(actual, expected)
        assert torch.equal(caches[0], caches[1])


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


# --- paged_attention ---------------------------------------------------------------------------------------

SHAPES = [  # heads, KV heads, head size, block size
    (14, 2, 64, 16),
    (4, 4, 8, 4),
    (6, 2, 80, 32),
    (3, 1, 33, 16),
    (2, 1, 256, 8),
    (20, 1, 16, 1),
]
OPTIONS = [
    {},
    {"window": 5},
    {"window": 300, "softcap": 20.0},
    {"sinks": True},
    {"softcap": 0.5, "window": 1, "sinks": True},
]


def attend(function: object, step: Step, options: dict[str, object]) -> Tensor:
    arguments = dict(options)
    if arguments.get("sinks"):
        arguments["sinks"] = random(step.q.shape[1], dtype=torch.float32, seed=5)
    assert callable(function)
    return function(step.q, step.kv_cache, step.meta, step.q.shape[2] ** -0.5, **arguments)


@pytest.mark.parametrize("dtypes", [(a, b) for a in FLOATS for b in FLOATS], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_paged_attention(
    isa: str, shape: tuple[int, int, int, int], dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    heads, kv_heads, head_size, block_size = shape
    step = make_step(
        [1, 7, 300, 600, 64, 256, 257],
        [1, 7, 60, 1, 33, 0, 2],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=head_size,
        block_size=block_size,
        dtype=dtypes[0],
        cache_dtype=dtypes[1],
    )
    for options in OPTIONS:
        expected = attend(reference.paged_attention, step, options)
        assert_close(attend(cpu.paged_attention, step, options), expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("heads", [(7, 1), (2, 2)])
def test_attention_of_a_token_has_the_same_bits_decoded_prefilled_or_chunked(
    isa: str, options: dict[str, object], dtype: torch.dtype, heads: tuple[int, int]
) -> None:
    length = 600
    whole = make_step([length], [length], num_heads=heads[0], num_kv_heads=heads[1], dtype=dtype)
    expected = attend(cpu.paged_attention, whole, options)
    for chunk in (1, 16, 100, 251):
        for begin in range(0, length, max(chunk, 85)):
            end = min(length, begin + chunk)
            meta = make_meta([end], [end - begin], 16, whole.meta.block_tables)
            part = Step(whole.q[begin:end], whole.k, whole.v, whole.kv_cache, meta)
            assert torch.equal(attend(cpu.paged_attention, part, options), expected[begin:end]), (
                chunk,
                begin,
            )


@pytest.mark.parametrize("dtype", FLOATS)
def test_attention_of_a_sequence_has_the_same_bits_in_any_batch(isa: str, dtype: torch.dtype) -> None:
    lengths, queries = [300, 20, 1000, 64, 513], [1, 20, 1, 33, 257]
    step = make_step(lengths, queries, dtype=dtype)
    whole = cpu.paged_attention(step.q, step.kv_cache, step.meta, 0.25)
    starts = step.meta.query_start.tolist()
    for s, (length, count) in enumerate(zip(lengths, queries, strict=True)):
        alone = make_meta([length], [count], 16, step.meta.block_tables[s : s + 1])
        rows = slice(starts[s], starts[s + 1])
        assert torch.equal(cpu.paged_attention(step.q[rows], step.kv_cache, alone, 0.25), whole[rows])


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_a_query_must_not_see_does_not_touch_it(isa: str, dtype: torch.dtype) -> None:
    """NaN in later tokens, behind the window, in other sequences and in unwritten slots stays there."""
    step = make_step([40, 600], [40, 300], dtype=dtype)
    clean = cpu.paged_attention(step.q, step.kv_cache, step.meta, 0.25, window=50)
    cache = step.kv_cache
    used = torch.zeros(cache.shape[1] * 16, dtype=torch.bool)
    table = step.meta.block_tables
    for s, (first, last) in enumerate(((0, 30), (300 - 49, 500))):
        for position in range(first, last):
            used[int(table[s, position // 16]) * 16 + position % 16] = True
    unused = ~used.view(cache.shape[1], 1, 16, 1).expand(cache.shape[1:])
    poisoned = cache.masked_fill(unused, torch.nan)
    y = cpu.paged_attention(step.q, poisoned, step.meta, 0.25, window=50)
    assert torch.equal(y[:30], clean[:30])
    assert torch.equal(y[40 : 40 + 200], clean[40 : 40 + 200])
    assert y[30:40].isnan().all()
    assert y[240:].isnan().all()


def test_attention_refuses_a_block_table_that_leaves_the_cache() -> None:
    step = make_step([40, 100], [1, 3])
    step.meta.block_tables[1, 2] = step.kv_cache.shape[1]
    with pytest.raises(IndexError, match="block"):
        cpu.paged_attention(step.q, step.kv_cache, step.meta, 1.0)
    cpu.paged_attention(step.q, step.kv_cache, step.meta, 1.0, window=20)  # that block is never read
    step.meta.seq_lens[1] = 10**6
    with pytest.raises(IndexError, match="table"):
        cpu.paged_attention(step.q, step.kv_cache, step.meta, 1.0)


# --- threads -----------------------------------------------------------------------------------------------


def everything(dtype: torch.dtype) -> list[Tensor]:
    """One result of each op, large enough to be split over threads."""
    x, weight = random(70, 301, dtype=dtype), LinearWeight.from_dense(random(1000, 301, dtype=dtype))
    step = make_step([700, 90, 5000], [300, 90, 1], dtype=dtype)
    cos_sin = random(5000, 16, dtype=torch.float32)
    norm = random(301, dtype=dtype, seed=3)
    return [
        cpu.linear(x, weight),
        cpu.linear(x[:1], weight),
        cpu.rms_norm(x, norm, 1e-6),
        cpu.silu_and_mul(x[:, :300]),
        cpu.rope_and_cache_write(step.q, step.k, step.v, cos_sin, step.kv_cache, step.meta),
        step.kv_cache,
        cpu.paged_attention(step.q, step.kv_cache, step.meta, 0.25),
        # One long sequence: its chunks are computed by different threads and merged.
        cpu.paged_attention(
            step.q[:1], step.kv_cache, make_meta([5000], [1], 16, step.meta.block_tables[2:]), 0.25
        ),
    ]


@pytest.mark.parametrize("dtype", FLOATS)
def test_results_do_not_depend_on_the_number_of_threads(isa: str, dtype: torch.dtype) -> None:
    cpu.set_num_threads(1)
    expected = everything(dtype)
    for threads in (2, 3, 5):
        cpu.set_num_threads(threads)
        assert cpu.num_threads() == threads
        for _ in range(3):
            for actual, wanted in zip(everything(dtype), expected, strict=True):
                assert torch.equal(actual, wanted)


def test_ops_may_be_called_from_several_threads_at_once() -> None:
    cpu.set_num_threads(3)
    expected = everything(torch.float32)
    failures: list[str] = []

    def work() -> None:
        for _ in range(5):
            for i, (actual, wanted) in enumerate(zip(everything(torch.float32), expected, strict=True)):
                if not torch.equal(actual, wanted):
                    failures.append(f"result {i} differs")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_error_in_a_task_reaches_the_caller_and_the_pool_lives_on() -> None:
    step = make_step([40], [1])
    step.meta.block_tables[0, 0] = -5
    with pytest.raises(IndexError):
        cpu.paged_attention(step.q, step.kv_cache, step.meta, 1.0)
    with pytest.raises(ValueError, match="at least 1"):
        cpu.set_num_threads(0)
    everything(torch.float32)


def _in_child(queue: multiprocessing.Queue[list[bytes]]) -> None:
    queue.put([result.numpy().tobytes() for result in everything(torch.float32)])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_gets_threads_of_its_own() -> None:
    cpu.set_num_threads(2)
    expected = [result.numpy().tobytes() for result in everything(torch.float32)]
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # torch's own threads do not survive a fork
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get() == expected
    child.join()
    assert child.exitcode == 0
    torch.set_num_threads(torch_threads)


# --- the choice of instruction set -------------------------------------------------------------------------


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_environment_forces_an_instruction_set() -> None:
    code = "from quire.kernels import cpu; print(cpu.unavailable() or cpu.isa())"
    assert run_python(code, QUIRE_ISA="plain").stdout.strip() == "plain"
    assert "QUIRE_ISA must be plain, avx2 or avx512, got 'sse9'" in run_python(code, QUIRE_ISA="sse9").stdout
    for name in ("avx2", "avx512"):
        shown = run_python(code, QUIRE_ISA=name).stdout
        assert shown.startswith(name) if cpu.cpu_features()[name] else f"this CPU has no {name}" in shown


def test_importing_starts_no_threads() -> None:
    code = (
        "import os; from quire.kernels import _C; _C.num_threads(); print(len(os.listdir('/proc/self/task')))"
    )
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("no /proc on this system")
    # Only the extension, without torch, whose threads would be counted too.
    code = code.replace("from quire.kernels import _C", _LOAD_EXTENSION_ALONE)
    assert run_python(code).stdout.strip() == "1"


_LOAD_EXTENSION_ALONE = f"""
import importlib.machinery, importlib.util
loader = importlib.machinery.ExtensionFileLoader("_C", {getattr(getattr(cpu, "_C", None), "__file__", "")!r})
_C = importlib.util.module_from_spec(importlib.util.spec_from_loader("_C", loader))
loader.exec_module(_C)
"""

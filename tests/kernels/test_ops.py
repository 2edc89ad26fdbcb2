"""Dispatch: which implementation an op chooses, how one is forced, and what is said when it falls back."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from kernel_inputs import random
from quire.kernels import ops, reference
from quire.kernels.types import LinearWeight


@pytest.fixture(autouse=True)
def _choose_afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("QUIRE_KERNELS", raising=False)
    monkeypatch.setattr(ops, "_logged", set())
    ops.reset()
    yield
    ops.reset()


@pytest.fixture
def fake_column(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the row of rms_norm by two cells whose module does not exist and whose predicate objects."""
    objections: list[str] = []

    def accepts(x: torch.Tensor, *_: object) -> str | None:
        return objections[0] if objections else None

    cells = (
        ops.Cell("cpu", "missing", "no_such_module"),
        ops.Cell("cpu", "picky", "reference", accepts),
    )
    monkeypatch.setitem(ops.TABLE, "rms_norm", cells)
    return objections


X, W = random(3, 8, dtype=torch.float32), random(8, dtype=torch.float32, seed=1)


def test_every_op_has_a_row_and_a_reference() -> None:
    assert set(ops.TABLE) == {op.name for op in ops.OPS}
    for op in ops.OPS:
        assert getattr(ops, op.name) is op
        assert op.reference is getattr(reference, op.name)
        assert op.__doc__ == op.reference.__doc__


def test_the_first_cell_that_accepts_runs(fake_column: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert torch.equal(ops.rms_norm(X, W, 1e-6), reference.rms_norm(X, W, 1e-6))
    assert caplog.records == []
    assert ops.resolved_table("cpu")["rms_norm"] == "picky · reference"


def test_a_fall_back_is_logged_once_with_its_reason(
    fake_column: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    fake_column.append("only on Tuesdays")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert torch.equal(ops.rms_norm(X, W, 1e-6), reference.rms_norm(X, W, 1e-6))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert all(message.startswith("rms_norm runs on the slow reference") for message in messages)
    assert "no_such_module" in messages[0]
    assert "picky: only on Tuesdays" in messages[1]


def test_a_forced_column_that_cannot_run_raises(
    fake_column: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for column, reason in (("missing", "no_such_module"), ("gpu9000", "no such column on cpu")):
        monkeypatch.setenv("QUIRE_KERNELS", f"rms_norm={column}")
        with pytest.raises(ops.KernelUnavailable, match=reason):
            ops.rms_norm(X, W, 1e-6)
    monkeypatch.setenv("QUIRE_KERNELS", "picky")
    fake_column.append("only on Tuesdays")
    with pytest.raises(ops.KernelUnavailable, match="only on Tuesdays"):
        ops.rms_norm(X, W, 1e-6)
    monkeypatch.setenv("QUIRE_KERNELS", "rms_nrom=reference")
    with pytest.raises(ops.KernelUnavailable, match="rms_nrom"):
        ops.rms_norm(X, W, 1e-6)


def test_the_reference_can_be_forced_for_all_ops_or_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_KERNELS", "reference")
    assert set(ops.resolved_table("cpu").values()) == {"reference (forced)"}
    assert torch.equal(ops.rms_norm(X, W, 1e-6), reference.rms_norm(X, W, 1e-6))
    monkeypatch.setenv("QUIRE_KERNELS", "linear=reference")
    table = ops.resolved_table("cpu")
    assert table.pop("linear") == "reference (forced)"
    assert "reference (forced)" not in table.values()


def test_what_the_cpp_column_cannot_do_goes_to_the_reference(caplog: pytest.LogCaptureFixture) -> None:
    half = X.half()
    weight = LinearWeight.from_dense(random(4, 8, dtype=torch.float16, seed=2))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(ops.rms_norm(half, W.half(), 1e-6), reference.rms_norm(half, W.half(), 1e-6))
        assert torch.equal(ops.linear(X, weight), reference.linear(X, weight))
    assert "linear runs on the slow reference" in caplog.text


def test_choices_are_made_per_dtype_and_format() -> None:
    """A call that one implementation refuses does not decide for calls of another kind."""
    dense = LinearWeight.from_dense(random(4, 8, dtype=torch.float32, seed=2))
    ops.rms_norm(X.half(), W.half(), 1e-6)
    expected = X.double() @ dense.data.double().T
    torch.testing.assert_close(ops.linear(X, dense).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ops.rms_norm(X, W, 1e-6), reference.rms_norm(X, W, 1e-6))
    ids = torch.tensor([3, 1])
    for dtype in (torch.float16, torch.float32, torch.bfloat16):
        assert torch.equal(ops.embedding(ids, dense, dtype), dense.data[ids].to(dtype))

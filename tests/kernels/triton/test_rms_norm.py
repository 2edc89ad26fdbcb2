"""The Triton kernels of the norms against the reference."""

from __future__ import annotations

import pytest
import torch

from kernel_inputs import assert_close, random
from quire.kernels import reference


@pytest.mark.parametrize("shape", [(1, 64), (3, 172), (2, 3, 96), (5, 1024), (0, 64)])
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    from quire.kernels.triton.rms_norm import rms_norm

    x = random(*shape, dtype=dtype).to(device)
    weight = random(shape[-1], dtype=dtype, seed=1).to(device)
    assert_close(rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6))


@pytest.mark.parametrize("shape", [(1, 64), (3, 172), (7, 896)])
def test_add_rms_norm_of_strided_rows(
    shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> None:
    from quire.kernels.triton.rms_norm import add_rms_norm

    x = random(shape[0], 2 * shape[1], dtype=dtype).to(device)[:, : shape[1]]
    residual = random(*shape, dtype=dtype, seed=1).to(device)
    weight = random(shape[1], dtype=dtype, seed=2).to(device)
    for actual, expected in zip(
        add_rms_norm(x, residual, weight, 1e-5),
        reference.add_rms_norm(x, residual, weight, 1e-5),
        strict=True,
    ):
        assert_close(actual, expected)


def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype, device: torch.device) -> None:
    from quire.kernels.triton.rms_norm import rms_norm

    x = random(9, 896, dtype=dtype).to(device)
    weight = random(896, dtype=dtype, seed=1).to(device)
    together = rms_norm(x, weight, 1e-6)
    for i in range(len(x)):
        assert torch.equal(rms_norm(x[i : i + 1], weight, 1e-6)[0], together[i])

"""The Triton kernels of the gates against the reference."""

from __future__ import annotations

import pytest
import torch

from kernel_inputs import assert_close, random
from quire.kernels import reference

SHAPES = [(1, 64), (3, 90), (2, 3, 96), (3, 2 * 1500), (0, 64)]


@pytest.mark.parametrize("shape", SHAPES)
def test_silu_and_mul(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    from quire.kernels.triton.gates import silu_and_mul

    x = 3 * random(*shape, dtype=dtype).to(device)
    assert_close(silu_and_mul(x), reference.silu_and_mul(x))


@pytest.mark.parametrize("approximate", ["tanh", "none"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gelu_and_mul(
    shape: tuple[int, ...], approximate: str, dtype: torch.dtype, device: torch.device
) -> None:
    from quire.kernels.triton.gates import gelu_and_mul

    x = 3 * random(*shape, dtype=dtype).to(device)
    assert_close(gelu_and_mul(x, approximate), reference.gelu_and_mul(x, approximate))


def test_the_two_gelus_differ(device: torch.device) -> None:
    from quire.kernels.triton.gates import gelu_and_mul

    x = 3 * random(4, 200, dtype=torch.float32).to(device)
    assert not torch.equal(gelu_and_mul(x), gelu_and_mul(x, "none"))


def test_strided_rows(dtype: torch.dtype, device: torch.device) -> None:
    from quire.kernels.triton.gates import silu_and_mul

    x = random(5, 200, dtype=dtype).to(device)[:, 20:120]
    assert_close(silu_and_mul(x), reference.silu_and_mul(x))


def test_large_values_stay_finite(device: torch.device) -> None:
    from quire.kernels.triton.gates import gelu_and_mul, silu_and_mul

    x = torch.tensor([[-200.0, 200.0, 0.0, 1.0, 1.0, 1.0]], device=device)
    assert_close(silu_and_mul(x), reference.silu_and_mul(x))
    assert_close(gelu_and_mul(x), reference.gelu_and_mul(x))
    assert_close(gelu_and_mul(x, "none"), reference.gelu_and_mul(x, "none"))


def test_what_has_no_meaning_is_refused(device: torch.device) -> None:
    from quire.kernels.triton.gates import gelu_and_mul, silu_and_mul

    with pytest.raises(ValueError, match="even last dimension"):
        silu_and_mul(torch.zeros(2, 5, device=device))
    with pytest.raises(ValueError, match="'sigmoid'"):
        gelu_and_mul(torch.zeros(2, 6, device=device), "sigmoid")

"""What the tests of the C++ column share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quire.kernels import cpu


@pytest.fixture(params=("plain", "avx2", "avx512", "avx512+bf16"))
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

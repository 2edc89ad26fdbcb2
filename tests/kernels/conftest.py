"""What the tests of the C++ column share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(params=("plain", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16"))
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on each instruction set that this CPU has."""
    from quire.kernels import _C

    if request.param not in _C.available_isas():
        pytest.skip(f"this CPU has no {request.param}")
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa("")

"""Triton's kernels run on the GPU if there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

import os

import pytest
import torch

# Read when a kernel's module is imported, so before any test of this folder is.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# The interpreter computes tl.dot of bf16 wrongly and without a word, so bf16 is for a GPU.
DTYPES = (
    (torch.float32, torch.float16, torch.bfloat16)
    if torch.cuda.is_available()
    else (torch.float32, torch.float16)
)


@pytest.fixture
def device() -> torch.device:
    """Where the kernels of this folder are tested."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Runs the test in each dtype that can be tested here."""
    return request.param

"""Kernels for NVIDIA GPUs in Triton, one op a file.

Each file holds a function named after the op, with the op's signature, and `compile_cases`, which lists the
forms of its kernel that the engine uses, so that they can be compiled, and their registers counted, on a
machine without a GPU.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import torch


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on tensors of any device, as tests have them do."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def unavailable() -> str | None:
    """Why no Triton kernel can run here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if interpreted():
        return None
    if not torch.cuda.is_available():
        return "torch finds no usable GPU"
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        return f"they need a GPU of compute capability 8.0 or more, and this one has {major}.{minor}"
    return None

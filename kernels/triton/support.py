"""What all Triton kernels share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Fused multiply-adds, which Triton 3.10 no longer makes unless it is asked to.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

MAX_GROUP = 128
"""Query heads that may share a KV head in paged attention: the rows of a tile."""


@dataclass(frozen=True, slots=True)
class CompileCase:
    """One form of a kernel: all that decides which machine code it becomes.

    Attributes:
        name: For messages: what is special about it.
        kernel: The function under `triton.jit`.
        signature: The type of each argument that is not a constant, in Triton's words: `*bf16`, `i32`.
        constants: The values of all `tl.constexpr` arguments.
        num_warps: Warps of 32 threads in a program.
        num_stages: Loads that a loop keeps in flight.
        aligned: Arguments that Triton may take for multiples of 16, as it does by itself for most pointers
            and sizes of a launch.
        fp_fusion: Whether products and sums may become fused multiply-adds.
        archs: The compute capabilities, without the dot, for which the launcher picks this form.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 2
    aligned: tuple[str, ...] = field(default=())
    fp_fusion: bool = True
    archs: tuple[int, ...] = (80, 90)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()

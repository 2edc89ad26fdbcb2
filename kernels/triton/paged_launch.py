"""What both kernels of paged attention need to be launched: the problem, and the sizes of tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
import triton.language as tl
from torch import Tensor

from ..types import CACHE_SCALE_BYTES
from .support import next_power_of_2

CHUNK = 512
"""Keys of a chunk. 512 keys of a head of 128 channels are 256 KiB in bf16, which one multiprocessor reads in
some 10 microseconds: short enough for a batch of one, and long enough that 2 KiB for each of its heads, which
go through the workspace, cost little."""

CacheKind = Literal["float", "int8", "fp8", "fp8_bits"]

TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}


@dataclass(frozen=True, slots=True)
class Problem:
    """All that decides which form of the kernels runs.

    Attributes:
        num_heads: Query heads.
        num_kv_heads: KV heads.
        head_size: Channels of a head.
        block_size: Tokens per cache block.
        dtype: Of q and of the result.
        cache: How the cache holds its values: as floats, as int8 with scales, as float8, or as float8 that
            this GPU does not convert.
        cache_dtype: Of the cache, where its values are floats.
        scale: Of the scores, above zero.
        window: Sliding window in tokens, 0 for none.
        softcap: Of the scores, 0 for none.
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    block_size: int
    dtype: torch.dtype
    cache: CacheKind = "float"
    cache_dtype: torch.dtype | None = None
    scale: float = 1.0
    window: int = 0
    softcap: float = 0.0

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.num_heads // self.num_kv_heads

    @property
    def block_channels(self) -> int:
        """Channels of a tile; a matrix product has at least 16."""
        return max(16, next_power_of_2(self.head_size))

    @property
    def compute_dtype(self) -> torch.dtype:
        """In which q, keys and weights are multiplied; sums are fp32. It holds all cached values exactly."""
        same = self.cache != "float" or self.cache_dtype == self.dtype
        return self.dtype if same else torch.float32

    @property
    def unit(self) -> float:
        """Takes a difference of scores, as the kernels hold them, to an exponent of two."""
        return (self.softcap if self.softcap > 0 else self.scale) * math.log2(math.e)

    @property
    def cap(self) -> float:
        """Takes q @ k to `2 * log2(e)` times the argument of the cap's tanh."""
        return 2 * math.log2(math.e) * self.scale / self.softcap if self.softcap > 0 else 0.0

    @property
    def row(self) -> int:
        """Elements of the cache per token and head, the bytes of an int8 head's scale included."""
        return self.head_size + (CACHE_SCALE_BYTES if self.cache == "int8" else 0)

    @property
    def archs(self) -> tuple[int, ...]:
        """Of Ampere's and Hopper's compute capabilities, those for which this is a problem."""
        return {"fp8": (90,), "fp8_bits": (80,)}.get(self.cache, (80, 90))

    @property
    def q_type(self) -> str:
        """The type of q's pointer in Triton's words."""
        return POINTERS[self.dtype]

    @property
    def cache_type(self) -> str:
        """The type of the cache's pointer in Triton's words."""
        if self.cache == "float":
            return POINTERS[self.cache_dtype or self.dtype]
        return {"int8": "*i8", "fp8": "*fp8e4nv", "fp8_bits": "*u8"}[self.cache]

    def constants(self) -> dict[str, Any]:
        """The constants that both kernels have."""
        return {
            "GROUP": self.group,
            "KV_HEADS": self.num_kv_heads,
            "HEAD_SIZE": self.head_size,
            "ROW": self.row,
            "BLOCK_SIZE": self.block_size,
            "CHUNK": CHUNK,
            "COMPUTE": TYPES[self.compute_dtype],
            "WINDOW": self.window > 0,
            "SOFTCAP": self.softcap > 0,
            "INT8": self.cache == "int8",
            "FP8_BITS": self.cache == "fp8_bits",
        }


def block_keys(problem: Problem) -> int:
    """Keys of a tile, in all kernels: as many as make 16 KiB of keys in the dtype of the products."""
    return 64 if problem.block_channels * problem.compute_dtype.itemsize <= 256 else 32


def is_hopper(x: Tensor) -> bool:
    """Whether x lies on a GPU with wgmma and 227 KiB of shared memory: the data centre's since Hopper."""
    return x.is_cuda and _capability(x.device.index)[0] in (9, 10)


def converts_float8(x: Tensor) -> bool:
    """Whether x lies on a GPU that has instructions for e4m3 numbers."""
    return x.is_cuda and _capability(x.device.index) >= (8, 9)


@cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def _problems() -> dict[str, Problem]:
    bf16 = torch.bfloat16
    shapes = {
        "Llama-3.1-8B": Problem(32, 8, 128, 16, bf16, cache_dtype=bf16),
        "Qwen3-0.6B": Problem(16, 8, 128, 16, bf16, cache_dtype=bf16),
        "Qwen2.5-0.5B": Problem(14, 2, 64, 16, bf16, cache_dtype=bf16),
        "Gemma-2-2B": Problem(8, 4, 256, 16, bf16, cache_dtype=bf16, softcap=50.0, window=4096),
    }
    llama, gemma = shapes["Llama-3.1-8B"], shapes["Gemma-2-2B"]
    return {
        **shapes,
        "Mistral-7B": replace(llama, window=4096),
        "Phi-3-mini": Problem(32, 32, 96, 16, bf16, cache_dtype=bf16, window=2047),
        "Llama-3.1-8B, int8 cache": replace(llama, cache="int8"),
        "Mistral-7B, int8 cache": replace(llama, cache="int8", window=4096),
        "Llama-3.1-8B, fp8 cache": replace(llama, cache="fp8"),
        "Llama-3.1-8B, fp8 cache on Ampere": replace(llama, cache="fp8_bits"),
        "Llama-3.1-8B, fp16": replace(llama, dtype=torch.float16, cache_dtype=torch.float16),
        "Qwen3-0.6B, fp32": replace(shapes["Qwen3-0.6B"], dtype=torch.float32, cache_dtype=torch.float32),
        "Gemma-2-2B, int8 cache": replace(gemma, cache="int8"),
    }


PROBLEMS = _problems()
"""Attention of real models, for the kernels' `compile_cases`."""

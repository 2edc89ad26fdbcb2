"""How much memory there is, and how many cache blocks it gives: the arithmetic, and its words."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelTooLarge

CPU_MEMORY_FRACTION = 0.5
"""Share of the RAM that is free once the weights are loaded; the rest stays for everything else."""

GPU_MEMORY_FRACTION = 0.9
"""Share of the GPU's whole memory for weights, activations and the pool together."""


@dataclass(frozen=True, slots=True)
class KVCacheShape:
    """What one block of the pool costs.

    Attributes:
        dtype_size: Bytes of one element.
    """

    num_layers: int
    num_kv_heads: int
    head_size: int
    block_size: int
    dtype_size: int

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_size * self.dtype_size

    @property
    def bytes_per_block(self) -> int:
        """Keys and values of one block in all layers."""
        return self.bytes_per_token * self.block_size


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The size of the block pool, and how it came about.

    Attributes:
        budget: Bytes that the pool may take.
        num_blocks: Blocks of the pool.
        max_model_len: The longest request.
        reason: What decided the size.
    """

    shape: KVCacheShape
    budget: int
    num_blocks: int
    max_model_len: int
    reason: str

    @property
    def num_tokens(self) -> int:
        """Tokens that the pool holds."""
        return self.num_blocks * self.shape.block_size

    def describe(self) -> str:
        """The arithmetic in words, for the log and `quire doctor`."""
        shape = self.shape
        return (
            f"KV cache: {self.num_blocks:,} blocks of {shape.block_size} tokens = "
            f"{self.num_tokens:,} tokens, {format_bytes(self.num_blocks * shape.bytes_per_block)} "
            f"({self.reason}). One token takes 2 x {shape.num_layers} layers x {shape.num_kv_heads} KV heads "
            f"x {shape.head_size} x {shape.dtype_size} bytes = {shape.bytes_per_token:,} bytes; "
            f"{self.num_tokens / self.max_model_len:.1f} requests of {self.max_model_len:,} tokens fit."
        )


def plan_pool(
    shape: KVCacheShape,
    *,
    budget: int,
    max_model_len: int,
    max_num_seqs: int,
    num_blocks: int | None = None,
) -> MemoryPlan:
    """Sizes the block pool.

    Args:
        shape: Cost of a block.
        budget: Bytes that the pool may take.
        max_model_len: The longest request, which must fit.
        max_num_seqs: Requests at once; a pool for more would never be used.
        num_blocks: The size that the user asks for, or None.

    Raises:
        ModelTooLarge: If not even one request of `max_model_len` fits; says what would.
    """
    needed = -(-max_model_len // shape.block_size)
    most = budget // shape.bytes_per_block
    if num_blocks is not None:
        if num_blocks > most:
            raise ModelTooLarge(
                f"num_blocks={num_blocks} takes {format_bytes(num_blocks * shape.bytes_per_block)}, "
                f"but {format_bytes(budget)} are available for the KV cache, which is {most} blocks",
                param="num_blocks",
            )
        chosen, reason = num_blocks, "as asked for"
    elif most > needed * max_num_seqs:
        chosen, reason = needed * max_num_seqs, f"enough for max_num_seqs={max_num_seqs} of full length"
    else:
        chosen, reason = most, f"all of the {format_bytes(budget)} that are available"
    if chosen < needed:
        raise ModelTooLarge(
            f"one request of max_model_len={max_model_len} needs {needed} KV-cache blocks "
            f"({format_bytes(needed * shape.bytes_per_block)}), but the pool has {chosen} "
            f"({reason}); set max_model_len to {chosen * shape.block_size} or less, or provide more memory",
            param="max_model_len",
        )
    return MemoryPlan(shape, budget, chosen, max_model_len, reason)


def available_ram() -> int:
    """Bytes of RAM that this process may still take: the machine's, or less by its cgroup's limit."""
    available = _meminfo("MemAvailable")
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit is not None and used is not None:
        available = min(available, max(0, limit - used))
    return available


def total_ram() -> int:
    """Bytes of RAM of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _meminfo(field: str) -> int:
    path = Path("/proc/meminfo")
    if path.exists():
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
    return total_ram() // 2


def _cgroup(name: str) -> int | None:
    """A limit of cgroup v2, or None if there is none."""
    path = Path("/sys/fs/cgroup") / name
    if not path.exists():
        return None
    text = path.read_text().strip()
    return int(text) if text.isdigit() else None


def format_bytes(num_bytes: float) -> str:
    """Bytes in the largest binary unit, with four figures."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.4g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.4g} TiB"

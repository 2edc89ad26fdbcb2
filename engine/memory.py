"""How much memory there is, and how many cache blocks it gives: the arithmetic, and its words."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import ModelTooLarge

CPU_MEMORY_FRACTION = 0.5
"""Share of the RAM that is free once the weights are loaded; the rest stays for everything else."""

MIN_USEFUL_CONTEXT = 2048
"""A context is not cut below this to make a model fit; the user has to ask for less."""

GPU_MEMORY_FRACTION = 0.9
"""Share of the GPU's whole memory for weights, activations and the pool together."""


@dataclass(frozen=True, slots=True)
class KVCacheShape:
    """What one block of the pool costs.

    Attributes:
        dtype_size: Bytes of one element.
        scale_size: Bytes of each head's scale, in int8 caches.
        num_ranks: Ranks, of which each has so many KV heads of every block.
    """

    num_layers: int
    num_kv_heads: int
    head_size: int
    block_size: int
    dtype_size: int
    scale_size: int = 0
    num_ranks: int = 1

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.bytes_per_head

    @property
    def bytes_per_head(self) -> int:
        """One token's key or value of one head."""
        return self.head_size * self.dtype_size + self.scale_size

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
        where = f" at each of {shape.num_ranks} ranks" if shape.num_ranks > 1 else ""
        return (
            f"KV cache: {self.num_blocks:,} blocks of {shape.block_size} tokens = "
            f"{self.num_tokens:,} tokens, {format_bytes(self.num_blocks * shape.bytes_per_block)}{where} "
            f"({self.reason}). One token takes 2 x {shape.num_layers} layers x {shape.num_kv_heads} KV heads "
            f"x {_head_arithmetic(shape)} bytes = {shape.bytes_per_token:,} bytes; "
            f"{self.num_tokens / self.max_model_len:.1f} requests of {self.max_model_len:,} tokens fit."
        )


def _head_arithmetic(shape: KVCacheShape) -> str:
    channels = f"{shape.head_size} x {shape.dtype_size}"
    return f"({channels} + {shape.scale_size})" if shape.scale_size else channels


def plan_pool(
    shape: KVCacheShape,
    *,
    budget: int,
    max_model_len: int,
    max_num_seqs: int,
    num_blocks: int | None = None,
    may_shrink: bool = False,
) -> MemoryPlan:
    """Sizes the block pool.

    Args:
        shape: Cost of a block.
        budget: Bytes that the pool may take.
        max_model_len: The longest request, which must fit.
        may_shrink: Whether `max_model_len` may become what fits, if that is a useful length.
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
                f"but {format_bytes(budget)} are available for the KV cache, which is {most} blocks; "
                "a larger memory_fraction would allow more",
                param="num_blocks",
            )
        chosen, reason = num_blocks, "as asked for"
    elif most > needed * max_num_seqs:
        chosen, reason = needed * max_num_seqs, f"enough for max_num_seqs={max_num_seqs} of full length"
    else:
        chosen, reason = most, f"all of the {format_bytes(budget)} that are available"
    if chosen < needed and may_shrink and chosen * shape.block_size >= MIN_USEFUL_CONTEXT:
        max_model_len = chosen * shape.block_size
    elif chosen < needed:
        raise ModelTooLarge(
            f"one request of max_model_len={max_model_len} needs {needed} KV-cache blocks "
            f"({format_bytes(needed * shape.bytes_per_block)}), but the pool has {chosen} ({reason}); "
            + _what_would_fit(chosen * shape.block_size, num_blocks is not None),
            param="max_model_len",
        )
    return MemoryPlan(shape, budget, chosen, max_model_len, reason)


def available_ram() -> int:
    """Bytes of RAM that this process may still take: the machine's, or less by the limit of a cgroup."""
    return min([_meminfo("MemAvailable"), *cgroup_headrooms()])


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


def _what_would_fit(num_tokens: int, size_was_given: bool) -> str:
    more = "a larger num_blocks" if size_was_given else "more memory or a larger memory_fraction"
    if num_tokens == 0:
        return f"{more} is needed"
    return f"max_model_len={num_tokens} or less would fit, or {more}"


class CgroupFiles(NamedTuple):
    """Where a version of Linux' control groups says what it limits and what is in use.

    Attributes:
        cache: Fields of memory.stat that count as in use but are given back when memory is short:
            the file pages, to which a checkpoint that was just read belongs.
    """

    limit: str
    usage: str
    cache: tuple[str, ...]


CGROUP_V2 = CgroupFiles("memory.max", "memory.current", ("active_file", "inactive_file"))
CGROUP_V1 = CgroupFiles(
    "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")
)


def cgroup_headrooms(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """What each control group that this process is in, and each group around it, leaves it in bytes."""
    headrooms: list[int] = []
    if not membership.exists():
        return headrooms
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            files, mount = CGROUP_V2, root
        elif "memory" in controllers.split(","):
            files, mount = CGROUP_V1, root / "memory"
        else:
            continue
        group = mount / path.lstrip("/")
        # Inside a container the path may be the host's; what is mounted there is the group itself.
        for folder in (group, *group.parents):
            headroom = _headroom(folder, files)
            if headroom is not None:
                headrooms.append(headroom)
            if folder == mount:
                break
    return headrooms


def _headroom(folder: Path, files: CgroupFiles) -> int | None:
    """The limit less what is in use for good, or None where there is no limit."""
    if not (folder / files.limit).exists() or not (folder / files.usage).exists():
        return None
    limit = (folder / files.limit).read_text().strip()
    if not limit.isdigit() or int(limit) >= 1 << 60:  # v1 writes a huge number for none
        return None
    used = int((folder / files.usage).read_text())
    if (folder / "memory.stat").exists():
        stat = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
        used -= sum(int(stat.get(name, 0)) for name in files.cache)
    return max(0, int(limit) - max(0, used))


def format_bytes(num_bytes: float) -> str:
    """Bytes in the largest binary unit, with four figures."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.4g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.4g} TiB"

"""The arithmetic of the block pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.engine.memory import (
    KVCacheShape,
    available_ram,
    cgroup_headrooms,
    format_bytes,
    plan_pool,
    total_ram,
)
from quire.errors import ModelTooLarge

# Qwen2.5-0.5B in bf16: 2 x 24 layers x 2 heads x 64 x 2 bytes = 12,288 bytes a token.
SHAPE = KVCacheShape(num_layers=24, num_kv_heads=2, head_size=64, block_size=16, dtype_size=2)


def test_a_token_costs_keys_and_values_of_all_layers() -> None:
    assert SHAPE.bytes_per_token == 12_288
    assert SHAPE.bytes_per_block == 16 * 12_288


def test_the_pool_takes_the_budget() -> None:
    plan = plan_pool(SHAPE, budget=1 << 30, max_model_len=4096, max_num_seqs=256)
    assert plan.num_blocks == (1 << 30) // SHAPE.bytes_per_block
    assert f"{plan.num_blocks:,} blocks" in plan.describe()
    assert "12,288 bytes" in plan.describe()


def test_the_pool_is_no_larger_than_can_be_used() -> None:
    plan = plan_pool(SHAPE, budget=1 << 40, max_model_len=100, max_num_seqs=3)
    assert plan.num_blocks == 3 * 7


def test_what_does_not_fit_is_refused_and_what_would_fit_is_said() -> None:
    with pytest.raises(ModelTooLarge, match="max_model_len=848 or less"):
        plan_pool(SHAPE, budget=10 << 20, max_model_len=4096, max_num_seqs=4)
    with pytest.raises(ModelTooLarge, match="which is 53 blocks"):
        plan_pool(SHAPE, budget=10 << 20, max_model_len=64, max_num_seqs=4, num_blocks=100)


def test_available_memory_is_some_of_the_whole() -> None:
    assert 0 < available_ram() <= total_ram()


def test_a_context_that_may_shrink_becomes_what_fits() -> None:
    plan = plan_pool(SHAPE, budget=1 << 30, max_model_len=131_072, max_num_seqs=4, may_shrink=True)
    assert plan.max_model_len == plan.num_tokens == (1 << 30) // SHAPE.bytes_per_block * 16
    with pytest.raises(ModelTooLarge, match="max_model_len=848 or less"):
        plan_pool(SHAPE, budget=10 << 20, max_model_len=131_072, max_num_seqs=4, may_shrink=True)


def test_the_tightest_control_group_counts_and_cached_files_do_not(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("0::/service/job\n")
    root = tmp_path / "cgroup"
    (root / "service" / "job").mkdir(parents=True)
    for folder, limit, used, cached in (("service", "1000", "900", 600), ("service/job", "max", "50", 0)):
        (root / folder / "memory.max").write_text(limit)
        (root / folder / "memory.current").write_text(used)
        (root / folder / "memory.stat").write_text(f"anon 5\nactive_file {cached}\ninactive_file 0\n")
    assert cgroup_headrooms(root, membership) == [700]


def test_control_groups_of_the_first_version(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("3:cpu,cpuacct:/x\n2:memory:/docker/abc\n")
    # Inside a container the path of the host is not there, but its group is mounted at the top.
    root = tmp_path / "cgroup"
    (root / "memory").mkdir(parents=True)
    (root / "memory" / "memory.limit_in_bytes").write_text("5000\n")
    (root / "memory" / "memory.usage_in_bytes").write_text("4000\n")
    (root / "memory" / "memory.stat").write_text("cache 1\ntotal_active_file 1000\ntotal_inactive_file 500\n")
    assert cgroup_headrooms(root, membership) == [2500]
    (root / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert cgroup_headrooms(root, membership) == []
    assert cgroup_headrooms(root, tmp_path / "absent") == []


def test_bytes_in_words() -> None:
    assert [format_bytes(n) for n in (0, 1023, 1536, 3 << 30)] == ["0 B", "1023 B", "1.5 KiB", "3 GiB"]

"""The arithmetic of the block pool."""

from __future__ import annotations

import pytest

from quire.engine.memory import KVCacheShape, available_ram, format_bytes, plan_pool, total_ram
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


def test_bytes_in_words() -> None:
    assert [format_bytes(n) for n in (0, 1023, 1536, 3 << 30)] == ["0 B", "1023 B", "1.5 KiB", "3 GiB"]

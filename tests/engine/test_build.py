"""What an engine resolves before it loads anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quire.engine.config import EngineConfig
from quire.engine.model_choice import choose
from quire.engine.pool import kv_cache_shape


@pytest.mark.parametrize(
    ("name", "dtype"), [("auto", torch.float32), ("bfloat16", torch.bfloat16), ("int8", torch.int8)]
)
def test_the_cache_takes_the_dtype_that_is_asked_for(
    name: str, dtype: torch.dtype, tiny_model: Callable[..., Path]
) -> None:
    config = EngineConfig(model=str(tiny_model()), device="cpu", dtype="float32", kv_cache_dtype=name)  # type: ignore[arg-type]
    assert choose(config).cache_dtype == dtype


def test_a_cpu_refuses_a_cache_in_fp8(tiny_model: Callable[..., Path]) -> None:
    config = EngineConfig(model=str(tiny_model()), device="cpu", kv_cache_dtype="fp8")
    with pytest.raises(ValueError, match="kv_cache_dtype is 'fp8', which needs a GPU"):
        choose(config)


def test_a_gpu_takes_a_cache_in_fp8(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte for each channel, and no scales."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    choice = choose(EngineConfig(model=str(tiny_model()), device="cuda", kv_cache_dtype="fp8"))
    assert choice.cache_dtype == torch.float8_e4m3fn
    assert kv_cache_shape(choice, 16).bytes_per_head == choice.config.head_size
    int8 = kv_cache_shape(replace(choice, cache_dtype=torch.int8), 16)
    assert int8.bytes_per_head == choice.config.head_size + 4

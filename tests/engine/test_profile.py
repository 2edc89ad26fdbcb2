"""The step that is run to measure memory is as large as it claims, and valid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quire.engine.config import EngineConfig
from quire.engine.model_choice import choose
from quire.engine.pool import kv_cache_shape
from quire.engine.profile import run_largest_step
from quire.models.loader import load_model


@pytest.mark.parametrize("num_tokens", [1, 100, 256, 700])
def test_the_largest_step_runs(tiny_model: Callable[..., Path], num_tokens: int) -> None:
    choice = choose(EngineConfig(model=str(tiny_model())))
    model: Any = load_model(choice.folder, choice.config, device="cpu", dtype=torch.float32)
    seen: list[tuple[int, int]] = []
    forward, compute_logits = model.forward, model.compute_logits

    class Watched:
        def forward(self, input_ids: torch.Tensor, *args: Any) -> torch.Tensor:
            seen.append((len(input_ids), len(args[1].seq_lens)))
            return forward(input_ids, *args)

        def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(hidden.shape))  # type: ignore[arg-type]
            return compute_logits(hidden)

    run_largest_step(
        Watched(),
        kv_cache_shape(choice, 16),
        device=torch.device("cpu"),
        dtype=torch.float32,
        num_tokens=num_tokens,
        num_seqs=8,
        max_model_len=256,
    )
    assert seen == [(num_tokens, -(-num_tokens // 256)), (8, 64)]

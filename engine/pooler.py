"""Makes one vector of the hidden states of a prompt that comes in chunks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.pooling import PoolingMode
from .step_data import ScheduledChunk

NUM_KEPT = 4
"""Sums that are kept of a request: steps are executed again from at most two steps back."""


class Pooler:
    """Pools the states of the requests that ask for it (`SamplingParams.pooling`)."""

    def __init__(self) -> None:
        # By request, float64 `[hidden]` by the number of states that were summed.
        self._sums: dict[str, dict[int, Tensor]] = {}

    def release(self, request_ids: Sequence[str]) -> None:
        """Forgets requests that have ended, or that begin anew after a preemption."""
        if self._sums:
            for request_id in request_ids:
                self._sums.pop(request_id, None)

    def pool(self, chunks: Sequence[ScheduledChunk], hidden: Tensor) -> dict[int, Tensor]:
        """Takes in a step's states. Taking in the last steps again is harmless.

        Args:
            chunks: The step's chunks.
            hidden: `[T, hidden]`, the states of their tokens.

        Returns:
            By chunk index, the vectors of the prompts that are complete, fp32 `[hidden]`.
        """
        pooled: dict[int, Tensor] = {}
        row = 0
        for i, (request, start, end, _) in enumerate(chunks):
            first, row = row, row + end - start
            mode = request.params.pooling
            is_last = end == request.num_prompt_tokens
            if mode == "mean":
                total = self._add(request.request_id, start, end, hidden[first:row].double().sum(dim=0))
                if is_last:
                    pooled[i] = (total / end).float()
            elif mode == "last" and is_last:
                pooled[i] = hidden[row - 1].float().clone()
        return pooled

    def _add(self, request_id: str, start: int, end: int, states: Tensor) -> Tensor:
        known = self._sums.setdefault(request_id, {})
        total = states if start == 0 else known[start] + states
        known.pop(end, None)
        known[end] = total
        if len(known) > NUM_KEPT:
            del known[next(iter(known))]
        return total


def pool_whole(states: Tensor, mode: PoolingMode) -> Tensor:
    """The vector of a whole text's states.

    Args:
        states: `[n, hidden]`.
        mode: See `PoolingConfig.mode`.

    Returns:
        fp32 `[hidden]`.
    """
    if mode == "cls":
        return states[0].float()
    if mode == "last":
        return states[-1].float()
    if mode == "max":
        return states.amax(dim=0).float()
    num = states.shape[0]
    wide = states.double()
    if mode == "weightedmean":
        weights = torch.arange(1, num + 1, dtype=torch.float64, device=states.device)
        return ((wide * weights[:, None]).sum(dim=0) / weights.sum()).float()
    return (wide.sum(dim=0) / (num if mode == "mean" else num**0.5)).float()


def to_bytes(vector: Tensor) -> bytes:
    """float32, little-endian."""
    return vector.cpu().numpy().astype("<f4").tobytes()

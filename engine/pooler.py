"""Makes one vector of the hidden states of a prompt that comes in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .scheduler import ScheduledChunk


class _Sum(NamedTuple):
    """The sum of a request's states before `start` and before `end`, float64 `[hidden]`."""

    start: int
    before: Tensor | None
    end: int
    total: Tensor


class Pooler:
    """Pools the states of the requests that ask for it (`SamplingParams.pooling`)."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sum] = {}

    def release(self, request_ids: Sequence[str]) -> None:
        """Forgets requests that have ended, or that begin anew after a preemption."""
        if self._sums:
            for request_id in request_ids:
                self._sums.pop(request_id, None)

    def pool(self, chunks: Sequence[ScheduledChunk], hidden: Tensor) -> dict[int, bytes]:
        """Takes in a step's states. Taking in the last step again is harmless.

        Args:
            chunks: The step's chunks.
            hidden: `[T, hidden]`, the states of their tokens.

        Returns:
            By chunk index, the vectors of the prompts that are complete: float32, little-endian.
        """
        pooled: dict[int, bytes] = {}
        row = 0
        for i, (request, start, end, is_last) in enumerate(chunks):
            first, row = row, row + end - start
            mode = request.params.pooling
            if mode == "mean":
                total = self._add(request.request_id, start, end, hidden[first:row].double().sum(dim=0))
                if is_last:
                    pooled[i] = _to_bytes(total / end)
            elif mode == "last" and is_last:
                pooled[i] = _to_bytes(hidden[row - 1])
        return pooled

    def _add(self, request_id: str, start: int, end: int, states: Tensor) -> Tensor:
        known = self._sums.get(request_id)
        before = None
        if known is not None and start > 0:
            before = known.total if known.end == start else known.before
        total = states if before is None else before + states
        self._sums[request_id] = _Sum(start, before, end, total)
        return total


def _to_bytes(vector: Tensor) -> bytes:
    return vector.float().cpu().numpy().astype("<f4").tobytes()

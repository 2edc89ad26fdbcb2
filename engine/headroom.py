"""How many blocks must stay free when a request is admitted beside running ones."""

from __future__ import annotations

from collections.abc import Iterable

from .block_manager import BlockManager
from .request import Request

RESERVE_ALL_AFTER = 4
"""Preemptions after which a request runs again only when its blocks are sure to last."""


class Headroom:
    """Counts the blocks that requests will grow by."""

    def __init__(self, block_manager: BlockManager) -> None:
        self._block_manager = block_manager

    def needed(self, request: Request, running: Iterable[Request], reserved: int) -> int:
        """Blocks that must stay free for growth when a request is admitted beside running ones.

        `reserved` is what holds for a request that was never preempted: one block each.
        """
        times = request.num_preemptions
        if times == 0:
            return reserved + self.growth(request, 1)
        limit = None if times >= RESERVE_ALL_AFTER else 1 << times
        return self.reserved(running, limit) + self.growth(request, limit)

    def reserved(self, running: Iterable[Request], limit: int | None) -> int:
        """Blocks that the running requests may still take, each counted up to a limit."""
        return sum(self.growth(request, limit) for request in running)

    def growth(self, request: Request, limit: int | None) -> int:
        """Blocks that a request lacks for its known tokens, and up to `limit` for those to come."""
        manager = self._block_manager
        known = manager.blocks_for(request.num_tokens)
        growth = manager.blocks_for(request.max_num_tokens) - known
        missing = known - len(request.block_ids) if request.block_ids else 0
        return missing + (growth if limit is None else min(growth, limit))

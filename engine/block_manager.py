"""One block table per request, over a shared pool; prefix caching by chained hashes."""

from __future__ import annotations

from array import array
from hashlib import blake2b

from .block_pool import BlockPool
from .request import Request


class BlockManager:
    """Gives requests the blocks that their tokens need, and finds prefixes that are cached.

    A full block's hash covers its own tokens and the hash of the block before it, so equal hashes
    mean equal whole prefixes (128-bit BLAKE2b; the first parent is the request's cache salt, which
    keeps tenants apart). Full computed blocks are published and immutable; only a request's
    unpublished blocks are written, and those have one owner.

    Args:
        num_blocks: Size of the pool.
        block_size: Tokens per block.
        enable_prefix_caching: Whether blocks are published and looked up.
    """

    def __init__(self, num_blocks: int, block_size: int, *, enable_prefix_caching: bool = True) -> None:
        self.pool = BlockPool(num_blocks)
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self._holders: dict[str, Request] = {}
        self.num_prefix_queries = 0
        self.num_prefix_hits = 0

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-num_tokens // self.block_size)

    def find_cached_prefix(self, request: Request) -> list[int]:
        """The cached blocks at the request's start; at least its last token is left to compute.

        A request that wants prompt log-probabilities, or the mean of the hidden states, needs every
        row computed and gets none.
        """
        params = request.params
        if not self.enable_prefix_caching or params.prompt_logprobs is not None or params.pooling == "mean":
            return []
        blocks: list[int] = []
        limit = (request.num_tokens - 1) // self.block_size
        self._extend_hashes(request, limit)
        for content in request.block_hashes[:limit]:
            block = self.pool.lookup(content)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_blocks_to_admit(self, cached: list[int], num_tokens: int) -> int:
        """Free blocks that `admit` would take: new ones, and cached ones that are free now."""
        revived = sum(map(self.pool.is_free, cached))
        return self.blocks_for(num_tokens) - len(cached) + revived

    def admit(self, request: Request, cached: list[int], num_tokens: int) -> None:
        """Starts a table with the cached blocks and room for `num_tokens` in all.

        The caller has made sure that `num_blocks_to_admit` blocks are free.
        """
        self.pool.acquire(cached)
        missing = self.blocks_for(num_tokens) - len(cached)
        request.block_ids = cached + self.pool.allocate(missing)
        request.num_computed_tokens = len(cached) * self.block_size
        self._holders[request.request_id] = request
        if self.enable_prefix_caching and request.num_preemptions == 0:
            self.num_prefix_queries += request.num_tokens
            self.num_prefix_hits += request.num_computed_tokens

    def grow(self, request: Request, num_tokens: int) -> bool:
        """Makes room for `num_tokens` in all; returns False, changing nothing, if the pool cannot."""
        missing = -(-num_tokens // self.block_size) - len(request.block_ids)
        if missing <= 0:
            return True
        if missing > self.pool.num_free_blocks:
            return False
        request.block_ids += self.pool.allocate(missing)
        return True

    def publish(self, request: Request, start: int, end: int) -> None:
        """Lists the blocks that became full when the tokens `start..end` were computed."""
        first, last = start // self.block_size, end // self.block_size
        if first == last or not self.enable_prefix_caching:
            return
        self._extend_hashes(request, last)
        for i in range(first, last):
            self.pool.publish(request.block_ids[i], request.block_hashes[i])

    def free(self, request: Request) -> None:
        """Gives all of a request's blocks back; harmless if it has none."""
        if self._holders.pop(request.request_id, None) is not None:
            self.pool.release(request.block_ids)
            request.block_ids = []

    def check_integrity(self) -> None:
        """Raises AssertionError if the pool and the tables disagree (see `BlockPool`)."""
        self.pool.check_integrity([request.block_ids for request in self._holders.values()])
        for request in self._holders.values():
            assert len(request.block_ids) >= self.blocks_for(request.num_computed_tokens), request

    def _extend_hashes(self, request: Request, num_blocks: int) -> None:
        """Makes the hashes of the request's first `num_blocks` full blocks."""
        hashes, size = request.block_hashes, self.block_size
        parent = hashes[-1] if hashes else _root(request.cache_salt)
        for i in range(len(hashes), num_blocks):
            tokens = array("q", request.token_ids[i * size : (i + 1) * size])
            parent = blake2b(tokens.tobytes(), key=parent, digest_size=16).digest()
            hashes.append(parent)


def _root(salt: str | None) -> bytes:
    """The parent of a first block."""
    return blake2b(
        (salt or "").encode("utf-8", "surrogatepass"), person=b"quire.salt", digest_size=16
    ).digest()

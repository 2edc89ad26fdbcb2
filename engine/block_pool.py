"""The pool of KV-cache blocks: who is free, who is shared, who holds which content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

FREE, CACHED, OWNED, SHARED = b"fcos"
"""A block's state, as `BlockPool.states` gives it: free with no content, free with content that can be
found again, held by one request, held by several."""


class BlockPool:
    """A fixed number of blocks with reference counts and an index of their contents.

    A block is *free* when nobody refers to it. A free block may still hold content that is listed
    in the index; it can be revived until it is allocated anew. Free blocks are reused in the order
    in which they were released (least recently used first).

    The prefix index maps a content hash to one block. Contents are published only when a block is
    full and computed; from then on the block is immutable.
    """

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise ValueError(f"a pool needs at least one block, got {num_blocks}")
        self.num_blocks = num_blocks
        self._reference_counts = [0] * num_blocks
        # A linked list with O(1) removal from the middle, which revival needs; oldest first.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._changed: set[int] | None = None  # since the last look, while somebody looks

    @property
    def num_free_blocks(self) -> int:
        """Blocks that can be allocated, cached ones included."""
        return len(self._free)

    @property
    def num_cached_blocks(self) -> int:
        """Blocks, free or not, whose content is in the index."""
        return len(self._block_of)

    def reference_count(self, block: int) -> int:
        """How many requests refer to a block."""
        return self._reference_counts[block]

    def allocate(self, num_blocks: int) -> list[int]:
        """Takes the least recently used free blocks; the caller becomes their one owner.

        Raises ValueError if fewer are free; the caller checks first.
        """
        if num_blocks > len(self._free):
            raise ValueError(f"{num_blocks} blocks wanted, {len(self._free)} are free")
        blocks: list[int] = []
        for _ in range(num_blocks):
            block, _none = self._free.popitem(last=False)
            content = self._hash_of[block]
            if content is not None:
                del self._block_of[content]
                self._hash_of[block] = None
            self._reference_counts[block] = 1
            blocks.append(block)
        if self._changed is not None:
            self._changed.update(blocks)
        return blocks

    def lookup(self, content: bytes) -> int | None:
        """The block that holds this content, or None. Does not take a reference."""
        return self._block_of.get(content)

    def is_free(self, block: int) -> bool:
        """Whether nobody refers to the block."""
        return self._reference_counts[block] == 0

    def acquire(self, blocks: Sequence[int]) -> None:
        """Takes one more reference to each block, reviving those that are free."""
        for block in blocks:
            if self._reference_counts[block] == 0:
                del self._free[block]
            self._reference_counts[block] += 1
        if self._changed is not None:
            self._changed.update(blocks)

    def release(self, blocks: Sequence[int]) -> None:
        """Gives back one reference to each block, last block first.

        The last block of a sequence is the least likely to be shared, so it is reused first.
        Raises ValueError if a block is not in use.
        """
        for block in reversed(blocks):
            count = self._reference_counts[block]
            if count == 0:
                raise ValueError(f"block {block} is released but not in use")
            self._reference_counts[block] = count - 1
            if count == 1:
                self._free[block] = None
                if self._hash_of[block] is None:
                    # Nothing to lose: reuse it before any block that holds content.
                    self._free.move_to_end(block, last=False)
        if self._changed is not None:
            self._changed.update(blocks)

    def publish(self, block: int, content: bytes) -> None:
        """Lists a full, computed block in the index; the first block with a content stays listed."""
        if content not in self._block_of and self._hash_of[block] is None:
            self._block_of[content] = block
            self._hash_of[block] = content

    def forget_free_contents(self) -> None:
        """Drops the contents of all free blocks from the index; blocks in use stay listed."""
        for block in self._free:
            content = self._hash_of[block]
            if content is not None:
                del self._block_of[content]
                self._hash_of[block] = None
                if self._changed is not None:
                    self._changed.add(block)

    def track_changes(self, wanted: bool) -> None:
        """Starts, or stops, remembering which blocks change their state."""
        self._changed = set() if wanted else None

    def take_changes(self) -> set[int]:
        """The blocks that may have changed since the last call, or since `track_changes`."""
        changed = self._changed or set[int]()
        if changed:
            self._changed = set()
        return changed

    def states(self, blocks: Iterable[int]) -> bytes:
        """The state of each block: `FREE`, `CACHED`, `OWNED` or `SHARED`."""
        counts, hashes = self._reference_counts, self._hash_of
        return bytes(
            (SHARED if counts[block] > 1 else OWNED)
            if counts[block]
            else (FREE if hashes[block] is None else CACHED)
            for block in blocks
        )

    def check_integrity(self, tables: Sequence[Sequence[int]]) -> None:
        """Raises AssertionError unless the pool's books agree with the block tables in use.

        Checked: free and used blocks add up; each reference count equals the number of tables
        that hold the block; a block without published content has at most one owner; the index
        and the blocks' hashes are inverse to each other.
        """
        counts = [0] * self.num_blocks
        for table in tables:
            assert len(set(table)) == len(table), f"a table holds a block twice: {table}"
            for block in table:
                counts[block] += 1
        assert counts == self._reference_counts, "reference counts differ from the tables"
        unused = {block for block, count in enumerate(counts) if count == 0}
        assert unused == set(self._free), "the free list is not the set of unused blocks"
        for block, count in enumerate(counts):
            assert count <= 1 or self._hash_of[block] is not None, f"writable block {block} is shared"
        listed = {content: block for block, content in enumerate(self._hash_of) if content is not None}
        assert listed == self._block_of, "the index differs from the blocks' hashes"

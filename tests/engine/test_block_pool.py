"""The block pool against a naive model, by random sequences of operations."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quire.engine.block_pool import BlockPool

NUM_BLOCKS = 6


class NaivePool:
    """What a pool means, with no thought of speed: tables, contents, and an order of reuse."""

    def __init__(self) -> None:
        self.tables: list[list[int]] = []
        self.content: dict[int, bytes] = {}
        self.order = list(range(NUM_BLOCKS))

    def used(self) -> set[int]:
        return {block for table in self.tables for block in table}

    def free(self) -> list[int]:
        return [block for block in self.order if block not in self.used()]


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.naive = NaivePool()

    @rule(count=st.integers(0, NUM_BLOCKS + 1))
    def allocate(self, count: int) -> None:
        free = self.naive.free()
        if count > len(free):
            with pytest.raises(ValueError, match="are free"):
                self.pool.allocate(count)
            return
        blocks = self.pool.allocate(count)
        assert blocks == free[:count]
        for block in blocks:
            self.naive.content.pop(block, None)
        if blocks:
            self.naive.tables.append(blocks)

    @precondition(lambda self: self.naive.tables)
    @rule(data=st.data(), content=st.binary(min_size=1, max_size=1))
    def publish(self, data: st.DataObject, content: bytes) -> None:
        table = data.draw(st.sampled_from(self.naive.tables))
        block = data.draw(st.sampled_from(table))
        self.pool.publish(block, content)
        if content not in self.naive.content.values() and block not in self.naive.content:
            self.naive.content[block] = content

    @precondition(lambda self: self.naive.content)
    @rule(data=st.data())
    def acquire(self, data: st.DataObject) -> None:
        contents = data.draw(st.lists(st.sampled_from(sorted(self.naive.content.values())), unique=True))
        blocks: list[int] = []
        for content in contents:
            block = self.pool.lookup(content)
            assert block is not None
            assert self.naive.content[block] == content
            blocks.append(block)
        self.pool.acquire(blocks)
        if blocks:
            self.naive.tables.append(blocks)

    @precondition(lambda self: self.naive.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        table = self.naive.tables.pop(data.draw(st.integers(0, len(self.naive.tables) - 1)))
        self.pool.release(table)
        for block in reversed(table):
            if block not in self.naive.used():
                self.naive.order.remove(block)
                place = len(self.naive.order) if block in self.naive.content else 0
                self.naive.order.insert(place, block)

    @rule()
    def forget_free_contents(self) -> None:
        self.pool.forget_free_contents()
        for block in self.naive.free():
            self.naive.content.pop(block, None)

    @invariant()
    def books_agree(self) -> None:
        self.pool.check_integrity(self.naive.tables)
        assert self.pool.num_free_blocks == len(self.naive.free())
        assert self.pool.num_cached_blocks == len(self.naive.content)
        for value in range(256):
            content = bytes([value])
            assert (self.pool.lookup(content) is not None) == (content in self.naive.content.values())


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_releasing_a_free_block_is_an_error() -> None:
    pool = BlockPool(2)
    (block,) = pool.allocate(1)
    pool.release([block])
    with pytest.raises(ValueError, match="not in use"):
        pool.release([block])


def test_integrity_check_sees_a_wrong_table() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(2)
    for tables in ([], [blocks, blocks], [[blocks[0]]], [[*blocks, blocks[0]]]):
        with pytest.raises(AssertionError):
            pool.check_integrity(tables)

"""What watchers are told of the blocks equals what the pool says, however they come and go."""

from __future__ import annotations

import random

import pytest

from quire.engine.block_map import REPORT_SECONDS, BlockMap, BlockReporter, BlockWatcher, Run, runs_of
from quire.engine.block_pool import CACHED, FREE, OWNED, SHARED, BlockPool

NUM_BLOCKS = 40


class Wire:
    """A pool, its reporter, and a map at the other end; time passes by hand."""

    def __init__(self) -> None:
        self.pool = BlockPool(NUM_BLOCKS)
        self.now = 0.0
        self.reports: list[tuple[list[Run], bool]] = []
        self.reporter = BlockReporter(
            self.pool, lambda runs, is_whole: self.reports.append((runs, is_whole)), lambda: self.now
        )
        self.map = BlockMap(self._switch)

    def _switch(self, wanted: bool) -> None:
        if wanted:
            self.reporter.watch()
        else:
            self.reporter.unwatch()

    def deliver(self) -> None:
        for runs, is_whole in self.reports:
            self.map.update(runs, is_whole=is_whole)
        self.reports.clear()

    def expected(self) -> bytes:
        return self.pool.states(range(NUM_BLOCKS))


class Screen:
    """A browser: it has nothing but what its watcher gave it."""

    def __init__(self, watcher: BlockWatcher) -> None:
        self.watcher = watcher
        self.states = bytearray()

    def refresh(self) -> bytes:
        for first, states in self.watcher.take():
            assert first <= len(self.states)
            self.states[first : first + len(states)] = states
        return bytes(self.states)


def test_the_four_states() -> None:
    pool = BlockPool(4)
    owned, shared, cached = pool.allocate(3)
    pool.publish(shared, b"s")
    pool.acquire([shared])
    pool.publish(cached, b"c")
    pool.release([cached])
    assert pool.states([owned, shared, cached, 3]) == bytes([OWNED, SHARED, CACHED, FREE]) == b"oscf"
    pool.forget_free_contents()
    assert pool.states([cached]) == b"f"


def test_runs() -> None:
    letters = b"abcdefghij"
    runs = runs_of({9, 2, 3, 4, 7}, lambda blocks: bytes(letters[block] for block in blocks))
    assert runs == [(2, b"cde"), (7, b"h"), (9, b"j")]
    assert runs_of(set(), lambda _: b"") == []


def test_nothing_is_reported_while_nobody_watches() -> None:
    wire = Wire()
    wire.pool.allocate(3)
    wire.reporter.after_step(is_idle=True)
    assert wire.reports == []
    with wire.map.watch():
        pass
    wire.reports.clear()
    wire.pool.allocate(3)
    wire.reporter.after_step(is_idle=True)
    assert wire.reports == []
    assert wire.pool.take_changes() == set()


def test_reports_keep_their_distance_but_idleness_is_told_at_once() -> None:
    wire = Wire()
    with wire.map.watch():
        wire.reports.clear()
        wire.pool.allocate(2)
        wire.reporter.after_step(is_idle=False)
        assert wire.reports == []
        wire.now += REPORT_SECONDS
        wire.reporter.after_step(is_idle=False)
        assert wire.reports == [([(0, b"oo")], False)]
        wire.pool.release([0, 1])
        wire.reporter.after_step(is_idle=True)
        assert wire.reports[1:] == [([(0, b"ff")], False)]


def test_a_second_watcher_begins_with_everything() -> None:
    wire = Wire()
    with wire.map.watch() as first:
        wire.deliver()
        assert first.take() == [(0, b"f" * NUM_BLOCKS)]
        wire.pool.allocate(1)
        wire.reporter.after_step(is_idle=True)
        wire.deliver()
        with wire.map.watch() as second:
            assert second.take() == [(0, b"o" + b"f" * (NUM_BLOCKS - 1))]
            assert first.take() == [(0, b"o")]
            assert wire.map.num_watchers == 2
            assert first.take() == second.take() == []


def test_what_is_left_of_an_earlier_watch_is_not_taken_for_the_map() -> None:
    wire = Wire()
    with wire.map.watch():
        wire.pool.allocate(1)
        wire.reporter.after_step(is_idle=True)
    with wire.map.watch() as again:
        late = wire.reports[1]
        assert late == ([(0, b"o")], False)
        wire.map.update(late[0], is_whole=False)
        assert again.take() == []
        wire.deliver()
        assert again.take() == [(0, wire.expected())]


def test_after_a_restart_all_blocks_come_again() -> None:
    wire = Wire()
    with wire.map.watch() as watcher:
        wire.deliver()
        watcher.take()
        wire.map.clear()
        assert watcher.take() == []
        wire.map.update([(0, b"fo")], is_whole=True)
        assert watcher.take() == [(0, b"fo")]


@pytest.mark.parametrize("seed", range(20))
def test_screens_show_the_pool(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    wire = Wire()
    tables: list[list[int]] = []
    with wire.map.watch() as watcher:
        screens = [Screen(watcher)]
        wire.deliver()
        for step in range(300):
            match rng.choice(("allocate", "share", "release", "publish", "forget")):
                case "allocate" if wire.pool.num_free_blocks:
                    tables.append(wire.pool.allocate(rng.randint(1, min(6, wire.pool.num_free_blocks))))
                case "share" if tables:
                    table = rng.choice(tables)
                    wire.pool.acquire(table)
                    tables.append(list(table))
                case "release" if tables:
                    wire.pool.release(tables.pop(rng.randrange(len(tables))))
                case "publish" if tables:
                    wire.pool.publish(rng.choice(rng.choice(tables)), rng.randbytes(4))
                case "forget" if step % 10 == 0:
                    wire.pool.forget_free_contents()
                case _:
                    pass
            wire.now += REPORT_SECONDS * rng.random()
            wire.reporter.after_step(is_idle=False)
            wire.deliver()
            if rng.random() < 0.2:
                rng.choice(screens).refresh()
        wire.reporter.after_step(is_idle=True)
        wire.deliver()
        for screen in screens:
            assert screen.refresh() == wire.expected()

"""What each KV-cache block is doing, for those who watch: kept in the server's process, told by the engine's.

The engine's `BlockReporter` says what has changed, a few times a second and only while it is asked to.
The server's `BlockMap` holds the result and gives each of its watchers what that watcher has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

from .block_pool import BlockPool

REPORT_SECONDS = 0.25
"""The engine reports at most this often while it is busy."""

Run = tuple[int, bytes]
"""Neighbouring blocks: the first one's number, and the state of each, one letter of `BlockState`."""


class BlockReporter:
    """Watches a pool on behalf of another process.

    Args:
        pool: The pool to watch. While nobody does, this costs one comparison per step.
        send: Takes the runs of a report, and whether they are all blocks.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, pool: BlockPool, send: Callable[[list[Run], bool], None], clock: Callable[[], float]
    ) -> None:
        self._pool = pool
        self._send = send
        self._clock = clock
        self._is_watching = False
        self._next_report = 0.0

    def watch(self) -> None:
        """Reports all blocks now, and from now on those that change."""
        self._pool.track_changes(True)
        self._is_watching = True
        self._send([(0, self._pool.states(range(self._pool.num_blocks)))], True)
        self._next_report = self._clock() + REPORT_SECONDS

    def unwatch(self) -> None:
        """Reports no more."""
        self._pool.track_changes(False)
        self._is_watching = False

    def after_step(self, *, is_idle: bool) -> None:
        """Reports what has changed, if it is time; before an idle spell it always is."""
        if not self._is_watching:
            return
        now = self._clock()
        if now >= self._next_report:
            self._next_report = now + REPORT_SECONDS
        elif not is_idle:  # an idle report does not put off the next: short requests would never be seen
            return
        if changed := self._pool.take_changes():
            self._send(runs_of(changed, self._pool.states), False)


class BlockWatcher:
    """One watcher's view of a `BlockMap`: what it has not taken yet."""

    def __init__(self, block_map: BlockMap) -> None:
        self._map = block_map
        self._changed: set[int] = set()
        self._is_new = True

    def take(self) -> list[Run]:
        """The runs that are new since the last call; at first, and after a restart, all blocks."""
        changed, self._changed = self._changed, set()
        if self._is_new:
            self._is_new = not self._map.num_blocks
            return [(0, bytes(self._map.states))] if self._map.num_blocks else []
        return runs_of(changed, lambda blocks: bytes(self._map.states[block] for block in blocks))

    def note(self, first: int, num_blocks: int) -> None:
        """Remembers that these blocks have changed."""
        if not self._is_new:
            self._changed.update(range(first, first + num_blocks))

    def start_again(self) -> None:
        """Forgets what was taken: the pool is another one."""
        self._is_new = True
        self._changed.clear()


class BlockMap:
    """The states of an engine's blocks, up to date while somebody watches.

    Args:
        switch: Called with True when the first watcher comes, with False when the last one goes.

    Attributes:
        states: One letter per block; empty until the engine has reported.
    """

    def __init__(self, switch: Callable[[bool], None]) -> None:
        self._switch = switch
        self._watchers: list[BlockWatcher] = []
        self.states = bytearray()

    @property
    def num_blocks(self) -> int:
        """The blocks that the engine has reported."""
        return len(self.states)

    @property
    def num_watchers(self) -> int:
        """How many watch now."""
        return len(self._watchers)

    @contextmanager
    def watch(self) -> Generator[BlockWatcher]:
        """A watcher, for as long as the context lasts."""
        watcher = BlockWatcher(self)
        self._watchers.append(watcher)
        try:
            if len(self._watchers) == 1:
                self._switch(True)
            yield watcher
        finally:
            self._watchers.remove(watcher)
            if not self._watchers:
                self._switch(False)
                self.states.clear()  # from now on they are out of date

    def clear(self) -> None:
        """The engine is gone; the next one's first report has all blocks."""
        self.states.clear()
        for watcher in self._watchers:
            watcher.start_again()

    def update(self, runs: Iterable[Run], *, is_whole: bool) -> None:
        """Takes in a report of all blocks, or of changes."""
        if not self._watchers or not (is_whole or self.states):
            return  # what is left of a watch that has ended
        for first, states in runs:
            self.states[first : first + len(states)] = states
            for watcher in self._watchers:
                watcher.note(first, len(states))


def runs_of(blocks: Iterable[int], states: Callable[[range], bytes]) -> list[Run]:
    """Groups blocks into runs of neighbours, in ascending order."""
    runs: list[Run] = []
    first = end = -1
    for block in sorted(blocks):
        if block != end:
            if end > first:
                runs.append((first, states(range(first, end))))
            first = block
        end = block + 1
    if end > first:
        runs.append((first, states(range(first, end))))
    return runs

"""Deployments on disk: what they are, how far they have come, and what was decided, when, by whom and why.

SQLite with a write-ahead log, written by a thread of its own: the event loop only puts work into a queue. A
crash loses at most what was done since the last write; a file that cannot be written costs no request.
"""

from __future__ import annotations

import itertools
import json
import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ...errors import QuireError

logger = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS deployments (
    name TEXT PRIMARY KEY, spec TEXT NOT NULL, origin TEXT NOT NULL,
    strategy TEXT NOT NULL, totals TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, deployment TEXT NOT NULL, who TEXT NOT NULL,
    what TEXT NOT NULL, why TEXT NOT NULL, details TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS audit_of_deployment ON audit (deployment, id);
"""
BUSY_SECONDS = 5.0
MOST_ENTRIES = 10_000  # in memory


@dataclass(frozen=True, slots=True)
class SavedDeployment:
    """A row of `deployments`: JSON texts.

    Attributes:
        name: The deployment's.
        spec: As the owner gave it.
        origin: "config" if it stands in quire.toml, "api" if the admin API made it.
        strategy, totals: Its state.
    """

    name: str
    spec: str
    origin: str
    strategy: str
    totals: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A row of `audit`.

    Attributes:
        time: Seconds since 1970, by the wall clock.
        deployment: Its name.
        who: The name of an operator's API key, "operator" where there are no keys, "quire" for what a
            strategy decided by itself, "config" for quire.toml.
        what: A stable word.
        why: A sentence.
        details: Figures.
        id: The number of the entry; 0 before it is written.
    """

    time: float
    deployment: str
    who: str
    what: str
    why: str
    details: dict[str, Any]
    id: int = 0


class Store(Protocol):
    """Where deployments are kept."""

    def load(self) -> list[SavedDeployment]:
        """All deployments."""
        ...

    def save(self, saved: Sequence[SavedDeployment]) -> None:
        """Writes deployments, all or none, soon."""
        ...

    def delete(self, name: str) -> None:
        """Forgets a deployment, soon. Its audit log stays."""
        ...

    def note(self, entry: AuditEntry) -> None:
        """Writes down a decision, soon."""
        ...

    def audit(self, deployment: str | None, limit: int, before: int | None = None) -> list[AuditEntry]:
        """The latest decisions, the newest first; may block.

        Args:
            deployment: Of one, or None for all.
            limit: At most so many.
            before: Only those older than the entry with this id.
        """
        ...

    def close(self) -> None:
        """Writes the rest."""
        ...


class MemoryStore:
    """Keeps the audit log of this process, and nothing for the next."""

    def __init__(self) -> None:
        self._entries: deque[AuditEntry] = deque(maxlen=MOST_ENTRIES)
        self._ids = itertools.count(1)

    def load(self) -> list[SavedDeployment]:
        """None."""
        return []

    def save(self, saved: Sequence[SavedDeployment]) -> None:
        """Does nothing."""

    def delete(self, name: str) -> None:
        """Does nothing."""

    def note(self, entry: AuditEntry) -> None:
        """Remembers a decision."""
        self._entries.append(replace(entry, id=next(self._ids)))

    def audit(self, deployment: str | None, limit: int, before: int | None = None) -> list[AuditEntry]:
        """The latest decisions, the newest first."""
        found = (
            entry
            for entry in reversed(self._entries.copy())
            if deployment in (None, entry.deployment) and (before is None or entry.id < before)
        )
        return list(itertools.islice(found, limit))

    def close(self) -> None:
        """Does nothing."""


def open_store(path: Path) -> Store:
    """A file, made if it is not there. Raises `QuireError` if it cannot be had."""
    try:
        return DeploymentStore(path)
    except (sqlite3.Error, OSError) as error:
        raise QuireError(f"the deployments cannot be kept in {path}: {error}") from error


class DeploymentStore:
    """One file, which is this process' alone. Read before anything is served, then written by a thread.

    Raises:
        sqlite3.Error: It cannot be opened, is something else, or another process has it.
        OSError: It cannot be made private to its owner.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._connection = sqlite3.connect(
            path, check_same_thread=False, timeout=BUSY_SECONDS, isolation_level=None
        )
        try:
            path.chmod(0o600)
            # Two servers that write to one file would take turns in forgetting what the other has learnt.
            self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.executescript(SCHEMA)
        except BaseException:
            self._connection.close()
            raise
        self._thread = threading.Thread(target=self._work, name="deployments", daemon=True)
        self._thread.start()

    def load(self) -> list[SavedDeployment]:
        """All deployments; waits for them."""
        columns = "name, spec, origin, strategy, totals"
        rows = self._ask(f"SELECT {columns} FROM deployments ORDER BY name")
        return [SavedDeployment(*row) for row in rows]

    def save(self, saved: Sequence[SavedDeployment]) -> None:
        """Writes deployments, all or none, soon."""
        rows = [(one.name, one.spec, one.origin, one.strategy, one.totals) for one in saved]
        self._soon("INSERT OR REPLACE INTO deployments VALUES (?, ?, ?, ?, ?)", rows)

    def delete(self, name: str) -> None:
        """Forgets a deployment, soon. Its audit log stays."""
        self._soon("DELETE FROM deployments WHERE name = ?", [(name,)])

    def note(self, entry: AuditEntry) -> None:
        """Writes down a decision, soon."""
        row = (entry.time, entry.deployment, entry.who, entry.what, entry.why, json.dumps(entry.details))
        columns = "time, deployment, who, what, why, details"
        self._soon(f"INSERT INTO audit ({columns}) VALUES (?, ?, ?, ?, ?, ?)", [row])

    def audit(self, deployment: str | None, limit: int, before: int | None = None) -> list[AuditEntry]:
        """The latest decisions, the newest first; blocks, so not for the event loop.

        Args:
            deployment: Of one, or None for all.
            limit: At most so many.
            before: Only those older than the entry with this id.
        """
        rows = self._ask(
            "SELECT time, deployment, who, what, why, details, id FROM audit "
            "WHERE (?1 IS NULL OR deployment = ?1) AND (?2 IS NULL OR id < ?2) ORDER BY id DESC LIMIT ?3",
            (deployment, before, limit),
        )
        return [AuditEntry(*row[:-2], details=json.loads(row[-2]), id=row[-1]) for row in rows]

    def flush(self) -> None:
        """Returns when all that was to be written is."""
        done = threading.Event()
        self._jobs.put(done.set)
        done.wait()

    def close(self) -> None:
        """Writes the rest, and closes the file."""
        self._jobs.put(None)
        self._thread.join()
        self._connection.close()

    def _soon(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        def write() -> None:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(statement, rows)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

        self._jobs.put(write)

    def _ask(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query, which runs behind all that was to be written."""
        answer: queue.SimpleQueue[list[tuple[Any, ...]] | Exception] = queue.SimpleQueue()

        def read() -> None:
            try:
                answer.put(self._connection.execute(statement, values).fetchall())
            except sqlite3.Error as error:
                answer.put(error)

        self._jobs.put(read)
        rows = answer.get()
        if isinstance(rows, Exception):
            raise rows
        return rows

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except sqlite3.Error:
                logger.exception("the deployments' state could not be written to %s", self.path)

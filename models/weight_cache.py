"""Repacked weights on disk, so that a second start maps them instead of making them again.

An entry is the packed form of one checkpoint with one set of options (`packed_file`). Its name is made of
the contents of the checkpoint's files, the configuration and the options, and the versions of quire and
of the packed layout: what differs in any of these never meets. Contents are hashed once; a memo has the
hash of a file for as long as its size, time and inode stay what they were.

Entries are written in the background after the model is ready, to a temporary file that is renamed when
it is whole, so that any number of processes may read and write at once. The least recently used ones go
when the folder grows beyond its bound. A disk that is full or read-only is said once, and costs nothing
but the speed of the next start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..kernels.cpu import PACKED_LAYOUT
from .config import GenerationDefaults, ModelConfig
from .packed_file import DamagedFile, is_packed, packed_bytes, read_packed, write_packed
from .quant.options import WeightOptions
from .text_model import TextModel

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "QUIRE_CACHE_DIR"
SIZE_VARIABLE = "QUIRE_CACHE_SIZE"
FILE_VERSION = 1
MIN_BYTES = 16 << 20
"""Smaller models are made anew in no time."""

MAX_BYTES = 20 << 30
DISK_FRACTION = 0.1
"""The bound is the smaller of the two, the latter of the free space, unless the user gives one."""

HASHED_BYTES = 64 << 20
READ_BYTES = 4 << 20
STALE_SECONDS = 24 * 3600.0
"""A temporary file that is older was left by a process that ended."""

SUFFIX = ".safetensors"
TEMPORARY = ".tmp"
LOWEST_PRIORITY = 19


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where the cache is: `QUIRE_CACHE_DIR`, or quire's folder under `XDG_CACHE_HOME` or ~/.cache.

    None if none of them is set and there is no home, as for a user that only a container knows.
    """
    if environment.get(FOLDER_VARIABLE):
        return Path(environment[FOLDER_VARIABLE])
    if environment.get("XDG_CACHE_HOME"):
        return Path(environment["XDG_CACHE_HOME"]) / "quire"
    try:
        return Path.home() / ".cache" / "quire"
    except RuntimeError:
        return None


def cache_bound(environment: Mapping[str, str] = os.environ) -> int | None:
    """The bound in bytes that `QUIRE_CACHE_SIZE` gives in GiB; None if it is not set.

    Raises:
        ValueError: It is no number of at least 0.
    """
    text = environment.get(SIZE_VARIABLE)
    if not text:
        return None
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size < 1e9:
        raise ValueError(f"{SIZE_VARIABLE} must be a number of GiB, got {text!r}")
    return int(size * (1 << 30))


@dataclass(frozen=True, slots=True)
class FileState:
    """What a file looks like from outside: if none of it changes, neither has its content."""

    path: str
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, file: Path) -> FileState:
        """The state of a file now."""
        resolved = file.resolve()
        stat = resolved.stat()
        return cls(str(resolved), stat.st_size, stat.st_mtime_ns, stat.st_ino)


class WeightCache:
    """The cache's folder.

    Args:
        folder: Made when something is stored.
        max_bytes: The bound; by default what the disk says.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    @classmethod
    def from_environment(cls) -> WeightCache | None:
        """The cache where the environment says, or None if there is no place for it.

        Raises:
            ValueError: `QUIRE_CACHE_SIZE` is not what `cache_bound` takes.
        """
        folder, bound = cache_folder(), cache_bound()
        return None if folder is None else cls(folder, bound)

    def entry(
        self, files: Sequence[Path], config: ModelConfig, dtype: torch.dtype, options: WeightOptions
    ) -> CacheEntry:
        """The place of a checkpoint in a form, whether it is filled or not."""
        # What the model computes does not depend on these.
        config = replace(config, generation=GenerationDefaults(), eos_token_ids=(), bos_token_id=None)
        options = replace(options, activations="int8")
        form = [__version__, FILE_VERSION, PACKED_LAYOUT, repr(config), str(dtype), repr(options)]
        return CacheEntry(self, [FileState.of(file) for file in files], json.dumps(form))

    @property
    def entries(self) -> Path:
        """Where entries lie."""
        return self.folder / "weights"

    def bound(self) -> int:
        """Bytes that all entries together may take."""
        if self.max_bytes is not None:
            return self.max_bytes
        used = sum(size for _, size, _ in self._listing())
        return min(MAX_BYTES, int((shutil.disk_usage(self.entries).free + used) * DISK_FRACTION))

    def make_room(self, num_bytes: int, keep: Path) -> bool:
        """Removes the least recently used entries until there is room; False if there cannot be."""
        bound = self.bound()
        if num_bytes > bound:
            logger.info(
                "the packed weights (%d bytes) exceed the cache's bound of %d bytes", num_bytes, bound
            )
            return False
        listing = [(used, size, path) for used, size, path in self._listing() if path != keep]
        total = sum(size for _, size, _ in listing)
        for used, size, path in sorted(listing):
            is_stale = path.suffix == TEMPORARY and time.time() - used > STALE_SECONDS
            if total + num_bytes > bound or is_stale:
                if path.suffix == TEMPORARY and not is_stale:
                    continue  # another process is writing it
                with contextlib.suppress(OSError):
                    path.unlink()
                total -= size
        return True

    def _listing(self) -> list[tuple[float, int, Path]]:
        """Last use, size and path of each file."""
        found: list[tuple[float, int, Path]] = []
        for path in self.entries.glob("*"):
            with contextlib.suppress(OSError):  # another process removed it
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        return found

    def file_hash(self, state: FileState) -> str:
        """The hash of a file's content, from the memo or computed."""
        known = self.known_hash(state)
        if known is not None:
            return known
        digest = hash_content(Path(state.path), state.size)
        if FileState.of(Path(state.path)) == state:
            memo = {"state": [state.path, state.size, state.mtime_ns, state.inode], "sha256": digest}
            write_atomically(self._memo(state), json.dumps(memo).encode())
        return digest

    def known_hash(self, state: FileState) -> str | None:
        """The hash of a file's content, if it is in the memo."""
        try:
            memo: dict[str, Any] = json.loads(self._memo(state).read_bytes())
            if memo["state"] == [state.path, state.size, state.mtime_ns, state.inode]:
                return str(memo["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # no memo, or a damaged one: the file is hashed again, and the memo written anew
        return None

    def _memo(self, state: FileState) -> Path:
        return self.folder / "hashes" / f"{hashlib.sha256(state.path.encode()).hexdigest()[:32]}.json"


class CacheEntry:
    """One checkpoint in one form: where its packed weights are, or will be.

    Its name begins with what is known at once, the form and the sizes of the files, so that a checkpoint
    that was never seen is not hashed before it is loaded.
    """

    def __init__(self, cache: WeightCache, states: list[FileState], form: str) -> None:
        self.cache = cache
        self.states = states
        sizes = [(Path(state.path).name, state.size) for state in states]
        self._form = hashlib.sha256(f"{form}{sorted(sizes)}".encode()).hexdigest()[:24]

    def path(self, hashes: Sequence[str]) -> Path:
        """The entry's file, given the hashes of the checkpoint's files."""
        content = hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()[:40]
        return self.cache.entries / f"{self._form}-{content}{SUFFIX}"

    def find(self) -> Path | None:
        """The entry's file if there is one; hashes the checkpoint if that is needed to know."""
        if not any(self.cache.entries.glob(f"{self._form}-*{SUFFIX}")):
            return None
        try:
            path = self.path([self.cache.file_hash(state) for state in self.states])
        except OSError as error:
            logger.warning("the weight cache is not used: %s", error)
            return None
        return path if path.exists() else None

    def load(self, path: Path, model: TextModel, options: WeightOptions) -> bool:
        """Fills a model from the entry's file. A damaged one is removed, and False returned."""
        try:
            read_packed(path, model, int8_activations=options.rounds_activations("cpu"))
        except DamagedFile as error:
            self.discard(path, str(error))
            return False
        with contextlib.suppress(OSError):
            os.utime(path)  # it was used now
        return True

    def discard(self, path: Path, reason: str) -> None:
        """Removes a damaged file."""
        logger.warning("%s in the weight cache is damaged and made anew: %s", path.name, reason)
        with contextlib.suppress(OSError):
            path.unlink()

    def store(self, model: TextModel) -> threading.Thread | None:
        """Writes a model's packed weights in the background; None if there is nothing to be gained."""
        if not is_packed(model) or packed_bytes(model) < MIN_BYTES:
            return None
        # Not a daemon: a short program that ends waits for the second that its next start will save.
        thread = threading.Thread(target=self._store, args=(model,), name="quire-weight-cache")
        thread.start()
        return thread

    def _store(self, model: TextModel) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        try:
            self.write(model)
        except OSError as error:
            _log_once(f"packed weights are not kept for the next start: {error}")
        except Exception:
            logger.exception("packed weights cannot be kept for the next start")

    def write(self, model: TextModel) -> Path | None:
        """Writes a model's packed weights; None if they have no room. Raises OSError if the disk refuses."""
        self.cache.entries.mkdir(parents=True, exist_ok=True, mode=0o700)
        hashes = [self.cache.file_hash(state) for state in self.states]
        if [FileState.of(Path(state.path)) for state in self.states] != self.states:
            logger.warning("the checkpoint changed while it was loaded: its packed weights are not kept")
            return None
        path = self.path(hashes)
        if not self.cache.make_room(packed_bytes(model), path):
            return None
        temporary = _temporary(path)
        try:
            with temporary.open("xb") as stream:
                write_packed(model, stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path


_logged: set[str] = set()


def _log_once(message: str) -> None:
    if message not in _logged:
        _logged.add(message)
        logger.warning("%s", message)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a small file so that others see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = _temporary(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def hash_content(file: Path, size: int) -> str:
    """SHA-256 over the SHA-256 of each 64 MiB of a file, which two cores compute in half the time."""

    def digest(start: int) -> bytes:
        sha = hashlib.sha256()
        with file.open("rb") as stream:
            stream.seek(start)
            left = HASHED_BYTES
            while left and (piece := stream.read(min(left, READ_BYTES))):
                sha.update(piece)
                left -= len(piece)
        return sha.digest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(digest, range(0, max(size, 1), HASHED_BYTES))
        return hashlib.sha256(b"".join(parts)).hexdigest()

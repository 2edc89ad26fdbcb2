"""Digests of models: what the server's owner pins, so that a changed file is not loaded.

The digest of one file is its sha256. That of a folder, or of a file with others that belong to it, is the
sha256 of a listing: for each file its sha256 in hexadecimal, two spaces, its name from the folder on, and
a newline, in the order of the names' bytes. A shell computes it, for a folder, as

    find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import ModelError, UntrustedModel
from .predictor import LoadOptions

_ESCAPED = b"\\\n\r"
"""Names with these are written otherwise by sha256sum; models have none."""


def sha256_of(path: Path) -> str:
    """The digest of a file or a folder.

    Raises:
        ModelError: The folder holds something that is no file, a linked folder, or a name with a
            backslash or a line break.
    """
    return sha256_of_all([path])


def sha256_of_all(paths: Sequence[Path]) -> str:
    """The digest of a model that is made of these files, the first being the one that it is loaded by.

    Raises:
        ModelError: As `sha256_of`; or a file is not beside the first one, or below.
    """
    first = paths[0]
    if len(paths) == 1 and not first.is_dir():
        return _sha256(first)
    folder = first if first.is_dir() else first.parent
    files = _files_below(folder) if first.is_dir() else iter(paths)
    names = sorted(_name(file, folder) for file in files)
    digest = hashlib.sha256()
    for name in names:
        digest.update(_sha256(folder / os.fsdecode(name)).encode() + b"  " + name + b"\n")
    return digest.hexdigest()


def check_digest(paths: Sequence[Path], options: LoadOptions) -> None:
    """Raises ModelError unless the digest of a model's files is the one that was given, if one was."""
    if options.sha256 is None:
        return
    found = sha256_of_all(paths)
    if not hmac.compare_digest(found, options.sha256.lower()):
        names = ", ".join(str(path) for path in paths)
        raise ModelError(f"the sha256 of {names} is {found}, not {options.sha256}")


def check_trusted(path: Path, options: LoadOptions, what: str) -> None:
    """Raises UntrustedModel unless the owner trusts this very file or folder, by its digest."""
    if not options.trust or options.sha256 is None:
        raise UntrustedModel(f"{path} is {what}: loading it runs code. It needs trust and its sha256 digest.")
    check_digest([path], options)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_below(folder: Path) -> Iterator[Path]:
    # Linked folders may lead anywhere, in circles too; linked files, as in the hub's cache, are what they
    # hold.
    for place, folders, files in os.walk(folder, onerror=_unreadable):
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise ModelError(
                    f"{Path(place) / name} is a link to a folder; a model's folder must not have any"
                )
        for name in files:
            file = Path(place) / name
            if not file.is_file():
                raise ModelError(f"{file} is no file; a model's folder must hold nothing else")
            yield file


def _unreadable(error: OSError) -> None:
    raise ModelError(f"a model's folder cannot be read: {error}") from error


def _name(file: Path, folder: Path) -> bytes:
    if not file.is_relative_to(folder):
        raise ModelError(f"{file} belongs to a model in {folder}, and lies elsewhere")
    name = os.fsencode(file.relative_to(folder))
    if any(byte in _ESCAPED for byte in name):
        raise ModelError(f"{str(file)!r} has a backslash or a line break in its name")
    return name

"""Digests of models: of files, of folders, and of files that belong together."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from quire.errors import ModelError
from quire.models.classic.digests import check_digest, sha256_of, sha256_of_all
from quire.models.classic.predictor import LoadOptions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\0graph")
    (folder / "variables" / "a b").write_bytes(b"weights")
    (folder / "variables-2").write_bytes(b"")
    (folder / "grün").write_bytes(b"x")
    return folder


def test_of_a_file_it_is_sha256(folder: Path) -> None:
    assert sha256_of(folder / "saved_model.pb") == hashlib.sha256(b"\0graph").hexdigest()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum here")
def test_of_a_folder_it_is_what_the_shell_says(folder: Path) -> None:
    (folder / "linked").symlink_to(folder / "grün")
    command = "find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=True)
    assert sha256_of(folder) == done.stdout.split()[0]


def test_every_change_of_a_folder_changes_it(folder: Path) -> None:
    seen = {sha256_of(folder)}
    (folder / "variables" / "a b").write_bytes(b"weightz")
    seen.add(sha256_of(folder))
    (folder / "variables" / "a b").rename(folder / "variables" / "b")
    seen.add(sha256_of(folder))
    (folder / "variables" / "b").rename(folder / "b")
    seen.add(sha256_of(folder))
    (folder / ".hidden").write_bytes(b"")
    seen.add(sha256_of(folder))
    assert len(seen) == 5
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    assert sha256_of(copy) == sha256_of(folder)


def test_what_is_no_plain_file_is_refused(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)
    with pytest.raises(ModelError, match="link to a folder"):
        sha256_of(folder)
    (folder / "loop").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(ModelError, match="pipe is no file"):
        sha256_of(folder)
    (folder / "pipe").unlink()
    (folder / "absent").symlink_to(folder / "nothing")
    with pytest.raises(ModelError, match="absent is no file"):
        sha256_of(folder)
    (folder / "absent").unlink()
    (folder / "a\nb").write_bytes(b"")
    with pytest.raises(ModelError, match="line break"):
        sha256_of(folder)


def test_files_that_belong_together_have_one_digest(folder: Path) -> None:
    graph, weights = folder / "saved_model.pb", folder / "variables" / "a b"
    digest = sha256_of_all([graph, weights])
    assert digest not in (sha256_of(graph), sha256_of(folder))
    check_digest([graph, weights], LoadOptions(sha256=digest.upper()))
    weights.write_bytes(b"weightz")
    with pytest.raises(ModelError, match=r"saved_model\.pb, .*a b is"):
        check_digest([graph, weights], LoadOptions(sha256=digest))
    with pytest.raises(ModelError, match="lies elsewhere"):
        sha256_of_all([weights, graph])

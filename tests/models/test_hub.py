"""From names to folders: local ones, the embedded model, hub ids, and names that are neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.errors import ModelError, NotFound
from quire.models.hub import resolve_model


def test_local_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    assert resolve_model(str(tmp_path / "mine")) == tmp_path / "mine"
    monkeypatch.chdir(tmp_path)
    assert resolve_model("mine") == tmp_path / "mine"


def test_the_embedded_model() -> None:
    assert resolve_model("embedded").parts[-3:] == ("models", "embedded", "weights")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nowhere",
        "../x",
        "/nowhere/at/all",
        "a/../b",
        "a/b/c",
        "./a",
        "a\0b",
        "owner/..",
        "-x/y",
        "é/x",
        "a" * 999,
    ],
)
def test_names_that_are_no_model(name: str) -> None:
    with pytest.raises(NotFound):
        resolve_model(name)


def test_a_hub_model_without_a_network() -> None:
    with pytest.raises(ModelError, match="nobody/nothing is not in the local cache"):
        resolve_model("nobody/nothing")


def test_a_hub_model_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    assert resolve_model("owner/name") == snapshot
    with pytest.raises(ModelError):
        resolve_model("owner/name", "another")

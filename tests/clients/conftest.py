"""Real server processes for the clients of others: `quire serve`, with models that serve the purpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from chain_models import EMBEDDED_TEMPLATE, HARMONY_PIECES, PIECES, write_chain, write_embedded

from ..server.quire_process import QuireProcess

KEY = "sk-clients-0123456789"
POOR_KEY = "sk-poor-0123456789"
"""A key that may send one request a minute."""

TOOL_FORMATS = ("hermes", "llama3_json", "mistral")
"""Not harmony, in which the embedded model would think, and not know how to come to an end."""


def start(folder: Path, *options: str, model: str | Path = "embedded") -> QuireProcess:
    """A server whose model is called "quire" and whose clients need a key."""
    keys = folder / "keys"
    keys.write_text(f"clients:{KEY}\npoor:{POOR_KEY}::1\n")
    keys.chmod(0o600)
    common = ("--served-model-name", "quire", "--api-key-file", str(keys), "--num-blocks", "1024")
    return QuireProcess(folder, *common, *options, model=model)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the embedded model."""
    process = start(tmp_path_factory.mktemp("embedded"))
    yield process.url
    process.stop()


@pytest.fixture(scope="module", params=TOOL_FORMATS)
def caller(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server whose model knows tools in one of the formats.

    It is the embedded model, which has not learnt to call: it does so where it must.
    """
    folder = tmp_path_factory.mktemp(request.param)
    write_embedded(folder / "model")
    process = start(folder, "--tool-call-parser", request.param, model=folder / "model")
    yield process.url
    process.stop()


@pytest.fixture(scope="session")
def rambler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server whose model may think before it answers, and has not learnt to stop."""
    folder = tmp_path_factory.mktemp("rambler")
    write_embedded(folder / "model", EMBEDDED_TEMPLATE + "{# </think> #}")
    process = start(folder, "--tool-call-parser", "hermes", model=folder / "model")
    yield process.url
    process.stop()


def _thinker(folder: Path, pieces: Sequence[str], parser: str) -> Iterator[str]:
    (folder / "model").mkdir()
    write_chain(folder / "model", pieces)
    process = start(folder, "--tool-call-parser", parser, model=folder / "model")
    yield process.url
    process.stop()


@pytest.fixture(scope="session")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server whose model thinks, speaks and calls of its own accord, the same every time."""
    yield from _thinker(tmp_path_factory.mktemp("thinker"), PIECES, "hermes")


@pytest.fixture(scope="session")
def harmonist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same in harmony."""
    yield from _thinker(tmp_path_factory.mktemp("harmonist"), HARMONY_PIECES, "harmony")

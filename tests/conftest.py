"""What all tests share: no network, few threads, real data where it is at hand, tiny models."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before any library reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Not the user's own; the models of most tests are too small to be kept.
os.environ["QUIRE_CACHE_DIR"] = os.path.join(tempfile.gettempdir(), f"quire-tests-{os.getpid()}")

import pytest

import tiny_encoders
import tiny_models

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real tokenizers, templates and a trained model, which lie beside the checkout on some machines."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared test data is not on this machine")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_model(architecture, **overrides)` is the folder of a random model, made once per session."""
    made: dict[str, Path] = {}

    def make(architecture: str = "LlamaForCausalLM", **overrides: Any) -> Path:
        key = repr((architecture, sorted(overrides.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(architecture)
            made[key] = tiny_models.write_model(folder, architecture, **overrides)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_encoder(architecture, **overrides)` is the folder of a random encoder, made once per session."""
    made: dict[str, Path] = {}

    def make(architecture: str = "BertModel", **overrides: Any) -> Path:
        key = repr((architecture, sorted(overrides.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(architecture)
            made[key] = tiny_encoders.write_encoder(folder, architecture, **overrides)
        return made[key]

    return make


@pytest.fixture(scope="session")
def oracle_greedy() -> Callable[[Path, list[int], int], list[int]]:
    """`oracle_greedy(folder, prompt_ids, max_tokens)`: what transformers generates."""
    return tiny_models.oracle_greedy

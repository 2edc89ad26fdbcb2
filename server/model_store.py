"""The folder from which clients of the admin API may have models loaded, and from nowhere else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from pathlib import Path, PurePosixPath

from ..engine.config import EngineConfig
from ..engine.managed_model import ModelSpec
from ..errors import InvalidRequest, ModelError, ModelTooLarge, NotFound
from ..models.config import ModelConfig
from .errors import OutOfMemory
from .settings import ServerSettings

MAX_URL_CHARACTERS = 1024


def find_in_store(settings: ServerSettings, url: str) -> Path:
    """The file or folder of the model store that a client names.

    Args:
        settings: `model_store` is the folder; without one, nothing is found.
        url: A path relative to the store, or an absolute one within it.

    Raises:
        InvalidRequest: There is no store, or the name is that of something else.
        NotFound: There is no such file; nothing outside of the store is ever looked at.
    """
    if settings.model_store is None:
        raise InvalidRequest("the server was started without a model store (--model-store)", param="url")
    if "://" in url or len(url) > MAX_URL_CHARACTERS:
        raise InvalidRequest("url must name a file of the model store: nothing is downloaded", param="url")
    absent = NotFound("the model store has no such file", param="url", code="model_not_found")
    store = settings.model_store.resolve()
    path = PurePosixPath(url)
    if path.is_absolute():
        for folder in (settings.model_store.absolute(), store):
            if path.is_relative_to(folder):
                path = path.relative_to(folder)
                break
        else:
            raise absent
    if not path.parts or ".." in path.parts or "\0" in url:
        raise absent
    # A link in the store may lead out of it.
    found = (store / path).resolve()
    if not found.is_relative_to(store) or not found.exists():
        raise absent
    return found


def spec_of(path: Path, name: str, version: str = "1") -> ModelSpec:
    """The model in a file or folder: a language model, or a classic one with the defaults of its workers.

    A folder holds a model if it is one to some runtime, or has one file that is.

    Raises:
        ModelError: There is no model, or there are several.
    """
    if _is_language_model(path):
        config = EngineConfig(model=str(path), served_model_name=name)
        return ModelSpec(name=name, config=config, load="manual", pinned=True)
    from ..engine.classic_workers import WorkerConfig
    from ..engine.model_registry import ClassicModelConfig

    workers = WorkerConfig(path=_classic_model(path))
    config = ClassicModelConfig(name=name, version=version, workers=workers)
    return ModelSpec(name=name, config=config, load="manual", pinned=True)


@contextlib.contextmanager
def answered_as_507() -> Generator[None]:
    """Lets a model that does not fit the memory be answered with 507, as clouds want it."""
    try:
        yield
    except ModelTooLarge as error:
        raise OutOfMemory(error.message) from error


def _is_language_model(path: Path) -> bool:
    """Whether a folder has a configuration that the engine knows."""
    if not (path / "config.json").is_file():
        return False
    try:
        ModelConfig.from_folder(path)
    except (ModelError, json.JSONDecodeError):
        return False
    return True


def _classic_model(path: Path) -> Path:
    from ..models.classic.runtimes import RUNTIMES, runtime_of

    if path.is_file():
        runtime_of(path)
        return path
    try:
        runtime_of(path)
    except ModelError:
        suffixes = {suffix for runtime in RUNTIMES.values() for suffix in runtime.suffixes}
        found = sorted(each for each in path.iterdir() if each.is_file() and each.suffix.lower() in suffixes)
        if len(found) != 1:
            raise ModelError(
                f"{path.name} must hold one model; it has {[each.name for each in found][:8]}"
            ) from None
        return found[0]
    return path

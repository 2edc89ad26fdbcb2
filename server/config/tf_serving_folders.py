"""TensorFlow Serving's folders of models: `MODEL/1/saved_model.pb`, the highest version being served."""

from __future__ import annotations

from pathlib import Path

from ...engine.classic_workers import WorkerConfig
from ...engine.managed_model import ModelSpec
from ...engine.model_registry import ClassicModelConfig
from .plan import ConfigError
from .version_folders import folders_of_models, model_in, versions_of


def read_folders(text: str) -> list[ModelSpec]:
    """The models of `DIR` or `NAME=DIR`: a model's folder, or a folder of such.

    As there, the highest version of each is served. Any runtime's files may be in the versions' folders.

    Raises:
        ConfigError: There is no model.
    """
    name, separator, place = text.partition("=")
    folder = Path(place if separator else text)
    if separator and not name:
        raise ConfigError(f"--tf-serving {text}: the name must not be empty")
    if versions_of(folder):
        return [_read_model(folder, name if separator else folder.resolve().name)]
    if separator:
        raise ConfigError(f"{folder} has no numbered folders, which versions of a model are in")
    found = [each for each in folders_of_models(folder) if versions_of(each)]
    if not found:
        raise ConfigError(f"{folder} has neither numbered folders nor folders with such")
    return [_read_model(each, each.name) for each in found]


def _read_model(folder: Path, name: str) -> ModelSpec:
    number, version = list(versions_of(folder).items())[-1]
    workers = WorkerConfig(path=model_in(version))
    return ModelSpec.of(ClassicModelConfig(name=name, version=str(number), workers=workers))

"""Models in numbered folders, one for each version: `MODEL/1/`, `MODEL/2/`; what is in them, and which."""

from __future__ import annotations

from pathlib import Path

from ...errors import ModelError
from ...models.classic.runtimes import runtime_of
from .plan import ConfigError


def versions_of(folder: Path) -> dict[int, Path]:
    """The folders of a model's versions by their numbers, the lowest first; others are none of them."""
    try:
        found = [each for each in folder.iterdir() if each.name.isascii() and each.name.isdecimal()]
    except OSError as error:
        raise ConfigError(f"cannot read {folder}: {error.strerror}") from error
    numbered = {int(each.name): each for each in found if each.is_dir() and int(each.name) > 0}
    return dict(sorted(numbered.items()))


def folders_of_models(folder: Path) -> list[Path]:
    """The folders in a folder, by name; hidden ones are none."""
    try:
        return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"cannot read {folder}: {error.strerror}") from error


def model_in(folder: Path, runtime: str | None = None, file: str | None = None) -> Path:
    """What a version's folder holds: itself, a folder in it, or its only file that is a model.

    Args:
        folder: The version's.
        runtime: The runtime that it is for, if that is known.
        file: The name of the file or folder, if that is known.

    Raises:
        ConfigError: There is no such file, or there are several.
    """
    if file is not None:
        path = folder / file
        if Path(file).name != file or not path.exists():
            raise ConfigError(f"there is no {path}")
        return path

    def is_model(path: Path) -> bool:
        try:
            return runtime_of(path) == runtime if runtime is not None else bool(runtime_of(path))
        except ModelError:
            return False

    if is_model(folder):
        return folder
    found = sorted(filter(is_model, folder.iterdir()))
    if len(found) != 1:
        what = f"model for the runtime {runtime}" if runtime is not None else "model"
        names = ", ".join(each.name for each in found[:8]) or "none"
        raise ConfigError(f"{folder} must hold one {what}; it holds {names}")
    return found[0]

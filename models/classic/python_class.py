"""A `Predictor` of the server's owner, named in the configuration as `module:Class`."""

from __future__ import annotations

import importlib
from pathlib import Path

from ...errors import ModelError
from .predictor import LoadOptions, Predictor


class PythonPredictor(Predictor):
    """Never made itself: `load` gives the owner's class."""

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Predictor:
        """Imports the class and has it load itself; see `Predictor.load`."""
        module_name, _, class_name = (options.python_class or "").partition(":")
        if not module_name or not class_name:
            raise ModelError(f"python_class must be module:Class, not {options.python_class!r}")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise ModelError(f"{options.python_class} cannot be imported: {error}") from error
        if not (isinstance(found, type) and issubclass(found, Predictor)):
            raise ModelError(f"{options.python_class} is no Predictor")
        return found.load(path, options)

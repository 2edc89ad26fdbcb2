"""The engine in this process, as `quire generate` and `quire chat` use it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..engine.config import EngineConfig
from ..errors import QuireError
from .options import ENGINE

if TYPE_CHECKING:
    from ..engine.llm import LLM
    from ..engine.outputs import RequestOutput


def open_llm(config: EngineConfig) -> LLM:
    """Loads the model. Raises `QuireError` if it, or a setting, does not suit this machine."""
    from ..engine.llm import LLM

    try:
        return LLM(**{name: getattr(config, name) for name in ENGINE.help})
    except ValueError as error:
        raise QuireError(str(error)) from error


def pieces(deltas: Iterable[RequestOutput]) -> Iterator[str]:
    """The text of a streamed request, piece by piece."""
    for delta in deltas:
        for choice in delta.outputs:
            yield choice.text

"""quire: an LLM inference engine, with continuous batching over a paged KV cache.

    from quire import LLM, SamplingParams

    llm = LLM("embedded")
    for output in llm.generate(["Hello"], SamplingParams(max_tokens=32)):
        print(output.outputs[0].text)

Importing quire is cheap: each name below loads its module, and with it torch, when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine.async_engine import AsyncEngine
    from .engine.config import EngineConfig
    from .engine.llm import LLM
    from .engine.outputs import CompletionOutput, RequestOutput
    from .engine.sampling_params import SamplingParams
    from .engine.structured_params import StructuredOutputsParams

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AsyncEngine",
    "CompletionOutput",
    "EngineConfig",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputsParams",
    "__version__",
]

_HOMES = {
    "AsyncEngine": ".engine.async_engine",
    "CompletionOutput": ".engine.outputs",
    "EngineConfig": ".engine.config",
    "LLM": ".engine.llm",
    "RequestOutput": ".engine.outputs",
    "SamplingParams": ".engine.sampling_params",
    "StructuredOutputsParams": ".engine.structured_params",
}


def __getattr__(name: str) -> Any:
    """Imports a public name from its home on first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

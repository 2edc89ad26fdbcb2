"""The formats in which models write calls of functions: one module each, one line each in the table."""

from __future__ import annotations

from collections.abc import Mapping

from .base import ToolParser
from .harmony import HarmonyParser
from .hermes import HermesParser
from .llama3_json import Llama3JsonParser
from .mistral import MistralParser

TOOL_PARSERS: Mapping[str, type[ToolParser]] = {
    "harmony": HarmonyParser,
    "mistral": MistralParser,
    "hermes": HermesParser,
    "llama3_json": Llama3JsonParser,
}
"""By name. `find_tool_parser` tries them in this order."""

"""How models mark what they think before they answer: one module each, one line each in the table.

A format that marks reasoning and calls alike, as harmony does, has one parser for both, which stands
in the table of the tool parsers and is named in `WITH_TOOLS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..tool_parsers import TOOL_PARSERS
from .base import ReasoningParser
from .think import ThinkParser

REASONING_PARSERS: Mapping[str, type[ReasoningParser]] = {
    "think": ThinkParser,
}
"""By name. `find_reasoning_parser` tries them in this order."""

WITH_TOOLS = tuple(name for name, parser in TOOL_PARSERS.items() if parser.splits_reasoning)

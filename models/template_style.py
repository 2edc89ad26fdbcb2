"""How a chat template wants conversations with calls written, found by rendering one.

Templates differ in what they expect of an assistant's turn that calls functions: arguments as an
object or as a text, content empty or null. What the template shows decides, not how it is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..errors import QuireError
from .chat_template import ChatTemplate

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")

_NAME, _KEY, _VALUE, _RESULT = "probe_name", "probe_key", "probe_value", "probe_result"
_ID = "probe0123"  # nine letters and digits, as Mistral's templates demand
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "other_name",
        "description": "",
        "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": ""}}},
    },
}


@dataclass(frozen=True, slots=True)
class TemplateStyle:
    """What a template expects.

    Attributes:
        shows_calls: Whether calls and their results appear at all.
        arguments_are_text: Whether a call's arguments are a JSON text, not an object.
        no_content: The content of a turn that has none: an empty text or None.
        reasoning_keys: Under which keys of a message it may look for reasoning.
        is_harmony: Whether it is written for harmony, where calls stand in messages of their own.
    """

    shows_calls: bool = False
    arguments_are_text: bool = False
    no_content: str | None = ""
    reasoning_keys: tuple[str, ...] = ()
    is_harmony: bool = False


@lru_cache(maxsize=16)
def find_style(template: ChatTemplate, *, with_tools: bool) -> TemplateStyle:
    """The style of a template, of the one for tools if a model has two."""
    source = "\n".join(template.sources.values())
    keys = tuple(key for key in REASONING_KEYS if re.search(rf"""[.'"]{key}\b""", source))
    is_harmony = "<|channel|>" in source
    for no_content in ("", None):
        for arguments_are_text in (False, True):
            style = TemplateStyle(True, arguments_are_text, no_content, keys, is_harmony)
            if _shows_calls(template, style, with_tools=with_tools):
                return style
    return TemplateStyle(reasoning_keys=keys, is_harmony=is_harmony)


def _shows_calls(template: ChatTemplate, style: TemplateStyle, *, with_tools: bool) -> bool:
    arguments = f'{{"{_KEY}": "{_VALUE}"}}' if style.arguments_are_text else {_KEY: _VALUE}
    call = {"id": _ID, "type": "function", "function": {"name": _NAME, "arguments": arguments}}
    messages = [
        {"role": "user", "content": "probe"},
        {"role": "assistant", "content": style.no_content, "tool_calls": [call]},
        {"role": "tool", "content": _RESULT, "tool_call_id": _ID, "name": _NAME},
    ]
    try:
        text = template.render(messages, tools=[_TOOL] if with_tools else None)
    except QuireError:
        return False
    # Neither written as Python writes an object, nor encoded twice.
    return (
        all(word in text for word in (_NAME, _KEY, _VALUE, _RESULT))
        and f"'{_KEY}'" not in text
        and f'\\"{_KEY}' not in text
    )

"""Regular expressions that a checkpoint's configuration brings, which nobody has vouched for.

Python's matcher backtracks: some expressions take time exponential in the text's length. Module names
are short, and expressions about them are simple, so those that could be slow are refused.
"""

from __future__ import annotations

import re

from ...errors import ModelError

MAX_LENGTH = 500
MAX_REPEATS = 5
MAX_PATTERNS = 10_000

_ESCAPED_OR_CLASS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


def compile_pattern(text: str, source: str) -> re.Pattern[str]:
    """Compiles a regular expression that matches from the beginning of a module's name.

    Args:
        text: The expression.
        source: The field that it comes from, for messages.

    Raises:
        ModelError: It is malformed, repeats a group, or repeats too often to be fast in every case.
    """
    # What is escaped or in a class is one character, whatever it says.
    plain = _ESCAPED_OR_CLASS.sub("a", text[: MAX_LENGTH + 1])
    repeats = len(re.findall(r"[*+]|\{", plain))
    if len(text) > MAX_LENGTH or repeats > MAX_REPEATS or re.search(r"\)[*+{]|\(\?[^:]", plain):
        raise ModelError(f"{source}: the pattern {text[:100]!r} is too complex to be matched safely.")
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ModelError(f"{source}: {text[:100]!r} is no regular expression: {error}") from error

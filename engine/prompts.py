"""The forms in which a prompt can be given to `LLM`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

Prompt = str | Sequence[int] | Mapping[str, Sequence[int]]
"""Text, token ids, or token ids as `{"prompt_token_ids": [...]}`."""


def as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt as a list of one. A sequence of integers is one prompt."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if prompts and isinstance(prompts[0], int):
        return [cast("Sequence[int]", prompts)]
    return list(cast("Sequence[Prompt]", prompts))

"""How long a prompt and an answer took, for the dialects that say so."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from .generation import Batch


class Stopwatch:
    """Started when the engine gets a request; notes when the first token comes. In seconds."""

    def __init__(self) -> None:
        self._submitted = self._first = time.perf_counter()

    async def watch(self, batches: AsyncGenerator[Batch, None]) -> AsyncGenerator[Batch, None]:
        """The batches as they come."""
        is_first = True
        async with aclosing(batches):
            async for batch in batches:
                if is_first:
                    self._first = time.perf_counter()
                    is_first = False
                yield batch

    @property
    def prompt_seconds(self) -> float:
        """Until the first token."""
        return self._first - self._submitted

    @property
    def answer_seconds(self) -> float:
        """From the first token until now."""
        return time.perf_counter() - self._first

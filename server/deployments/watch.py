"""Watching a language model answer: for signs of life, and for what it says, if that is to be compared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from ...engine.outputs import RequestOutput
from ...errors import EngineError
from .answer import SpokenAnswer
from .deployment import Attempt

B = TypeVar("B", bound=Sequence[tuple[int, RequestOutput]])


class ModelHung(EngineError):
    """The version gave no sign of life for longer than its deployment allows."""

    default_code = "model_hung"


async def watched(attempt: Attempt, batches: AsyncGenerator[B, None]) -> AsyncGenerator[B, None]:
    """The same batches. The model owes the next one only while somebody waits for it.

    Raises `ModelHung` when it has owed one for too long; the request in the engine is aborted. Where there is
    no other version to trust more, it goes on, as it would without a deployment.
    """
    loop = asyncio.get_running_loop()
    async with aclosing(batches):
        while True:
            patience = asyncio.timeout(None)
            attempt.waits()
            try:
                async with patience:
                    if attempt.fallback is not None:
                        attempt.on_hang = partial(end_patience, loop, patience)
                    batch = await anext(batches, None)
            except TimeoutError:
                if not patience.expired():
                    raise
                raise ModelHung("the model gave no sign of life; the request was given up") from None
            finally:
                attempt.on_hang = None
            if batch is None:
                return
            attempt.lives()
            if isinstance(attempt.answer, SpokenAnswer):
                attempt.answer.hear(batch)
            yield batch


def end_patience(loop: asyncio.AbstractEventLoop, patience: asyncio.Timeout) -> None:
    """Ends, with a TimeoutError, what runs under a timeout that had no end."""
    patience.reschedule(loop.time())

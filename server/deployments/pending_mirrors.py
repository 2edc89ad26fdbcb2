"""Requests to shadows that run in the background: bounded, given up in time, and ended with the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from ...errors import QuireError
from .deployment import Attempt, Deployment
from .outcomes import of_error
from .shadow import ShadowStrategy
from .tally import Outcome

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 1.0
"""How long a mirrored request waits for a moment in which no client waits for an answer."""


class PendingMirrors:
    """All of one server."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], ShadowStrategy] = {}

    def start(self, strategy: ShadowStrategy, attempt: Attempt, work: Coroutine[Any, Any, float]) -> None:
        """Runs `work`, which gives how alike the shadow's answer is, or drops it if too many run."""
        if sum(one is strategy for one in self._tasks.values()) >= strategy.settings.max_pending:
            work.close()
            strategy.dropped()
            attempt.end(Outcome.VOID)
            return
        task = asyncio.create_task(self._run(strategy, attempt, work))
        self._tasks[task] = strategy
        task.add_done_callback(self._tasks.pop)

    def cancel(self) -> None:
        """Ends all of them."""
        for task in self._tasks:
            task.cancel()

    async def _run(
        self, strategy: ShadowStrategy, attempt: Attempt, work: Coroutine[Any, Any, float]
    ) -> None:
        try:
            async with asyncio.timeout(strategy.settings.timeout):
                await _quiet(attempt.deployment)
                attempt.begin()
                similarity = await work
        except asyncio.CancelledError:
            work.close()
            strategy.gave_up()
            attempt.end(Outcome.VOID)
            raise
        except Exception as error:
            work.close()  # it may not have begun
            if isinstance(error, TimeoutError):
                strategy.gave_up()
            elif not isinstance(error, QuireError):
                logger.exception("a mirrored request failed")
            attempt.end(of_error(error))
        else:
            attempt.end(Outcome.SUCCEEDED)
            strategy.compared(similarity)


async def _quiet(deployment: Deployment) -> None:
    """Returns when no client waits for an answer of the deployment, or after `PATIENCE_SECONDS`."""
    if deployment.is_quiet:
        return
    quiet = asyncio.Event()
    deployment.on_quiet.append(quiet.set)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            await quiet.wait()

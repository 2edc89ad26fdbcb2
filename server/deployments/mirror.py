"""Mirroring: once a client has its answer, the shadow is asked the same, and what it says goes to nobody.

A mirrored request goes through the same handlers, with the shadow's own chat template and tokenizer. It
starts when the answer is out and no other client waits for one of the deployment, or a second later, so that
it delays no answer; there are only so many at a time, and they end with the server. It counts for no limit
and stands in no log.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Scope

from .answer import SpokenAnswer
from .deployment import Attempt
from .shadow import ShadowStrategy

if TYPE_CHECKING:
    from ..context import RequestRecord, ServerContext


class Mirrors:
    """The mirrored requests to language models that run.

    Args:
        app: The routes, inside the gate.
        context: The server's.
    """

    def __init__(self, app: ASGIApp, context: ServerContext) -> None:
        self._app = app
        self._context = context

    def start(self, scope: Scope, body: bytes, record: RequestRecord, attempt: Attempt) -> None:
        """Mirrors a request that was answered, unless too many are pending."""
        deployment, version = attempt.deployment, attempt.mirror_to
        strategy = deployment.strategy
        if not isinstance(strategy, ShadowStrategy) or version is None or version not in deployment.versions:
            return  # the deployment has been changed meanwhile
        mirrored = record.mirrored(uuid.uuid4().hex)
        shadow = mirrored.attempt = deployment.attempt(version, is_mirrored=True)
        shadow.answer = SpokenAnswer()
        copy = {**scope, "state": {**scope["state"], "record": mirrored}}
        self._context.deployments.mirrors.start(strategy, shadow, self._compare(copy, body, attempt, shadow))

    async def _compare(self, scope: Scope, body: bytes, attempt: Attempt, shadow: Attempt) -> float:
        """Asks the shadow. Returns how alike the answers are; raises if it gave none."""
        record: RequestRecord = scope["state"]["record"]
        is_read = False

        async def receive() -> Message:
            nonlocal is_read
            if is_read:
                await asyncio.Event().wait()  # this client never goes
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            pass

        try:
            await self._app(scope, receive, send)
        finally:
            record.end()
        if record.error is not None:
            raise record.error
        strategy = shadow.deployment.strategy
        tolerance = strategy.settings.tolerance if isinstance(strategy, ShadowStrategy) else 0.0
        assert isinstance(attempt.answer, SpokenAnswer)
        assert isinstance(shadow.answer, SpokenAnswer)
        return attempt.answer.similarity(shadow.answer, tolerance)

"""The HTTP server proper, which on a signal answers the requests that run and then ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Generator
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from .context import ServerContext
from .http_protocol import limited_protocol
from .loop_watch import LoopWatch
from .settings import ServerSettings

logger = logging.getLogger("quire.server")

FLUSH_SECONDS = 2  # for answers that are complete but not yet taken by their clients


def _server_config(app: ASGIApp, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=limited_protocol(settings),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_timeout,
        timeout_graceful_shutdown=FLUSH_SECONDS,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )


class AdminServer(uvicorn.Server):
    """uvicorn on the admin port; it ends when its owner says so, and leaves signals to the other one."""

    def __init__(self, app: FastAPI, settings: ServerSettings) -> None:
        context: ServerContext = app.state.context
        super().__init__(_server_config(context.admin.entrance(app), settings))

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Captures none."""
        yield


class DrainingServer(uvicorn.Server):
    """uvicorn that, on a signal, keeps listening until the requests that run have ended."""

    def __init__(self, app: FastAPI, settings: ServerSettings) -> None:
        super().__init__(_server_config(app, settings))
        self.context: ServerContext = app.state.context
        self._deadline: float | None = None
        self._loop_watch = LoopWatch(self.context.metrics)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Drains on the first SIGTERM or SIGINT; the second does what signals do by default."""
        signals = (signal.SIGTERM, signal.SIGINT)

        def drain(number: int, frame: FrameType | None) -> None:
            for each in signals:
                signal.signal(each, signal.SIG_DFL)
            self.context.draining = True

        before = [(each, signal.signal(each, drain)) for each in signals]
        try:
            yield
        finally:
            for each, handler in before:
                signal.signal(each, handler)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: is it over?"""
        self._loop_watch.tick()
        if await super().on_tick(counter):
            return True
        context = self.context
        if not context.draining:
            return False
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            self._deadline = now + context.settings.drain_timeout
            logger.info("draining: %d requests are running", context.num_in_flight)
        if context.num_in_flight == 0:
            return True
        if now < self._deadline:
            return False
        logger.warning("%d requests did not end in time and get an error", context.num_in_flight)
        await asyncio.gather(*(model.engine.shutdown() for model in context.language_models))
        return True

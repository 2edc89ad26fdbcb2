"""`quire serve`: HTTP in this process, the engine in a child, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Generator
from dataclasses import replace
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ..engine.async_engine import AsyncEngine
from ..engine.config import EngineConfig
from ..errors import QuireError
from . import logs
from .app import create_app
from .context import ServerContext
from .http_protocol import limited_protocol
from .settings import ServerSettings, check_bind_address, read_api_key

logger = logging.getLogger("quire.server")

FLUSH_SECONDS = 2  # for answers that are complete but not yet taken by their clients


def serve(
    config: EngineConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: ServerSettings | None = None,
) -> None:
    """Serves a model until SIGTERM or SIGINT, and returns when the last request has been answered.

    A second signal ends the process at once.

    Args:
        config: The engine's settings.
        host: The address to listen on; one that other machines reach needs an API key.
        port: 0 takes a free one, which the log names.
        settings: The server's limits. If they hold no API key, the environment may give one.

    Raises:
        ModelError: The model cannot be loaded.
        QuireError: The address cannot be had.
        ValueError: The address needs an API key, or a setting does not fit this machine.
    """
    settings = settings or ServerSettings()
    if settings.api_key is None:
        settings = replace(settings, api_key=read_api_key())
    check_bind_address(host, settings)
    loop_factory = uvicorn.Config("", log_config=None).get_loop_factory()  # uvloop's if it is installed
    with (
        logs.in_background(),
        _bind(host, port) as listening,
        asyncio.Runner(loop_factory=loop_factory) as runner,
    ):
        runner.run(_serve(config, listening, settings))


def _bind(host: str, port: int) -> socket.socket:
    """Takes the port before a model is loaded for nothing; clients get in only once it listens."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise QuireError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listening


async def _serve(config: EngineConfig, listening: socket.socket, settings: ServerSettings) -> None:
    engine = await AsyncEngine.start(config)
    try:
        server = DrainingServer(create_app(engine, settings), settings)
        host, port = listening.getsockname()[:2]
        logger.info(
            "quire serves %s on http://%s:%d", config.model_name, f"[{host}]" if ":" in host else host, port
        )
        await server.serve(sockets=[listening])
    finally:
        await engine.shutdown()


class DrainingServer(uvicorn.Server):
    """uvicorn that, on a signal, keeps listening until the requests that run have ended."""

    def __init__(self, app: FastAPI, settings: ServerSettings) -> None:
        config = uvicorn.Config(
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
        )
        super().__init__(config)
        self.context: ServerContext = app.state.context
        self._deadline: float | None = None

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
        await context.engine.shutdown()
        return True

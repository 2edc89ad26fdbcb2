"""`quire serve`: HTTP in this process, the engine in a child, and an orderly end.

The engine's process starts first, as it takes longest; what serves HTTP is imported meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import socket
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ..engine.async_engine import AsyncEngine
from ..engine.config import EngineConfig
from ..engine.managed_model import ModelSpec
from ..engine.model_manager import ModelManager
from ..errors import QuireError
from . import logs
from .config.plan import ServerPlan
from .memory import return_large_blocks
from .settings import ServerSettings, check_bind_address, read_api_keys
from .tls import check_certificate

if TYPE_CHECKING:
    from fastapi import FastAPI

    from .context import ServerContext
    from .deployments.manager import Deployments

logger = logging.getLogger("quire.server")

UNSENT_BYTES = 64 * 1024
"""What the kernel takes of an answer before it has sent it. By default that may be megabytes, which a client
who reads nothing would hold, and it would take long until the server knew."""
GRPC_FLUSH_SECONDS = 2  # for answers that are complete but not yet taken by their clients


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
        settings: The server's limits. If they hold no API key, the environment may give some.

    Raises:
        ModelError: The model cannot be loaded.
        QuireError: The address cannot be had.
        ValueError: The address needs an API key, or a setting does not fit this machine.
    """
    plan = ServerPlan(
        models=(ModelSpec.of(config),), settings=settings or ServerSettings(), host=host, port=port
    )
    serve_plan(plan)


def serve_plan(plan: ServerPlan) -> None:
    """Serves all that a plan says; see `serve`, also for what it raises."""
    if not plan.settings.key_ring():
        plan = replace(plan, settings=replace(plan.settings, api_keys=read_api_keys()))
    check_bind_address(plan.host, plan.settings)
    check_certificate(plan.settings)
    return_large_blocks()
    if plan.admin_port is not None:
        check_bind_address(plan.admin_host, plan.settings)
    with (
        logs.in_background(),
        _bind(plan.host, plan.port) as listening,
        _admin_bind(plan) as admin_listening,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        runner.run(_serve(plan, listening, admin_listening))


def _admin_bind(plan: ServerPlan) -> contextlib.AbstractContextManager[socket.socket | None]:
    if plan.admin_port is None:
        return contextlib.nullcontext()
    return _bind(plan.admin_host, plan.admin_port)


def _bind(host: str, port: int) -> socket.socket:
    """Takes the port before a model is loaded for nothing; clients get in only once it listens."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # asyncio turns Nagle's algorithm off where a socket names its protocol, and only there; with it, the
    # small packets of a stream wait for acknowledgements that clients delay by 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # every connection has it from the socket that listens
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise QuireError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listening


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, if it is installed."""
    try:
        return importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None


def _import_server() -> None:
    """Imports what serves HTTP, which takes half a second."""
    importlib.import_module(".app", __package__)
    importlib.import_module(".draining", __package__)


async def _start_engine(config: EngineConfig) -> AsyncEngine:
    return await AsyncEngine.start(config, meanwhile=_import_server)


async def _serve(plan: ServerPlan, listening: socket.socket, admin_listening: socket.socket | None) -> None:
    manager = ModelManager(memory_budget=plan.memory_budget, start_engine=_start_engine)
    for spec in plan.models:
        manager.declare(spec)
    deployments: Deployments | None = None
    if plan.deployments or plan.settings.deployments_file is not None:
        from .config.deployments import open_deployments  # late: with a good part of what serves HTTP

        deployments = open_deployments(plan, manager)
    try:
        await manager.start()
        from .app import create_app
        from .draining import DrainingServer

        app = create_app({}, plan.settings, deployments=deployments, manager=manager)
        app.state.context.language_models.default_name = plan.first_language_model
        server = DrainingServer(app, plan.settings)
        app.state.context.deployments.start()
        names = ", ".join(dict.fromkeys(spec.name for spec in plan.models)) or "no model"
        # What is there now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        async with _admin_server(app, admin_listening), _grpc_server(app, plan):
            logger.info("quire serves %s on %s", names, _url(listening, plan.settings))
            await server.serve(sockets=[listening])
    finally:
        if deployments is not None:
            deployments.close()
        await manager.close()


@contextlib.asynccontextmanager
async def _admin_server(app: FastAPI, listening: socket.socket | None) -> AsyncGenerator[None]:
    """Serves the admin routes on a port of their own, if there is one, as long as the others are served."""
    if listening is None:
        yield
        return
    from .draining import AdminServer

    context: ServerContext = app.state.context
    context.admin.is_apart = True
    server = AdminServer(app, context.settings)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    logger.info("the admin routes are on %s", _url(listening, context.settings))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


@contextlib.asynccontextmanager
async def _grpc_server(app: FastAPI, plan: ServerPlan) -> AsyncGenerator[None]:
    """Serves the Open Inference Protocol by gRPC, if there is a port for it, as long as HTTP is served."""
    if plan.grpc_port is None:
        yield
        return
    # A worker's process runs another program at once. gRPC's own preparations for a fork, which it takes from
    # here, can only crash it before it does.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    try:
        from .oip.grpc_server import GrpcServer
    except ImportError as error:
        raise QuireError(f"grpc_port needs the extra grpc: pip install 'quire[grpc]' ({error})") from error
    server = await GrpcServer.start(app.state.context, plan.host, plan.grpc_port)
    logger.info("gRPC is on %s:%d", plan.host, server.port)
    try:
        yield
    finally:
        await server.stop(GRPC_FLUSH_SECONDS)


def _url(listening: socket.socket, settings: ServerSettings) -> str:
    host, port = listening.getsockname()[:2]
    scheme = "http" if settings.ssl_certfile is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

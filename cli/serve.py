"""`quire serve`: the OpenAI-compatible server."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import typer

from ..engine.config import EngineConfig
from ..errors import QuireError
from ..server.settings import ServerSettings, read_api_keys
from .logs import LogLevel, set_up_logging
from .options import ENGINE, SERVER, takes

SERVED = ENGINE.but(model="embedded").also(
    served_model_name="The name that clients use; MODEL by default.",
    max_num_waiting="Requests waiting at most; more are refused with 429.",
)


@takes(config=SERVED, settings=SERVER)
def serve(
    config: EngineConfig,
    settings: ServerSettings,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="A file of API keys with their limits, one on each line.")
    ] = None,
    log_level: LogLevel = "info",
) -> None:
    """Serve a model over HTTP, as OpenAI's API does.

    The API keys that clients must send come from QUIRE_API_KEY, QUIRE_ADMIN_KEY and --api-key-file or
    the file QUIRE_API_KEY_FILE.
    """
    set_up_logging(log_level)
    os.environ["QUIRE_LOG_LEVEL"] = log_level  # for the engine's process
    from ..server.main import serve as run

    try:
        keys = read_api_keys(api_key_file)
        run(config, host=host, port=port, settings=dataclasses.replace(settings, api_keys=keys))
    except ValueError as error:
        raise QuireError(str(error)) from error

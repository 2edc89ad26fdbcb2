"""`quire serve`: one model, or all that a configuration or a folder of models names."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..engine.config import EngineConfig
from ..engine.managed_model import ModelSpec
from ..errors import QuireError
from ..server.settings import ServerSettings, read_api_keys
from .logs import LogLevel, set_up_logging
from .options import ENGINE, SERVER, takes

if TYPE_CHECKING:
    from ..server.config.plan import ServerPlan

SERVED = ENGINE.but(model="embedded").also(
    served_model_name="The name that clients use; MODEL by default.",
    max_num_waiting="Requests waiting at most; more are refused with 429.",
)


@takes(config=SERVED, settings=SERVER)
def serve(
    context: typer.Context,
    config: EngineConfig,
    settings: ServerSettings,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = 8000,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="A quire.toml: the server and all its models.")
    ] = None,
    model_repository: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of classic models as Triton has them; may be given several times."),
    ] = None,
    tf_serving: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR",
            help="A model's folder of numbered versions, as TensorFlow Serving has it, or a folder of such; "
            "may be given several times.",
        ),
    ] = None,
    admin_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port for the admin routes, which are then on no other; 0 for any.",
        ),
    ] = None,
    admin_host: Annotated[str, typer.Option(help="Address of the admin port.")] = "127.0.0.1",
    grpc_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port for the Open Inference Protocol by gRPC; 0 for any."),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="A file of API keys with their limits, one on each line.")
    ] = None,
    log_level: LogLevel = "info",
) -> None:
    """Serve models over HTTP, as OpenAI's API does.

    With --config, --model-repository or --tf-serving, the models that these name are served, and MODEL only
    if it is given. What is given on the command line goes before what the file says.

    The API keys that clients must send come from QUIRE_API_KEY, QUIRE_ADMIN_KEY and --api-key-file or
    the file QUIRE_API_KEY_FILE.
    """
    set_up_logging(log_level)
    os.environ["QUIRE_LOG_LEVEL"] = log_level  # for the engine's process
    from ..server.config.plan import ServerPlan
    from ..server.containers import in_container
    from ..server.main import serve_plan

    given = {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }
    try:
        models = list(_models(given, config, config_file, model_repository or (), tf_serving or ()))
        plan = _read_config(config_file)
        if plan is None:
            plan = ServerPlan(models=(), settings=settings)
        values = {
            "host": host,
            "port": port,
            "admin_host": admin_host,
            "admin_port": admin_port,
            "grpc_port": grpc_port,
        }
        changes: dict[str, Any] = {name: value for name, value in values.items() if name in given}
        limits = {name: getattr(settings, name) for name in SERVER.help if name in given}
        if api_key_file is not None or config_file is None:
            limits["api_keys"] = read_api_keys(api_key_file)
        plan = dataclasses.replace(
            plan,
            models=(*plan.models, *models),
            settings=dataclasses.replace(plan.settings, **limits),
            **changes,
        )
        serve_plan(in_container(plan, given, os.environ))
    except ValueError as error:
        raise QuireError(str(error)) from error


def _read_config(path: Path | None) -> ServerPlan | None:
    if path is None:
        return None
    from ..server.config.quire_toml import read_config

    return read_config(path)


def _models(
    given: set[str],
    config: EngineConfig,
    config_file: Path | None,
    repositories: Sequence[Path],
    tf_serving: Sequence[str],
) -> Sequence[ModelSpec]:
    """The models that the command line itself names."""
    found: list[ModelSpec] = []
    if "model" in given or not (config_file or repositories or tf_serving):
        found.append(ModelSpec.of(config))
    elif strangers := sorted(given & SERVED.help.keys()):
        raise ValueError(f"{strangers[0]} is for a language model, and no MODEL is given")
    if repositories:
        from ..server.config.triton_repository import read_repository

        for folder in repositories:
            found += read_repository(folder)
    if tf_serving:
        from ..server.config.tf_serving_folders import read_folders

        for text in tf_serving:
            found += read_folders(text)
    return found

"""`quire.toml`: a server's settings and its models.

    [server]                     # host, port, admin_port, limits: as `quire serve` has them
    port = 8000

    [[models]]                   # a language model: `model`, and the engine's settings
    name = "chat"
    model = "Qwen/Qwen2.5-0.5B-Instruct"
    quantization = "int4"

    [[models]]                   # a classic model: `path`, its workers' settings, and how it is batched
    name = "iris"
    path = "models/iris.skops"
    instances = 2
    [models.dynamic_batching]
    max_queue_delay_microseconds = 500

    [[deployments]]              # an endpoint that brings versions to traffic: see server/deployments/spec.py
    name = "flowers"
    versions = ["iris@1", "iris@2"]
    strategy = { type = "canary", steps = [5, 50, 100] }

How far deployments have come is kept beside the file, under its name with the suffix .sqlite, unless
`deployments_file` names another. Paths are relative to the file. What a table may hold is read off the
settings objects themselves.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from ...engine.config import EngineConfig
from ...engine.managed_model import ModelSpec
from ..settings import ServerSettings, read_api_keys
from .plan import ConfigError, ServerPlan
from .tables import given, make, read_bytes, read_table, table_of

MAX_FILE_BYTES = 4 * 1024 * 1024

Load = Literal["start", "on_demand", "manual"]

LISTENING = ("host", "port", "admin_host", "admin_port", "grpc_port", "default_model")

ServerTable: Any = table_of(
    ServerSettings,
    "ServerTable",
    without=("api_key", "api_keys"),
    more=[
        ("host", str | msgspec.UnsetType, msgspec.UNSET),
        ("port", int | msgspec.UnsetType, msgspec.UNSET),
        ("admin_host", str | msgspec.UnsetType, msgspec.UNSET),
        ("admin_port", int | msgspec.UnsetType, msgspec.UNSET),
        ("grpc_port", int | msgspec.UnsetType, msgspec.UNSET),
        ("default_model", str | msgspec.UnsetType, msgspec.UNSET),
        ("memory_budget", int | str | msgspec.UnsetType, msgspec.UNSET),
        ("api_key_file", Path | None, None),
    ],
)

LanguageModelTable: Any = table_of(
    EngineConfig,
    "LanguageModelTable",
    without=("model", "served_model_name"),
    more=[
        ("name", str, msgspec.NODEFAULT),
        ("model", str, msgspec.NODEFAULT),
        ("load", Load, "start"),
        ("min_replicas", Literal[0, 1] | None, None),
    ],
)


class ConfigFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The file; the tables are looked into one by one, so that each can be named."""

    server: dict[str, Any] = {}
    models: list[dict[str, Any]] = []
    deployments: list[dict[str, Any]] = []


def read_config(path: Path) -> ServerPlan:
    """The plan in a file. API keys come from the environment and from the file of them that it names.

    Raises:
        ConfigError: The file cannot be read, or something in it cannot be honoured.
    """
    document = _read_toml(path)
    file = read_table(document, ConfigFile, str(path))
    folder = path.parent
    where = f"{path}: [server]"
    table = read_table(file.server, ServerTable, where)
    keys = None if table.api_key_file is None else folder / table.api_key_file
    try:
        settings: dict[str, Any] = {"api_keys": read_api_keys(keys)}
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    names = [name for name in ServerSettings.__slots__ if name not in ("api_key", "api_keys")]
    plan: dict[str, Any] = given(table, *LISTENING)
    if table.memory_budget is not msgspec.UNSET:
        plan["memory_budget"] = read_bytes(table.memory_budget, f"{where}: memory_budget")
    settings |= given(table, *names)
    for name in ("deployments_file", "model_store", "ssl_certfile", "ssl_keyfile"):
        if settings.get(name) is not None:
            settings[name] = folder / settings[name]
    if file.deployments:
        settings.setdefault("deployments_file", path.with_suffix(".sqlite"))
    plan["settings"] = make(where, ServerSettings, settings)
    plan["models"] = tuple(
        _read_model(model, folder, _place(path, number, model)) for number, model in enumerate(file.models, 1)
    )
    plan["deployments"] = tuple(file.deployments)
    return cast("ServerPlan", make(str(path), ServerPlan, plan | {"source": str(path)}))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ConfigError(f"{path} has more than {MAX_FILE_BYTES} bytes")
        return tomllib.loads(text.decode())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error


def _place(path: Path, number: int, table: Mapping[str, Any]) -> str:
    """How a model's table is called in messages."""
    name = table.get("name")
    if isinstance(name, str):
        return f"{path}: [[models]] {name!r}"
    return f"{path}: [[models]] number {number}"


def _read_model(table: dict[str, Any], folder: Path, where: str) -> ModelSpec:
    if "model" in table and "path" in table:
        raise ConfigError(f"{where}: a language model has `model` and a classic one `path`, but not both")
    if "model" in table:
        return _read_language_model(table, folder, where)
    if "path" in table or "python_class" in table:
        from .classic_tables import read_classic_model  # late: it stands on numpy

        return read_classic_model(table, folder, where)
    raise ConfigError(
        f"{where}: it needs `model`, for a language model, or `path` or `python_class`, for a classic one"
    )


def _read_language_model(table: dict[str, Any], folder: Path, where: str) -> ModelSpec:
    read = read_table(table, LanguageModelTable, where)
    names = [name for name in read.__struct_fields__ if name not in ("name", "model", "load", "min_replicas")]
    local = folder / read.model
    config = make(
        where,
        EngineConfig,
        {
            **given(read, *names),
            "model": str(local) if local.is_dir() else read.model,
            "served_model_name": read.name,
        },
    )
    if not read.name:
        raise ConfigError(f"{where}: name must not be empty")
    pinned = None if read.min_replicas is None else read.min_replicas > 0
    return ModelSpec(name=read.name, config=config, load=read.load, pinned=pinned)

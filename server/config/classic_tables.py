"""The tables of classic models. Imported only where there is one, as it stands on numpy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import msgspec

from ...engine.batch_queue import BatchingConfig, QueuePolicy
from ...engine.batcher import Padding
from ...engine.classic_workers import WorkerConfig
from ...engine.managed_model import ModelSpec
from ...engine.model_registry import ClassicModelConfig
from ...errors import ModelError
from ...models.classic.predictor import LoadOptions, TensorSpec
from ...models.classic.runtimes import RUNTIMES
from ...models.classic.warm_up import WarmupInput, WarmupRequest
from .plan import ConfigError
from .tables import given, make, read_table, table_of

QueuePolicyTable: Any = table_of(QueuePolicy, "QueuePolicyTable")

BatchingTable: Any = table_of(
    BatchingConfig,
    "BatchingTable",
    without=("max_batch_size", "default_queue_policy"),
    more=[("default_queue_policy", QueuePolicyTable | None, None)],
)


class PaddingTable(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """See `Padding`."""

    values: dict[str, float] = {}
    cut: dict[str, str] = {}


class TensorTable(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """See `TensorSpec`."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class WarmupInputTable(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """See `WarmupInput`."""

    fill: Literal["zeros", "random"] = "zeros"
    seed: int = 0
    shape: tuple[int, ...] | None = None
    values: Any = None
    file: Path | None = None


class WarmupTable(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """See `WarmupRequest`."""

    name: str = "warm-up"
    inputs: dict[str, WarmupInputTable] = {}
    others: WarmupInputTable = msgspec.field(default_factory=WarmupInputTable)
    batch_size: int = 1
    count: int = 1


ClassicModelTable: Any = table_of(
    WorkerConfig,
    "ClassicModelTable",
    without=("path", "options", "warmup", "min_ready_instances"),
    more=[
        ("name", str, msgspec.NODEFAULT),
        ("version", str | int, "1"),
        ("labels", tuple[str, ...], ()),
        ("path", Path | None, None),
        *(
            (name, kind | msgspec.UnsetType, msgspec.UNSET)
            for name, kind in (
                ("trust", bool),
                ("sha256", str),
                ("num_threads", int),
                ("python_class", str),
                ("parameters", dict[str, Any]),
                ("max_batch_size", int),
            )
        ),
        ("inputs", list[TensorTable], []),
        ("outputs", list[TensorTable], []),
        ("dynamic_batching", BatchingTable | None, None),
        ("padding", PaddingTable | None, None),
        ("warmup", list[WarmupTable] | None, None),
        ("load", Literal["start", "on_demand", "manual"], "start"),
        ("min_replicas", int | None, None),
    ],
)

OPTIONS = ("trust", "sha256", "num_threads", "python_class", "parameters")
MADE_HERE = ("path", "options", "warmup", "min_ready_instances")
WORKERS = tuple(each.name for each in dataclasses.fields(WorkerConfig) if each.name not in MADE_HERE)


def read_classic_model(table: dict[str, Any], folder: Path, where: str) -> ModelSpec:
    """A classic model's table. Raises `ConfigError`."""
    read = read_table(table, ClassicModelTable, where)
    python_class = given(read, "python_class")
    if read.path is None and not python_class:
        raise ConfigError(f"{where}: the key 'path' is missing")
    values = given(read, *WORKERS)
    if values.get("runtime", "python") not in RUNTIMES:
        raise ConfigError(f"{where}: there is no runtime {values['runtime']!r}, only {', '.join(RUNTIMES)}")
    if python_class and "runtime" not in values:
        values["runtime"] = "python"
    values["path"] = folder / (read.path or ".")
    values["options"] = make(
        where, LoadOptions, {**given(read, *OPTIONS), **_tensors(read.inputs, read.outputs, where)}
    )
    if read.warmup is not None:
        values["warmup"] = tuple(read_warmup(each, folder, where) for each in read.warmup)
    if read.min_replicas is not None:
        instances = values.get("instances", 1)
        if not 0 <= read.min_replicas <= instances:
            raise ConfigError(
                f"{where}: min_replicas must be from 0 to instances={instances}, got {read.min_replicas}"
            )
        values["min_ready_instances"] = max(1, read.min_replicas)
    config = {
        "name": read.name,
        "version": str(read.version),
        "labels": read.labels,
        "workers": make(where, WorkerConfig, values),
        "batching": _batching(read, where),
    }
    if read.padding is not None:
        config["padding"] = Padding(values=read.padding.values, cut=read.padding.cut)
    pinned = None if read.min_replicas is None else read.min_replicas > 0
    made = make(where, ClassicModelConfig, config)
    return ModelSpec(name=read.name, config=made, load=read.load, pinned=pinned)


def read_warmup(table: WarmupTable, folder: Path, where: str) -> WarmupRequest:
    """A warm-up request's table. Raises `ConfigError`."""

    def read_input(given_input: WarmupInputTable) -> WarmupInput:
        values = msgspec.structs.asdict(given_input)
        if given_input.file is not None:
            values["file"] = folder / given_input.file
        return make(f"{where}: warmup {table.name!r}", WarmupInput, values)

    values = {
        "name": table.name,
        "inputs": {name: read_input(each) for name, each in table.inputs.items()},
        "others": read_input(table.others),
        "batch_size": table.batch_size,
        "count": table.count,
    }
    return make(where, WarmupRequest, values)


def _tensors(inputs: list[TensorTable], outputs: list[TensorTable], where: str) -> dict[str, Any]:
    try:
        return {
            key: tuple(TensorSpec(each.name, each.datatype, each.shape) for each in tables)
            for key, tables in (("inputs", inputs), ("outputs", outputs))
        }
    except ModelError as error:
        raise ConfigError(f"{where}: {error.message}") from error


def _batching(read: Any, where: str) -> BatchingConfig | None:
    """How a model is batched; None, for what suits it, where nothing is said."""
    values = given(read, "max_batch_size")
    if read.dynamic_batching is not None:
        table = read.dynamic_batching
        where = f"{where}: dynamic_batching"
        names = [name for name in table.__struct_fields__ if name != "default_queue_policy"]
        values |= given(table, *names)
        if table.default_queue_policy is not None:
            policy = given(table.default_queue_policy)
            values["default_queue_policy"] = make(where, QueuePolicy, policy)
    return make(where, BatchingConfig, values) if values else None

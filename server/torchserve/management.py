"""TorchServe's management API: models registered, scaled, described and unregistered while the server runs.

A model is a file or folder of the model store: nothing is downloaded, and no handler of a model archive is
run. Its workers are quire's, and there are as many as are asked for: nothing scales by itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import re
from pathlib import Path
from typing import Any

from starlette.requests import Request

from ...engine.config import EngineConfig
from ...engine.managed_model import ModelSpec, ModelStatus
from ...errors import InvalidRequest, NotFound, PermissionDenied, QuireError, UntrustedModel
from .. import classic
from ..context import ServerContext
from ..errors import Conflict
from ..model_store import answered_as_507, find_in_store, spec_of
from .query import Query
from .routes import read_version

logger = logging.getLogger("quire.server")

ARCHIVES = (".mar", ".war")
NO_LIMIT = (1 << 31) - 1  # of the queue, as TorchServe's clients read it
PROCESSING = "Processing worker updates..."
MAX_WORKERS = 1024

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,127}", re.ASCII)

Answer = tuple[int, Any]
"""HTTP status and JSON."""


class Management:
    """What the routes do. Tasks that answers do not wait for are kept here until they are over."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._manager = context.manager
        self._tasks: set[asyncio.Task[None]] = set()

    async def register(self, request: Request) -> Answer:
        """`POST /models`: lets a model of the store be known, and starts its workers if there are to be some.

        Raises:
            InvalidRequest: A parameter cannot be honoured.
            NotFound: The store has no such file.
            ModelError: It is no model.
            Conflict: The version is known.
        """
        query = Query(request)
        url = query.text("url")
        if url is None:
            raise InvalidRequest("url is required: a file of the model store", param="url")
        if Path(url).suffix.lower() in ARCHIVES:
            raise UntrustedModel(
                "an archive is run by the handler in it, which quire does not: put the model's own file into "
                "the model store"
            )
        path = find_in_store(self._context.settings, url)
        name = query.text("model_name") or path.stem
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"{name[:128]!r} cannot be a model's name", param="model_name")
        version = path.name if path.name.isdecimal() and int(path.name) > 0 else "1"
        if any(status.version == version for status in self._manager.index(name)):
            raise Conflict(f"version {version}.0 of {name} is registered already")
        num_workers = query.number("initial_workers", 0, 0, MAX_WORKERS) or 0
        spec = _configured(spec_of(path, name, version), query, num_workers)
        synchronous = query.flag("synchronous")
        query.end(neutral={"s3_sse_kms": "false"})
        self._manager.declare(spec)
        label = f'Model "{name}" Version: {version}.0 registered with {num_workers} initial workers'
        if not num_workers:
            return 200, {"status": f"{label}. Use scale workers API to add workers for the model."}
        if not synchronous:
            self._later(self._load_new(name, version))
            return 202, {"status": PROCESSING}
        await self._load_new(name, version)
        return 200, {"status": label}

    async def scale(self, request: Request, name: str, version: str | None) -> Answer:
        """`PUT /models/{model}[/{version}]`: as many workers as `min_worker`.

        Raises:
            InvalidRequest: A parameter cannot be honoured.
            NotFound: There is no such model.
        """
        query = Query(request)
        status = self._find(name, version)
        num_workers = query.number("min_worker", 1, 0, MAX_WORKERS)
        most = query.number("max_worker", num_workers, 0, MAX_WORKERS)
        if most != num_workers:
            raise InvalidRequest(
                f"max_worker {most} must be min_worker, {num_workers}: workers are not added by themselves",
                param="max_worker",
            )
        if query.number("timeout", -1, -1, NO_LIMIT) != -1:
            raise InvalidRequest("timeout must be -1: pending requests are always answered", param="timeout")
        synchronous = query.flag("synchronous")
        query.end()
        spec = self._scaled(status, num_workers)
        where = name if version is None else f"{name}, version: {status.version}.0"
        work = self._apply(status, spec, num_workers)
        if not synchronous:
            self._later(work)
            return 202, {"status": PROCESSING}
        await work
        return 200, {"status": f"Workers scaled to {num_workers} for model: {where}"}

    async def unregister(self, name: str, version: str | None) -> Answer:
        """`DELETE /models/{model}[/{version}]`.

        Raises:
            NotFound: There is no such model.
            PermissionDenied: It is the default version, and there are others.
        """
        status = self._find(name, version)
        if len(self._manager.index(name)) > 1 and status.version == self._default(name):
            raise PermissionDenied(f"Cannot remove default version for model {name}")
        await self._manager.forget(name, status.version)
        return 200, {"status": f'Model "{name}" unregistered'}

    def set_default(self, name: str, version: str) -> Answer:
        """`PUT /models/{model}/{version}/set-default`: the version that is asked where none is named.

        Raises:
            NotFound: There is no such version.
        """
        status = self._find(name, version)
        if status.kind == "classic":
            classic.plane(self._context, name).registry.set_default(name, status.version)
        return 200, {"status": f"Default version successfully updated for model {name} to {status.version}.0"}

    def list_models(self, request: Request) -> Answer:
        """`GET /models`: names and files, page by page."""
        query = Query(request)
        limit = query.number("limit", 100, 1, 1000) or 100
        start = query.number("next_page_token", 0, 0, NO_LIMIT) or 0
        query.end()
        names = sorted({status.name for status in self._manager.index()})
        page = [
            {"modelName": name, "modelUrl": _url(self._context, self._find(name, None))}
            for name in names[start : start + limit]
        ]
        more = {"nextPageToken": str(start + limit)} if start + limit < len(names) else {}
        return 200, {**more, "models": page}

    def describe(self, request: Request, name: str, version: str | None) -> Answer:
        """`GET /models/{model}[/{version}|/all]`: a version, or all.

        Raises:
            NotFound: There is no such model.
        """
        query = Query(request)
        if query.flag("customized"):
            raise InvalidRequest("models describe nothing of their own", param="customized")
        query.end()
        if version == "all":
            statuses = self._manager.index(name)
            if not statuses:
                raise NotFound(f"Model not found: {classic.shown(name)}", param="model")
        else:
            statuses = [self._find(name, version)]
        return 200, [_description(self._context, status) for status in statuses]

    def _find(self, name: str, version: str | None) -> ModelStatus:
        wanted = read_version(version) or self._default(name)
        for status in self._manager.index(name):
            if status.version == wanted:
                return status
        what = "" if version is None else f" version {classic.shown(version)}"
        raise NotFound(f"Model not found: {classic.shown(name)}{what}", param="model")

    def _default(self, name: str) -> str | None:
        """The version that is asked where none is named."""
        registry = self._manager.registry
        chosen = None if registry is None else registry.default_version(name)
        versions = [status.version for status in self._manager.index(name)]
        return chosen or max(versions, key=int, default=None)

    def _scaled(self, status: ModelStatus, num_workers: int | None) -> ModelSpec:
        """The model's settings with so many workers."""
        registry = self._manager.registry
        entry = None if registry is None else registry.entry(status.name, status.version)
        if status.kind == "llm" or entry is None or entry.config is None:
            raise InvalidRequest(f"{status.name} is a language model: it has one worker", param="min_worker")
        workers = entry.config.workers
        if num_workers:
            workers = dataclasses.replace(workers, instances=num_workers, min_ready_instances=1)
        config = dataclasses.replace(entry.config, workers=workers)
        return ModelSpec(name=status.name, config=config, load=status.load, pinned=status.pinned)

    async def _apply(self, status: ModelStatus, spec: ModelSpec, num_workers: int | None) -> None:
        if not num_workers:
            await self._manager.unload(status.name, status.version)
            return
        self._manager.declare(spec)
        with answered_as_507():
            await self._manager.load(status.name, status.version)

    async def _load_new(self, name: str, version: str) -> None:
        try:
            with answered_as_507():
                await self._manager.load(name, version)
        except QuireError:
            await self._manager.forget(name, version)
            raise

    def _later(self, work: Any) -> None:
        async def run() -> None:
            try:
                await work
            except QuireError as error:
                logger.error("a model's workers could not be started: %s", error.message)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _configured(spec: ModelSpec, query: Query, num_workers: int) -> ModelSpec:
    """A new model with the settings that a request gives it."""
    batch_size = query.number("batch_size", None, 1, 1 << 20)
    delay = query.number("max_batch_delay", None, 0, 1 << 31)
    response = query.number("response_timeout", None, 1, 1 << 31)
    startup = query.number("startup_timeout", None, 1, 1 << 31)
    if isinstance(spec.config, EngineConfig):
        if any(value is not None for value in (batch_size, delay, response, startup)) or num_workers > 1:
            raise InvalidRequest(
                f"{spec.name} is a language model: it has one worker, and batches by itself", param="url"
            )
        return spec
    from ...engine.batch_queue import BatchingConfig

    workers = dataclasses.replace(spec.config.workers, instances=max(1, num_workers))
    if response is not None:
        workers = dataclasses.replace(workers, predict_timeout=float(response))
    if startup is not None:
        workers = dataclasses.replace(workers, load_timeout=float(startup))
    batching = None
    if batch_size is not None or delay is not None:
        default = BatchingConfig()
        batching = BatchingConfig(
            max_batch_size=default.max_batch_size if batch_size is None else batch_size,
            max_queue_delay_microseconds=1000 * (delay or 0),
        )
    config = dataclasses.replace(spec.config, workers=workers, batching=batching)
    return dataclasses.replace(spec, config=config)


def _url(context: ServerContext, status: ModelStatus) -> str:
    registry = context.manager.registry
    entry = None if registry is None else registry.entry(status.name, status.version)
    if entry is None or entry.config is None:
        return status.name
    return entry.config.workers.path.name


def _description(context: ServerContext, status: ModelStatus) -> dict[str, Any]:
    registry = context.manager.registry
    entry = None if registry is None else registry.entry(status.name, status.version)
    config = None if entry is None else entry.config
    num_workers = config.workers.instances if config is not None else 1
    described: dict[str, Any] = {
        "modelName": status.name,
        "modelVersion": f"{status.version}.0",
        "modelUrl": _url(context, status),
        "runtime": "quire",
        "minWorkers": num_workers if status.wanted else 0,
        "maxWorkers": num_workers if status.wanted else 0,
        "batchSize": 1,
        "maxBatchDelay": 0,
        "loadedAtStartup": status.load == "start",
        "workers": [],
        "jobQueueStatus": {"remainingCapacity": NO_LIMIT, "pendingRequests": 0},
    }
    if status.kind == "llm":
        if status.name in context.language_models:
            engine = context.language_models.get(status.name).engine
            described["batchSize"] = engine.config.max_num_seqs
            described["workers"] = [_worker(engine.stats.pid)]
            waiting = engine.stats.num_waiting
            described["jobQueueStatus"] = {
                "remainingCapacity": max(0, engine.config.max_num_waiting - waiting),
                "pendingRequests": waiting,
            }
        return described
    model = None if entry is None else entry.model
    if model is not None:
        batching = model.batcher.config
        limit, waiting = batching.default_queue_policy.max_queue_size, model.batcher.num_waiting
        described["batchSize"] = max(1, batching.max_batch_size)
        described["maxBatchDelay"] = batching.max_queue_delay_microseconds // 1000
        described["workers"] = [_worker(pid) for pid in model.pool.worker_pids()]
        described["jobQueueStatus"] = {
            "remainingCapacity": max(0, limit - waiting) if limit else NO_LIMIT,
            "pendingRequests": waiting,
        }
    return described


def _worker(pid: int) -> dict[str, Any]:
    return {
        "id": str(pid),
        "status": "READY",
        "memoryUsage": _resident_bytes(pid),
        "pid": pid,
        "gpu": False,
        "gpuUsage": "N/A",
    }


def _resident_bytes(pid: int) -> int:
    """A process's memory; 0 if it is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")

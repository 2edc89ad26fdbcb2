"""What the handlers share, and what is known of one request."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread

from .errors import ErrorWriter, write_error
from .keys import ApiKey
from .paths import PathRules
from .rate_limits import KeyLimits, RateLimits
from .settings import ServerSettings

if TYPE_CHECKING:
    from ..engine.async_engine import AsyncEngine
    from ..engine.data_plane import DataPlane
    from .metrics import Metrics

T = TypeVar("T")


def no_models() -> DataPlane:
    """A data plane without a model. Imported late: it stands on numpy, which many servers never need."""
    from ..engine.data_plane import DataPlane
    from ..engine.model_registry import ModelRegistry

    return DataPlane(ModelRegistry())


@dataclass(slots=True)
class ServerContext:
    """One server's engine and state. Owned by the app, changed by the gate and by the drain."""

    engine: AsyncEngine
    settings: ServerSettings
    metrics: Metrics
    classic: DataPlane | None = None  # the classic models, where there are any
    created: int = field(default_factory=lambda: int(time.time()))
    draining: bool = False
    num_in_flight: int = 0  # requests to anything but the probes
    limits: RateLimits = field(default_factory=RateLimits)
    num_body_bytes: int = 0  # in bodies that are being read or parsed
    paths: PathRules = field(default_factory=PathRules)

    @property
    def models(self) -> DataPlane:
        """The classic models."""
        if self.classic is None:
            self.classic = no_models()
        return self.classic

    @property
    def model_name(self) -> str:
        """The name that clients use."""
        return self.engine.config.model_name

    async def offload(self, num_bytes: int, work: Callable[[], T]) -> T:
        """The result of `work`, which runs in a thread if it has more than a little to do."""
        if num_bytes <= self.settings.inline_bytes:
            return work()
        return await anyio.to_thread.run_sync(work)


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request on its way through the server; becomes its line in the log.

    Attributes:
        request_id: The id that the client gave or, if it gave none, the server's own. Two
            requests may carry the same one: the engine never sees it.
        internal_id: The server's own, unique.
        key: The API key that it brought; None where none is needed.
        key_digest: Names the API key without revealing it; separates the prefix caches of keys.
        write_error: Writes an error in the form of the path's dialect.
        limits: The books of its API key, if the request counts there.
    """

    request_id: str
    internal_id: str
    key: ApiKey | None = None
    key_digest: str | None = None
    limits: KeyLimits | None = None
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generation_tokens: int = 0
    num_reasoning_tokens: int = 0
    user: str | None = None
    tags: dict[str, str] = field(default_factory=dict[str, str])
    error: Exception | None = None
    write_error: ErrorWriter = write_error

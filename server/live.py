"""`/engine/live`: what the engine is doing now, four times a second, for as long as somebody looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import msgspec
from fastapi import APIRouter
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..engine.block_map import BlockWatcher
from ..errors import Overloaded
from .context import ServerContext
from .errors import ClientDisconnected
from .openapi import describe
from .recent import Percentiles
from .sse import event

LIVE_SECONDS = 0.25
MOST_WATCHERS = 16


class LiveState(msgspec.Struct):
    """The data of each event.

    Attributes:
        time: Seconds of a clock that only goes forward, for rates of the counters.
        ready: Whether the engine takes requests.
        num_running, num_waiting: Requests.
        num_blocks, num_free_blocks, num_cached_blocks: Pages of the KV cache. Free ones can be taken;
            cached ones, free or not, hold a prefix that can be found again.
        block_size: Tokens in a page.
        prompt_tokens, generation_tokens, prefix_cache_queries, prefix_cache_hits, num_preemptions,
            num_steps: Counters; they begin again at zero when the engine restarts.
        first_token, next_token: Percentiles of the last minute, of the times from a request's start in
            the server to its first delta, and from one delta to the next.
        pages: What is new in the KV cache, as pairs: the number of a page, and one letter for it and each
            of those behind it: `f` free, `c` free and cached, `o` held by one request, `s` shared by
            several. The first event has all pages, and so has the first after the engine restarted.
    """

    time: float
    model: str
    ready: bool
    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int
    num_cached_blocks: int
    block_size: int
    prompt_tokens: int
    generation_tokens: int
    prefix_cache_queries: int
    prefix_cache_hits: int
    num_preemptions: int
    num_steps: int
    first_token: Percentiles
    next_token: Percentiles
    pages: list[tuple[int, str]]


class TooManyWatchers(Overloaded):
    """As many watch as may."""

    def __init__(self) -> None:
        super().__init__(f"at most {MOST_WATCHERS} clients may watch at once", retry_after=10)
        self.code = "too_many_watchers"


TYPES = (LiveState, Percentiles)
"""What the OpenAPI document defines."""


def live_routes(context: ServerContext) -> APIRouter:
    """The route of the live view."""
    router = APIRouter(tags=["operation"])

    @router.get(
        "/engine/live",
        **describe(
            "Server-sent events: what the engine does, page by page; `?model=` says whose",
            answer=LiveState,
            errors=(404, 429),
            streams=True,
        ),
    )
    async def live(request: Request) -> Response:
        model = context.language_models.get(request.query_params.get("model"))
        if model.engine.block_map.num_watchers >= MOST_WATCHERS:
            raise TooManyWatchers
        return LiveStream(context.about(model))

    _ = live
    return router


class LiveStream(EventSourceResponse):
    """Watches the blocks for as long as it is sent."""

    def __init__(self, context: ServerContext) -> None:
        # The events come so often that nothing else need keep the connection alive.
        super().__init__(self._events(), ping=3600, send_timeout=context.settings.send_timeout)
        self._context = context
        self._watcher: BlockWatcher | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Streams until the client goes, or takes no data for long, or the server drains."""
        try:
            with self._context.engine.block_map.watch() as self._watcher:
                await super().__call__(scope, receive, send)
        except SendTimeoutError:
            raise ClientDisconnected from None

    async def _events(self) -> AsyncGenerator[bytes, None]:
        assert self._watcher is not None
        while not (self._context.draining or self._context.engine.is_closed):
            yield event(msgspec.json.encode(live_state(self._context, self._watcher)))
            await asyncio.sleep(LIVE_SECONDS)


def live_state(context: ServerContext, watcher: BlockWatcher) -> LiveState:
    """This moment's state, with the pages that the watcher has not seen."""
    engine, stats, metrics = context.engine, context.engine.stats, context.model.metrics
    return LiveState(
        time=time.monotonic(),
        model=context.model_name,
        ready=engine.is_ready,
        num_running=stats.num_running,
        num_waiting=stats.num_waiting,
        num_blocks=stats.num_blocks,
        num_free_blocks=stats.num_free_blocks,
        num_cached_blocks=stats.num_cached_blocks,
        block_size=engine.config.block_size,
        prompt_tokens=stats.prompt_tokens,
        generation_tokens=stats.generation_tokens,
        prefix_cache_queries=stats.prefix_cache_queries,
        prefix_cache_hits=stats.prefix_cache_hits,
        num_preemptions=stats.num_preemptions,
        num_steps=stats.num_steps,
        first_token=metrics.recent_first_token.percentiles(),
        next_token=metrics.recent_next_token.percentiles(),
        pages=[(first, states.decode("ascii")) for first, states in watcher.take()],
    )

"""The gate of hot routes: the checks and books of `RequestGate`, around an answer in two messages."""

from __future__ import annotations

import logging
import time

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from ..errors import Overloaded, QuireError
from .context import RequestRecord, ServerContext
from .errors import ClientDisconnected, error_answer
from .gate import STATUS_CLIENT_GONE, RequestGate, extra_headers, log_request
from .hot import HotAnswer, HotRequest, HotRoute, read_whole
from .http_protocol import ANSWER_EXTENSION
from .rate_limits import KeyLimits

logger = logging.getLogger("quire.server")


class HotGate(RequestGate):
    """What is no request to a hot route goes on to the application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request to a hot route."""
        route = self.context.state.hot.find(scope) if scope["type"] == "http" else None
        if route is None:
            await self.app(scope, receive, send)
        else:
            await self._answer_one(route, scope, receive, send)

    async def _answer_one(self, route: HotRoute, scope: Scope, receive: Receive, send: Send) -> None:
        state = self.context.state
        record = self._new_record(route.write_error)
        state.num_in_flight += 1
        entered: KeyLimits | None = None
        try:
            try:
                request = HotRequest(self.context, scope["path"], self._check(scope, record), record)
                if record.limits is not None:
                    record.limits.enter()
                    entered = record.limits
                answer = await self._ask(route, request, receive)
            except ClientDisconnected:
                record.status = STATUS_CLIENT_GONE
                return
            except Exception as error:
                record.error = error
                if not isinstance(error, QuireError):
                    logger.exception("request %s failed", record.internal_id)
                answer = HotAnswer(*error_answer(error, route.write_error))
            await self._send_whole(answer, record, scope, send)
        finally:
            state.num_in_flight -= 1
            if entered:
                entered.leave()
            if record.at_end:
                record.end()
            seconds = time.perf_counter() - record.started
            state.metrics.observe_http("POST", route.label, record.status, seconds, record.model)
            log_request(scope, record, routine=False)
            record.error = None  # see RequestGate

    async def _ask(self, route: HotRoute, request: HotRequest, receive: Receive) -> HotAnswer:
        if route.admit is not None:
            try:
                route.admit(request)
            except Overloaded:
                await self.context.state.hot.pace_refusal()
                raise
        request.body = await read_whole(self.context, request.headers, receive)
        return await route.handle(request)

    async def _send_whole(self, answer: HotAnswer, record: RequestRecord, scope: Scope, send: Send) -> None:
        status, headers, body = answer
        record.status = status
        headers = [*headers, (b"content-length", b"%d" % len(body)), *extra_headers(record, self.context)]
        at_once = scope.get("extensions", {}).get(ANSWER_EXTENSION)
        if at_once is not None and not self.context.state.draining and at_once(status, headers, body):
            return
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Application(FastAPI):
    """FastAPI, which hot routes do not come to see."""

    _entrance: HotGate | None = None

    def open_hot_routes(self, context: ServerContext) -> None:
        """From now on they are answered without the router."""
        self._entrance = HotGate(super().__call__, context)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        await (self._entrance or super().__call__)(scope, receive, send)

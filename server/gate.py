"""The one door of the server: every request passes here first and is logged here last.

Plain ASGI, outside of the router, so that nothing behind it can forget a check: header limits,
request ids, the API key, the drain, and what happens to an exception that nobody expected.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, count

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import Draining, InvalidRequest, PermissionDenied, QuireError
from .admin.port import MOVED, is_on_admin_port
from .context import RequestRecord, ServerContext
from .deployments.caller import Caller, current
from .errors import (
    ClientDisconnected,
    ErrorWriter,
    HeadersTooLarge,
    RouteNotFound,
    Unauthenticated,
    error_response,
)
from .logs import log_line
from .rate_limits import KeyLimits

logger = logging.getLogger("quire.server")
access_logger = logging.getLogger("quire.access")

WHILE_DRAINING = frozenset((b"/metrics", b"/version"))  # and the probes
MAX_REQUEST_ID_CHARACTERS = 256
STATUS_CLIENT_GONE = 499  # in the log only: there was nobody to send it to


class RequestGate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, context: ServerContext) -> None:
        self.app = app
        self.context = context
        self._keys = context.settings.key_ring()
        # Unique among all servers' ids, and not to be guessed; a random number for each would be slower.
        self._id_prefix = os.urandom(8).hex()
        self._id_numbers = count(int.from_bytes(os.urandom(6)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request in or answers it, and writes its line in the log."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = self._new_record(self.context.paths.error_writer(scope["path"]))
        scope.setdefault("state", {})["record"] = record
        reply = _Reply(record, send, self.context)
        counted = not self._is_routine(scope["raw_path"])
        self.context.num_in_flight += counted
        entered: KeyLimits | None = None
        try:
            self._check(scope, record)
            if record.limits is not None:
                record.limits.enter()
                entered = record.limits
            await self.app(scope, receive, reply)
        except ClientDisconnected:
            record.status = STATUS_CLIENT_GONE
        except Exception as error:
            record.error = error
            if not isinstance(error, QuireError):
                logger.exception("request %s failed", record.internal_id)
            if not reply.started:
                await error_response(error, record.write_error)(scope, receive, reply)
        finally:
            self.context.num_in_flight -= counted
            if entered:
                entered.leave()
            record.end()
            self.context.metrics.observe_http(
                scope["method"],
                getattr(scope.get("route"), "path", None),
                record.status,
                time.perf_counter() - record.started,
                record.model,
            )
            log_request(scope, record, routine=not counted)
            # Its traceback leads to the body and, through the request, back to the record: a circle that
            # would keep a refused body in memory until the collector comes by.
            record.error = None

    def _new_record(self, write_error: ErrorWriter) -> RequestRecord:
        internal_id = f"{self._id_prefix}{next(self._id_numbers):016x}"
        return RequestRecord(request_id=internal_id, internal_id=internal_id, write_error=write_error)

    def _is_routine(self, raw_path: bytes) -> bool:
        """Whether a path is one that monitors ask every few seconds, until the server ends."""
        return raw_path in WHILE_DRAINING or raw_path in self.context.paths.probes

    def _check(self, scope: Scope, record: RequestRecord) -> dict[bytes, bytes]:
        """Raises what keeps a request out; returns its headers by name."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        settings = self.context.settings
        if len(headers) > settings.max_headers:
            raise HeadersTooLarge(f"a request may have at most {settings.max_headers} headers")
        if header_bytes(headers) > settings.max_header_bytes:
            raise HeadersTooLarge(f"the headers may have at most {settings.max_header_bytes} bytes")
        given = dict(headers)
        if (request_id := given.get(b"x-request-id")) is not None:
            record.request_id = check_request_id(request_id.decode("latin-1"), "X-Request-Id")
        path: bytes = scope["raw_path"]
        is_admin = self._is_admin(scope)
        if self._keys and path not in self.context.paths.probes and not is_page(scope, given):
            self._authorize(given, record, is_admin=is_admin, scope=scope)
        if self.context.draining and not self._is_routine(path):
            raise Draining("the server is shutting down and takes no new requests", code="draining")
        if len(self.context.deployments):
            current.set(Caller(given, record))
        return given

    def _is_admin(self, scope: Scope) -> bool:
        """Whether a request needs the admin key; raises `RouteNotFound` if it came by the wrong port."""
        context, shown = self.context, f"{scope['method']} {scope['path']!r}"
        if is_on_admin_port(scope):
            if context.admin.has(scope) or context.paths.is_admin(scope["method"], scope["path"]):
                return True
            if not self._is_routine(scope["raw_path"]):
                raise RouteNotFound(f"{shown}: the admin port has no such path", code="route_not_found")
            return False
        # Without keys there is nothing to open, and most requests need not be looked at so closely.
        if not (self._keys or context.admin.is_apart):
            return False
        is_admin = context.paths.is_admin(scope["method"], scope["path"])
        if is_admin and context.admin.is_apart:
            raise RouteNotFound(f"{shown}: {MOVED}", code="route_not_found")
        return is_admin

    def _authorize(
        self, headers: dict[bytes, bytes], record: RequestRecord, *, is_admin: bool, scope: Scope
    ) -> None:
        """Finds the request's key, sent as a bearer or as Anthropic's clients do, and what it opens."""
        key = self._keys.find(headers.get(b"authorization", b""))
        if key is None:
            key = self._keys.find(b"Bearer " + headers.get(b"x-api-key", b""))
        if key is None:
            raise Unauthenticated("a valid API key is required: Authorization: Bearer KEY, or X-Api-Key: KEY")
        record.key, record.key_digest = key, key.digest
        if is_admin:
            if not key.is_admin:
                raise PermissionDenied(f"{scope['path']} needs the admin key")
        elif scope["method"] == "POST":
            record.limits = self.context.limits.of(key)


class _Reply:
    """The ASGI `send` of one request: adds headers, and remembers what was sent."""

    def __init__(self, record: RequestRecord, send: Send, context: ServerContext) -> None:
        self.record = record
        self.send = send
        self.context = context
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.record.status = message["status"]
            headers: list[tuple[bytes, bytes]] = list(message["headers"])
            if self.context.draining:
                headers = [header for header in headers if header[0] != b"connection"]
            message["headers"] = headers + extra_headers(self.record, self.context)
        await self.send(message)


def extra_headers(record: RequestRecord, context: ServerContext) -> list[tuple[bytes, bytes]]:
    """What stands on every answer besides what its route says."""
    headers = [(b"x-request-id", record.request_id.encode())]
    if record.version is not None:
        headers.append((b"x-quire-version", record.version.encode()))
    if record.limits is not None:
        headers += record.limits.headers()
    if context.state.draining:
        headers.append((b"connection", b"close"))
    return headers


def is_page(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Whether a browser asks for a part of the web page, which is the same for all and asks for the key."""
    path: bytes = scope["raw_path"]
    if scope["method"] not in ("GET", "HEAD"):
        return False
    return path.startswith(b"/ui/") or (path == b"/" and wants_page(headers.get(b"accept", b"")))


def wants_page(accept: bytes) -> bool:
    """Whether an Accept header is a browser's."""
    return b"text/html" in accept.lower()


def header_bytes(headers: Sequence[tuple[bytes, bytes]]) -> int:
    """The size of headers as they stand on the wire, with ': ' and the line's end."""
    return 4 * len(headers) + sum(map(len, chain.from_iterable(headers)))


def check_request_id(request_id: str, param: str) -> str:
    """The id, or `InvalidRequest`: it is written into a header and into the log."""
    if not 0 < len(request_id) <= MAX_REQUEST_ID_CHARACTERS:
        raise InvalidRequest(
            f"{param} must have 1 to {MAX_REQUEST_ID_CHARACTERS} characters, got {len(request_id)}",
            param=param,
        )
    if not (request_id.isascii() and request_id.isprintable()):
        raise InvalidRequest(f"{param} must consist of printable ASCII characters", param=param)
    return request_id


def log_request(scope: Scope, record: RequestRecord, *, routine: bool) -> None:
    """One line per request, with neither prompts, outputs nor keys. Never fails the request."""
    # Probes and scrapes are of interest when they fail.
    level = logging.DEBUG if routine and record.status == 200 else logging.INFO
    if not access_logger.isEnabledFor(level):
        return
    milliseconds = (time.perf_counter() - record.started) * 1000
    line = f"{scope['method']} {_quoted(scope['path'])} {record.status} {milliseconds:.1f} ms"
    if record.num_prompt_tokens:
        line += (
            f" prompt={record.num_prompt_tokens} cached={record.num_cached_tokens}"
            f" generated={record.num_generation_tokens}"
        )
    line += f" id={record.internal_id}"
    if record.request_id != record.internal_id:
        line += f" request_id={json.dumps(record.request_id)}"
    if record.key is not None:
        line += f" key={json.dumps(record.key.name)}"
    if record.model is not None:
        line += f" model={_quoted(record.model)}"
    if record.user is not None:
        line += f" user={json.dumps(record.user)}"
    if record.tags:
        line += f" metadata={json.dumps(record.tags)}"
    if record.error is not None:
        error = record.error
        code = (error.code or error.type) if isinstance(error, QuireError) else "internal_error"
        line += f" error={code}"
    with contextlib.suppress(Exception):  # a broken handler is no reason to fail a request
        log_line(access_logger, level, line)


@lru_cache(maxsize=256)
def _quoted(text: str) -> str:
    """What a client chose, quoted and escaped so that nobody forges a line, and not too long."""
    return json.dumps(text[:200])

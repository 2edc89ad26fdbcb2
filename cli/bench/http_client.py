"""HTTP/1.1 for a load generator: as little work per packet as Python allows.

A client that costs more per token than the server does would measure itself. So there is one callback
per packet, which llhttp parses (through httptools, as in the server), and no stream, queue or task in
between.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast
from urllib.parse import unquote, urlsplit

import httptools

from ...errors import InvalidRequest

LINGER_SECONDS = 1.0
"""How long a connection may take to end an answer whose reader has all that it wants."""


class ExchangeError(Exception):
    """A request that got no answer, or not a whole one.

    Attributes:
        kind: A stable word for what went wrong.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Reader(Protocol):
    """Takes in one answer. What it raises ends the exchange and closes the connection."""

    is_complete: bool
    """Whether nothing that comes later matters: then a connection that ends early has ended well."""

    def on_headers(self, status: int, content_type: str) -> None:
        """The answer begins."""
        ...

    def on_data(self, data: bytes) -> None:
        """A piece of its body."""
        ...


class Connection(asyncio.Protocol):
    """A connection that carries one exchange after another."""

    def __init__(self) -> None:
        self.is_open = False
        self.has_answer = False  # whether a byte of this exchange's answer has come
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._reader: Reader | None = None
        self._done: asyncio.Future[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._in_body = False
        self._has_length = False
        self._content_type = ""

    async def exchange(self, request: bytes, reader: Reader) -> None:
        """Sends a request and returns when its answer is over.

        Raises:
            ExchangeError: The connection broke, or what came is no HTTP.
            Exception: What the reader raised.
        """
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._reader = reader
        self._done = asyncio.get_running_loop().create_future()
        self.has_answer = self._in_body = self._has_length = False
        self._content_type = ""
        self._transport.write(request)
        try:
            await self._done
        except BaseException:
            self.close()
            raise
        finally:
            self._reader = None
            if self._linger is not None:
                self._linger.cancel()
                self._linger = None

    def close(self) -> None:
        """Ends the connection at once."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if self._reader is None or self._parser is None:
            self.close()  # nobody has asked for this
            return
        self.has_answer = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self._fail(cast(Exception, error.__context__ or error))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(ExchangeError("bad_http", f"the answer is no HTTP/1.1: {error}"))
        self._linger_if_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._reader is None:
            return
        if self._reader.is_complete or (self._in_body and not self._has_length and exc is None):
            self._end(None)
        elif self._in_body:
            self._end(ExchangeError("cut_stream", "the connection ended in the middle of an answer"))
        else:
            self._end(ExchangeError("disconnected", "the connection ended before the answer began"))

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self._content_type = value.decode("latin-1")
        elif name in (b"content-length", b"transfer-encoding"):
            self._has_length = True

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200 or self._reader is None:
            return  # the answer itself is yet to come
        self._in_body = True
        self._reader.on_headers(status, self._content_type)

    def on_body(self, body: bytes) -> None:
        if self._reader is not None:
            self._reader.on_data(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self._parser.get_status_code() >= 200:
            if not self._parser.should_keep_alive():
                self.close()
            self._end(None)
            self._reader = None  # what may follow belongs to no exchange

    def _linger_if_complete(self) -> None:
        if self._reader is not None and self._reader.is_complete and self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.close)

    def _fail(self, error: Exception) -> None:
        self._end(error)
        self.close()

    def _end(self, error: Exception | None) -> None:
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)


Connect = Callable[[Callable[[], Connection]], Coroutine[Any, Any, Connection]]
"""Opens a connection for a protocol, as `connector` does; tests have their own."""


class HttpClient:
    """Exchanges with one server, over as many connections as there are exchanges at once.

    Args:
        url: `http://` or `https://`, with a host, a port or none, and a path that prefixes all others. A
            user and a password in it become an Authorization header.
        headers: Sent with every request, besides what HTTP asks for.
        connect: How a connection is opened.

    Attributes:
        num_connections: Opened so far.

    Raises:
        InvalidRequest: The URL or a header cannot be used.
    """

    def __init__(
        self, url: str, headers: dict[str, str] | None = None, connect: Connect | None = None
    ) -> None:
        parts = _split(url)
        self._prefix = parts.path.rstrip("/")
        fields = {"Host": parts.netloc.rpartition("@")[2], "Accept": "*/*", "User-Agent": "quire-bench"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            fields["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        fields |= headers or {}
        for name, value in fields.items():
            if not (f"{name}{value}".isascii() and f"{name}{value}".isprintable()):
                raise InvalidRequest(f"the header {name} must consist of printable ASCII characters")
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._connect = connect or connector(parts.hostname or "", parts.port, secure=parts.scheme == "https")
        self._idle: list[Connection] = []
        self.num_connections = 0

    async def get(self, path: str, reader: Reader) -> None:
        """As `post`, without a body."""
        await self._exchange(f"GET {self._prefix}{path} HTTP/1.1\r\n{self._fields}\r\n".encode(), reader)

    async def post(self, path: str, body: bytes, reader: Reader) -> None:
        """Sends a body of JSON; the reader has taken in the answer when this returns.

        Raises:
            ExchangeError: There was no whole answer.
            Exception: What the reader raised.
        """
        head = (
            f"POST {self._prefix}{path} HTTP/1.1\r\n{self._fields}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        await self._exchange(head.encode() + body, reader)

    def close(self) -> None:
        """Closes the connections that are idle."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _exchange(self, request: bytes, reader: Reader) -> None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_open:
                continue
            try:
                await self._use(connection, request, reader)
            except ExchangeError:
                # A server may close an idle connection at the moment at which it is used again, and
                # has then seen nothing of the request.
                if connection.has_answer:
                    raise
            else:
                return
        try:
            connection = await self._connect(Connection)
        except OSError as error:
            raise ExchangeError("connect", f"no connection: {error.strerror or error}") from error
        self.num_connections += 1
        await self._use(connection, request, reader)

    async def _use(self, connection: Connection, request: bytes, reader: Reader) -> None:
        await connection.exchange(request, reader)
        if connection.is_open:
            self._idle.append(connection)


def connector(host: str, port: int | None, *, secure: bool) -> Connect:
    """Opens connections to a host, whose name is looked up once."""
    context = ssl.create_default_context() if secure else None
    known: list[tuple[Any, ...]] = []

    async def connect(factory: Callable[[], Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        addresses = known or await loop.getaddrinfo(
            host, port or (443 if secure else 80), type=socket.SOCK_STREAM
        )
        failure = OSError(f"{host} has no address")
        for entry in addresses:
            address: tuple[Any, ...] = entry[4]
            try:
                _, connection = await loop.create_connection(
                    factory, address[0], address[1], ssl=context, server_hostname=host if secure else None
                )
            except OSError as error:
                failure = error
            else:
                known[:] = [entry]
                return connection
        raise failure

    return connect


def _split(url: str) -> Any:
    parts = urlsplit(url)
    try:
        _ = parts.port
    except ValueError as error:
        raise InvalidRequest(f"{url!r} is no URL: {error}", param="base_url") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"{url!r} is no URL of the form http://host:port", param="base_url")
    if parts.query or parts.fragment:
        raise InvalidRequest(f"{url!r} must end with its path", param="base_url")
    return parts

"""The protocol's gRPC service: the same models, keys, limits, log and metrics as over HTTP.

Imported when a port for it is given; it needs the extra `grpc`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from grpc import aio
from starlette.types import Receive, Scope, Send

from ...errors import InvalidRequest, Overloaded, QuireError
from ..context import RequestRecord, ServerContext
from ..errors import error_details, error_status
from ..gate import STATUS_CLIENT_GONE, RequestGate, log_request
from ..tls import certificate
from . import grpc_models
from .grpc_generate import generate
from .grpc_infer import infer
from .grpc_schema import SERVICE, message_class
from .names import VERSION, is_language_model

logger = logging.getLogger("quire.server")

Answer = Callable[[ServerContext, RequestRecord, Any], Awaitable[Any]]

EMPTY_FINAL = "triton_enable_empty_final_response"
"""A stream's request that wants to know which answer is its last."""

IS_FINAL = "triton_final_response"

OVERHEAD_BYTES = 64 * 1024  # of a message, besides its tensors

STATUS_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    431: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.UNAVAILABLE,
}
"""What an HTTP status is to gRPC; INTERNAL for all others."""

_PLAIN = {
    "ServerLive": grpc_models.server_live,
    "ServerReady": grpc_models.server_ready,
    "ModelReady": grpc_models.model_ready,
    "ServerMetadata": grpc_models.server_metadata,
    "ModelMetadata": grpc_models.model_metadata,
    "ModelConfig": grpc_models.model_config,
    "ModelStatistics": grpc_models.model_statistics,
    "RepositoryIndex": grpc_models.repository_index,
    "RepositoryModelLoad": grpc_models.repository_load,
    "RepositoryModelUnload": grpc_models.repository_unload,
}


class GrpcGate(RequestGate):
    """The gate of calls, which are to it what requests to paths like /package.Service/Method are."""

    def __init__(self, context: ServerContext) -> None:
        super().__init__(_no_application, context)
        context.paths.probes |= {f"/{SERVICE}/{name}".encode() for name in ("ServerLive", "ServerReady")}
        context.paths.add_admin(rf"POST /{SERVICE}/RepositoryModel(Load|Unload)")

    @contextlib.asynccontextmanager
    async def open(self, method: str, call: Any) -> AsyncGenerator[RequestRecord]:
        """Lets a call in, keeps its books, and ends it with the status of whatever is raised."""
        scope = _scope(method, call)
        record = self._new_record(self.context.paths.error_writer(scope["path"]))
        state = self.context.state
        counted = not self._is_routine(scope["raw_path"])
        state.num_in_flight += counted
        entered = None
        record.status = STATUS_CLIENT_GONE  # unless it is answered
        try:
            self._check(scope, record)
            if record.limits is not None:
                record.limits.enter()
                entered = record.limits
            yield record
            record.status = 200
        except Exception as error:
            record.error, record.status = error, error_status(error)
            if not isinstance(error, QuireError):
                logger.exception("request %s failed", record.internal_id)
            await _end(call, error)
        finally:
            state.num_in_flight -= counted
            if entered:
                entered.leave()
            record.end()
            seconds = time.perf_counter() - record.started
            state.metrics.observe_http("POST", scope["path"], record.status, seconds, record.model)
            log_request(scope, record, routine=not counted)
            record.error = None


async def _no_application(scope: Scope, receive: Receive, send: Send) -> None:
    """There is nothing behind this gate that is asked by HTTP."""


def _scope(method: str, call: Any) -> Scope:
    path = f"/{SERVICE}/{method}"
    headers = [
        (name.encode(), value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in call.invocation_metadata() or ()
    ]
    return {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": headers}


async def _end(call: Any, error: Exception) -> None:
    trailers = (("retry-after", str(error.retry_after)),) if isinstance(error, Overloaded) else ()
    code = STATUS_CODES.get(error_status(error), grpc.StatusCode.INTERNAL)
    await call.abort(code, error_details(error).message, trailers)


def _handler(gate: GrpcGate, name: str, answer: Answer) -> Any:
    async def handle(message: Any, call: Any) -> Any:
        async with gate.open(name, call) as record:
            return await answer(gate.context, record, message)

    return grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=message_class(f"{name}Request").FromString,
        response_serializer=message_class(f"{name}Response").SerializeToString,
    )


def _stream_handler(gate: GrpcGate) -> Any:
    """ModelStreamInfer: requests are answered one after another; one that fails ends nothing."""
    response = message_class("ModelStreamInferResponse")

    async def handle(messages: AsyncIterator[Any], call: Any) -> AsyncGenerator[Any]:
        async for message in messages:
            try:
                async with (
                    gate.open("ModelStreamInfer", _Within(call)) as record,
                    aclosing(_answers(gate.context, record, message)) as answers,
                ):
                    async for answer in answers:
                        yield response(infer_response=answer)
            except _Ended as ended:
                yield response(error_message=ended.message, infer_response={"id": message.id})

    return grpc.stream_stream_rpc_method_handler(
        handle,
        request_deserializer=message_class("ModelInferRequest").FromString,
        response_serializer=response.SerializeToString,
    )


async def _answers(context: ServerContext, record: RequestRecord, message: Any) -> AsyncGenerator[Any]:
    """All answers to one request of a stream: one, unless it is to a language model."""
    says_when_over = _pop_flag(message, EMPTY_FINAL)
    model, version = message.model_name, message.model_version or None
    if is_language_model(context, model, version):
        async with aclosing(generate(context, record, message)) as answers:
            async for answer in answers:
                yield answer
        if says_when_over:
            last = message_class("ModelInferResponse")(model_name=model, model_version=VERSION, id=message.id)
            last.parameters[IS_FINAL].bool_param = True
            yield last
        return
    answer = await infer(context, record, message)
    if says_when_over:
        answer.parameters[IS_FINAL].bool_param = True
    yield answer


def _pop_flag(message: Any, name: str) -> bool:
    if name not in message.parameters:
        return False
    value = message.parameters.pop(name)
    if value.WhichOneof("parameter_choice") != "bool_param":
        raise InvalidRequest(f"{name} must be true or false", param=name)
    return value.bool_param


class _Ended(Exception):
    """One request of a stream has failed."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class _Within:
    """One request of a stream, as a call of its own: what ends it does not end the stream."""

    def __init__(self, call: Any) -> None:
        self.invocation_metadata = call.invocation_metadata

    async def abort(self, code: Any, message: str, trailers: object) -> None:
        """Ends the request alone."""
        raise _Ended(message)


class GrpcServer:
    """A server that listens. Make it with `GrpcServer.start(context, host, port)`.

    Attributes:
        port: Where.
    """

    def __init__(self, server: aio.Server, port: int) -> None:
        self._server = server
        self.port = port

    @classmethod
    async def start(cls, context: ServerContext, host: str, port: int) -> GrpcServer:
        """Listens.

        Args:
            context: The server whose models it asks.
            host: The address.
            port: 0 takes a free one.

        Raises:
            QuireError: The address cannot be had.
        """
        settings = context.settings
        server = aio.server(
            options=[
                ("grpc.max_receive_message_length", settings.max_body_bytes + OVERHEAD_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", settings.max_header_bytes),
                ("grpc.so_reuseport", 0),
            ]
        )
        gate = GrpcGate(context)
        handlers = {name: _handler(gate, name, _plain(answer)) for name, answer in _PLAIN.items()}
        handlers["ModelInfer"] = _handler(gate, "ModelInfer", infer)
        handlers["ModelStreamInfer"] = _stream_handler(gate)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            pair = certificate(settings)
            if pair is None:
                bound = server.add_insecure_port(address)
            else:
                bound = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        except RuntimeError as error:
            raise QuireError(f"cannot listen on {address}: {error}") from error
        await server.start()
        return cls(server, bound)

    async def stop(self, grace: float) -> None:
        """Takes no new calls, and ends those that run after so many seconds."""
        with contextlib.suppress(asyncio.CancelledError):
            await self._server.stop(grace)


def _plain(answer: Callable[[ServerContext, Any], Awaitable[Any]]) -> Answer:
    async def plain(context: ServerContext, record: RequestRecord, message: Any) -> Any:
        return await answer(context, message)

    return plain

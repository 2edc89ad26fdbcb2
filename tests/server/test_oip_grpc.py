"""The gRPC service passes the same gate as HTTP: keys, their limits, the drain, the log and the metrics."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio

from quire.server.context import ServerContext
from quire.server.keys import ApiKey
from quire.server.oip.grpc_schema import SERVICE, message_class
from quire.server.oip.grpc_server import GrpcServer
from quire.server.settings import ServerSettings

from .conftest import serve_in_process

KEYS = (ApiKey("alice", "sk-alice", requests_per_minute=1), ApiKey("admin", "sk-admin"))


class Caller:
    """A client without generated code."""

    def __init__(self, context: ServerContext, channel: aio.Channel) -> None:
        self.context = context
        self._channel = channel

    async def call(self, method: str, key: str = "", **fields: Any) -> Any:
        call = self._channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=message_class(f"{method}Request").SerializeToString,
            response_deserializer=message_class(f"{method}Response").FromString,
        )
        metadata = (("x-api-key", key), ("x-request-id", "mine")) if key else ()
        return await call(message_class(f"{method}Request")(**fields), metadata=metadata)

    async def refused(self, method: str, key: str = "", **fields: Any) -> aio.AioRpcError:
        with pytest.raises(aio.AioRpcError) as caught:
            await self.call(method, key, **fields)
        return caught.value


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with serve_in_process(settings=ServerSettings(api_keys=KEYS)) as served:
        server = await GrpcServer.start(served.context, "127.0.0.1", 0)
        async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Caller(served.context, channel)
        await server.stop(0)


async def test_probes_are_open_and_nothing_else(caller: Caller) -> None:
    assert (await caller.call("ServerLive")).live
    assert (await caller.call("ServerReady")).ready
    for method in ("ServerMetadata", "ModelReady", "RepositoryIndex", "RepositoryModelUnload", "ModelInfer"):
        assert (await caller.refused(method)).code() is grpc.StatusCode.UNAUTHENTICATED
        assert (await caller.refused(method, "wrong")).code() is grpc.StatusCode.UNAUTHENTICATED
    for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        error = await caller.refused(method, "sk-alice", model_name="fake")
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_limits_of_a_key(caller: Caller) -> None:
    assert (await caller.call("ServerMetadata", "sk-alice")).name == "quire"
    error = await caller.refused("ServerMetadata", "sk-alice")
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(error.trailing_metadata())["retry-after"]) > 0
    assert (await caller.call("ServerMetadata", "sk-admin")).name == "quire"


async def test_the_drain(caller: Caller) -> None:
    caller.context.draining = True
    assert (await caller.refused("ServerMetadata", "sk-admin")).code() is grpc.StatusCode.UNAVAILABLE
    assert (await caller.call("ServerLive")).live
    assert not (await caller.call("ServerReady")).ready


async def test_the_log_and_the_metrics(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quire.access")
    await caller.call("ServerMetadata", "sk-admin")
    await caller.refused("ModelMetadata", "sk-admin", name="nothing")
    await caller.call("ServerLive")
    first, second = (record.getMessage() for record in caplog.records if record.name == "quire.access")
    assert first.startswith(f'POST "/{SERVICE}/ServerMetadata" 200 ')
    assert 'request_id="mine" key="admin"' in first
    assert second.startswith(f'POST "/{SERVICE}/ModelMetadata" 404 ')
    assert caller.context.num_in_flight == 0
    assert f'handler="/{SERVICE}/ServerMetadata"' in caller.context.metrics.render().decode()


async def test_an_unexpected_failure_says_nothing(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("quire.server.oip.models.server_metadata", fail)
    error = await caller.refused("ServerMetadata", "sk-admin")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()
    assert "ZeroDivisionError" in caplog.text

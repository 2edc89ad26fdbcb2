"""TLS: a certificate of one's own, on HTTP and on gRPC."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from tritonclient.grpc import service_pb2, service_pb2_grpc

from quire.errors import QuireError
from quire.server.settings import ServerSettings
from quire.server.tls import check_certificate

from .quire_process import QuireProcess, question, stream


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key of 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("127.0.0.1")
    chain, key = folder / "server.pem", folder / "server.key"
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(str(chain), append=number > 0)
    issued.private_key_pem.write_to_path(str(key))
    return chain, key


async def test_http_and_grpc_are_spoken_over_tls_alone(
    authority: trustme.CA, files: tuple[Path, Path], tmp_path: Path
) -> None:
    chain, key = files
    options = ("--ssl-certfile", str(chain), "--ssl-keyfile", str(key), "--grpc-port", "0")
    server = QuireProcess(tmp_path, *options)
    try:
        assert server.url.startswith("https://")
        context = httpx.create_ssl_context()
        authority.configure_trust(context)
        async with httpx.AsyncClient(base_url=server.url, verify=context, timeout=None) as client:
            events = [event async for event in stream(client, question(1))]
            assert events[-1] == "[DONE]"
        async with httpx.AsyncClient(timeout=None) as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get(server.url.replace("https", "http") + "/health")

        (port,) = re.findall(r"gRPC is on 127\.0\.0\.1:(\d+)", server.log.read_text())
        credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert (await stub.ServerLive(service_pb2.ServerLiveRequest())).live
        server.process.terminate()
        assert await asyncio.to_thread(server.process.wait) == 0
    finally:
        server.stop()


def test_one_file_may_hold_both(authority: trustme.CA, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(both))
    check_certificate(ServerSettings(ssl_certfile=both))


def test_files_that_do_not_belong_together(
    authority: trustme.CA, files: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.key"
    authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(str(other))
    with pytest.raises(QuireError, match=r"other\.key"):
        check_certificate(ServerSettings(ssl_certfile=files[0], ssl_keyfile=other))
    with pytest.raises(QuireError, match=r"missing\.pem"):
        check_certificate(ServerSettings(ssl_certfile=tmp_path / "missing.pem"))


def test_a_key_alone_is_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="ssl_keyfile"):
        ServerSettings(ssl_keyfile=files[1])

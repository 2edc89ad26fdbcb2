"""What every request passes: ids, headers, the API key, the drain, the log."""

from __future__ import annotations

import logging
import socket

import pytest

from quire.engine.async_engine import AsyncEngine
from quire.engine.config import EngineConfig
from quire.errors import QuireError
from quire.server.keys import ApiKey
from quire.server.main import serve
from quire.server.settings import ServerSettings, check_bind_address, read_api_keys

from .attacked import check_error_form
from .conftest import Served, serve_in_process

KEY = "k-123"
ROUTES = (
    "/v1/models",
    "/v1/models/fake",
    "/version",
    "/metrics",
    "/openapi.json",
    "/nothing",
    "/",
    "/health/",
)
PROBES = ("/health", "/ready", "/ping")


async def test_without_the_key_only_the_probes_answer() -> None:
    async with serve_in_process(settings=ServerSettings(api_key=KEY)) as served:
        for path in PROBES:
            assert (await served.client.get(path)).status_code == 200
        wrong = (
            {},
            {"host": "x/?"},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {KEY}"},
            {"authorization": KEY},
            {"authorization": f"Bearer {KEY}x"},
        )
        for headers in wrong:
            for path in ROUTES:
                response = await served.client.get(path, headers=headers)
                assert response.status_code == 401, (path, headers)
                error = check_error_form(path, response.json())
                assert path == "/" or error["type"] == "authentication_error"  # which TGI's form has not
            assert (await served.client.post("/v1/completions", headers=headers)).status_code == 401
        assert served.engine.seen == []
        right = {"authorization": f"Bearer {KEY}"}
        assert (await served.client.get("/v1/models", headers=right)).status_code == 200
        assert (await served.client.get("/nothing", headers=right)).status_code == 404


async def test_the_key_separates_prefix_caches_and_stays_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    right = {"authorization": f"Bearer {KEY}"}
    async with serve_in_process(settings=ServerSettings(api_key=KEY), headers=right) as served:
        await served.complete()
        await served.complete(cache_salt="mine")
    salts = [seen[3] for seen in served.engine.seen]
    assert all(salts)
    assert salts[1].endswith(":mine")
    assert salts[0] != salts[1]
    assert KEY not in repr(salts)
    assert KEY not in repr(served.context.settings)
    assert KEY not in caplog.text


async def test_request_ids(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "quire.access")
    for _ in range(2):  # the same id twice is the client's affair
        response = await served.client.post(
            "/v1/completions", json={"prompt": "a"}, headers={"x-request-id": "mine"}
        )
        assert response.headers["x-request-id"] == "mine"
        assert response.json()["id"] == "cmpl-mine"
    own = await served.complete(request_id="body")
    assert own.json()["id"] == "cmpl-body"
    assert own.headers["x-request-id"] == "body"
    lines = [record.getMessage() for record in caplog.records if record.name == "quire.access"]
    assert len(lines) == 3
    assert len({line.split(" id=")[1].split()[0] for line in lines}) == 3
    assert all('request_id="mine"' in line for line in lines[:2])
    for bad in ("x" * 257, "a\tb", "ä"):
        refused = await served.client.get("/v1/models", headers=[(b"x-request-id", bad.encode("latin-1"))])
        assert refused.status_code == 400


async def test_header_limits(served: Served) -> None:
    for headers in (
        [("x-long", "v" * 65_000), ("x-more", "v" * 1000)],
        [(f"x-{number}", "v") for number in range(129)],
    ):
        response = await served.client.get("/v1/models", headers=headers)
        assert response.status_code == 431
        assert response.json()["error"]["code"] == "headers_too_large"


async def test_draining(served: Served) -> None:
    served.context.draining = True
    refused = await served.complete()
    assert refused.status_code == 503
    assert refused.json()["error"]["type"] == "draining"
    assert refused.headers["connection"] == "close"
    assert (await served.client.get("/ready")).json()["error"]["type"] == "draining"
    assert (await served.client.get("/health")).status_code == 200
    assert (await served.client.get("/metrics")).status_code == 200


async def test_a_failing_log_fails_no_request(served: Served) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(28, "No space left on device")

    logger = logging.getLogger("quire.access")
    broken = Broken(logging.INFO)
    level = logger.level
    logger.addHandler(broken)
    logger.setLevel(logging.INFO)
    try:
        assert (await served.complete()).status_code == 200
    finally:
        logger.removeHandler(broken)
        logger.setLevel(level)


async def test_unexpected_exceptions_are_opaque_outside_and_whole_in_the_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.engine.refuse_with = RuntimeError("the secret path /etc/quire")
    for body in ({}, {"stream": True}):
        response = await served.complete(**body)
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "engine_error"
        assert "secret" not in response.text
    assert "the secret path" in caplog.text
    assert "Traceback" in caplog.text


def test_other_addresses_need_a_key() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3"):
        check_bind_address(host, ServerSettings())
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(ValueError, match="API key"):
            check_bind_address(host, ServerSettings())
        check_bind_address(host, ServerSettings(api_key=KEY))
        check_bind_address(host, ServerSettings(insecure=True))


def test_where_keys_come_from(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for variable in ("QUIRE_API_KEY", "QUIRE_API_KEY_FILE", "QUIRE_ADMIN_KEY"):
        monkeypatch.delenv(variable, raising=False)
    assert read_api_keys() == ()
    file = tmp_path / "key"
    monkeypatch.setenv("QUIRE_API_KEY_FILE", str(file))
    with pytest.raises(ValueError, match="cannot read"):
        read_api_keys()
    file.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        read_api_keys()
    file.write_text("from-file\n")
    assert read_api_keys() == (ApiKey("default", "from-file"),)
    other = tmp_path / "other"
    other.write_text("alice:a:2\n")
    monkeypatch.setenv("QUIRE_ADMIN_KEY", "boss")
    assert read_api_keys(other) == (ApiKey("admin", "boss"), ApiKey("alice", "a", 2.0))
    monkeypatch.setenv("QUIRE_API_KEY", "from-environment")
    assert read_api_keys(other)[0] == ApiKey("default", "from-environment")
    for variable in ("QUIRE_API_KEY", "QUIRE_ADMIN_KEY"):
        monkeypatch.setenv(variable, "")
        with pytest.raises(ValueError, match=f"{variable} is set but empty"):
            read_api_keys(other)
        monkeypatch.delenv(variable)


@pytest.mark.parametrize(
    "wrong", [{"max_body_bytes": 0}, {"body_timeout": -1.0}, {"api_key": ""}, {"api_key": "a b"}]
)
def test_settings_are_checked(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", ".").replace("api.key", "API key")):
        ServerSettings(**wrong)


def test_a_server_that_cannot_listen_loads_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(config: EngineConfig) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(AsyncEngine, "start", start)
    monkeypatch.delenv("QUIRE_API_KEY", raising=False)
    monkeypatch.delenv("QUIRE_API_KEY_FILE", raising=False)
    config = EngineConfig(model="embedded")
    with pytest.raises(ValueError, match="API key"):
        serve(config, host="0.0.0.0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(QuireError, match="in use"):
            serve(config, port=taken.getsockname()[1])


async def test_a_key_may_come_in_anthropics_header() -> None:
    async with serve_in_process(settings=ServerSettings(api_key=KEY)) as served:
        for headers, status in (
            ({"x-api-key": KEY}, 200),
            ({"x-api-key": KEY, "authorization": "Bearer wrong"}, 200),
            ({"x-api-key": f"{KEY}x"}, 401),
            ({"x-api-key": ""}, 401),
        ):
            assert (await served.client.get("/v1/models", headers=headers)).status_code == status


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/models", "/v1/messages", "/api/tags", "/api/nothing", "/generate", "/", "/info"),
        *("/completion", "/props", "/slots/1", "/lora-adapters", "/tokenize"),
    ],
)
async def test_refusals_are_in_the_dialects_form(path: str) -> None:
    async with serve_in_process(settings=ServerSettings(api_key=KEY)) as served:
        served.client.headers["x-api-key"] = KEY
        many = {f"x-{number}": "v" for number in range(129)}
        for headers, status in (({"x-api-key": "wrong"}, 401), (many, 431), ({"x-request-id": "a\tb"}, 400)):
            response = await served.client.post(path, headers=headers)
            assert response.status_code == status
            check_error_form(path, response.json())
        served.context.draining = True
        check_error_form(path, (await served.client.post(path)).json())


async def test_a_newline_in_a_path_hides_no_rule() -> None:
    keys = (ApiKey("alice", KEY), ApiKey("admin", "boss"))
    async with serve_in_process(settings=ServerSettings(api_keys=keys)) as served:
        served.client.headers["authorization"] = f"Bearer {KEY}"
        response = await served.client.post("/v2/repository/models/a%0Ab/unload")
        assert response.status_code == 403
        assert set(response.json()) == {"error"}
        assert isinstance(response.json()["error"], str)  # in the protocol's form

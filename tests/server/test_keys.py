"""API keys: whose they are, what they open, and what they may use."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from quire.errors import Overloaded
from quire.server.keys import ApiKey, KeyRing, parse_keys, read_keys
from quire.server.rate_limits import KeyLimits, RateLimits, duration
from quire.server.settings import ServerSettings

from .conftest import Served, serve_in_process

ALICE = ApiKey("alice", "a-secret", weight=2.0)
BOB = ApiKey("bob", "b-secret")
ADMIN = ApiKey("admin", "boss-secret")


def bearer(key: ApiKey) -> dict[str, str]:
    return {"authorization": f"Bearer {key.secret}"}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def limited(served: Served, key: ApiKey) -> Clock:
    """Gives the server's limits a clock that stands still."""
    clock = Clock()
    served.context.limits = RateLimits(clock)
    return clock


def test_a_file_of_keys() -> None:
    text = "# ours\n\nalice:a:2.5:60:1000:4\nbob:b\ncarol:c::7\nadmin:boss\nplain\n"
    assert parse_keys(text, "file") == (
        ApiKey("alice", "a", 2.5, 60, 1000, 4),
        ApiKey("bob", "b"),
        ApiKey("carol", "c", requests_per_minute=7),
        ApiKey("admin", "boss"),
        ApiKey("default", "plain"),
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("alice:s3cret:heavy", "weight of 'alice' must be a number, got 'heavy'"),
        ("alice:s3cret:0", "weight of 'alice' must be positive, got 0.0"),
        ("alice:s3cret:nan", "weight of 'alice' must be positive, got nan"),
        ("alice:s3cret:1:0", "requests_per_minute of 'alice' must be at least 1, got 0"),
        ("alice:s3cret:1::1.5", "tokens_per_minute of 'alice' must be a number, got '1.5'"),
        ("alice:s3cret:1:1:1:1:1", "may be followed by 4 fields, got 5"),
        (":s3cret", "name must have 1 to 64"),
        ("alice:", "must neither be empty"),
        ("admin:s3cret:2", "admin key takes no weight and no limits"),
        ("alice:s3cret ä", "printable ASCII"),
    ],
)
def test_a_wrong_line_is_named_and_its_key_is_not(line: str, message: str) -> None:
    with pytest.raises(ValueError, match="file, line 2") as caught:
        parse_keys(f"bob:b\n{line}\n", "file")
    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_names_and_keys_are_unique() -> None:
    with pytest.raises(ValueError, match="two API keys of the name 'bob'"):
        ServerSettings(api_keys=(BOB, ApiKey("bob", "other")))
    with pytest.raises(ValueError, match="two names have the same API key") as caught:
        KeyRing((BOB, ApiKey("carol", BOB.secret)))
    assert BOB.secret not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_keys(file, "--api-key-file")


async def test_keys_have_tenants_weights_and_caches_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serve_in_process(settings=ServerSettings(api_keys=(ALICE, BOB, ADMIN))) as served:
        for key in (ALICE, BOB, ADMIN):
            response = await served.client.post("/v1/completions", json={"prompt": "hi"}, headers=bearer(key))
            assert response.status_code == 200
            assert f'key="{key.name}"' in caplog.text
        tenants = [tenant for tenant, _ in served.engine.tenants]
        assert tenants == [ALICE.digest, BOB.digest, ADMIN.digest]
        assert [weight for _, weight in served.engine.tenants] == [2.0, 1.0, 1.0]
        assert [seen[3] for seen in served.engine.seen] == tenants
        assert "secret" not in caplog.text + repr(served.context.settings)


@pytest.mark.parametrize("path", ["/reset_prefix_cache", "/%72eset_prefix_cache", "/reset_prefix_cache?x=1"])
async def test_admin_routes_need_the_admin_key(path: str) -> None:
    async with serve_in_process(settings=ServerSettings(api_keys=(ALICE, ADMIN))) as served:
        assert (await served.client.post(path)).status_code == 401
        assert (await served.client.post(path, headers={"host": "x/?"})).status_code == 401
        refused = await served.client.post(path, headers=bearer(ALICE))
        assert refused.status_code == 403
        assert refused.json()["error"]["type"] == "permission_error"
        assert served.engine.num_resets == 0
        assert (await served.client.post(path, headers=bearer(ADMIN))).status_code == 200
        assert served.engine.num_resets == 1


async def test_without_an_admin_key_admin_routes_are_closed_if_there_are_keys(served: Served) -> None:
    assert (await served.client.post("/reset_prefix_cache")).status_code == 200
    async with serve_in_process(settings=ServerSettings(api_key="k")) as other:
        headers = {"authorization": "Bearer k"}
        assert (await other.client.post("/reset_prefix_cache", headers=headers)).status_code == 403


async def test_requests_per_minute() -> None:
    key = ApiKey("alice", "a", requests_per_minute=3)
    settings = ServerSettings(api_keys=(key, BOB))
    async with serve_in_process(settings=settings, headers=bearer(key)) as served:
        clock = limited(served, key)
        left = []
        for _ in range(3):
            response = await served.complete()
            assert response.status_code == 200
            left.append(response.headers["x-ratelimit-remaining-requests"])
        assert left == ["2", "1", "0"]
        assert response.headers["x-ratelimit-limit-requests"] == "3"
        assert response.headers["x-ratelimit-reset-requests"] == "1m0s"
        refused = await served.complete()
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "overloaded"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.headers["retry-after"] == "20"
        assert (await served.client.get("/v1/models")).status_code == 200  # it costs nothing
        assert (await served.client.post(
            "/v1/completions", json={"prompt": "a"}, headers=bearer(BOB)
        )).status_code == 200  # fmt: skip
        clock.now += 19.5
        assert (await served.complete()).headers["retry-after"] == "1"
        clock.now += 0.5
        assert (await served.complete()).status_code == 200
        assert len(served.engine.seen) == 5


async def test_tokens_per_minute() -> None:
    key = ApiKey("alice", "a", tokens_per_minute=60)
    async with serve_in_process(settings=ServerSettings(api_keys=(key,)), headers=bearer(key)) as served:
        clock = limited(served, key)
        response = await served.complete(prompt="x" * 70, max_tokens=10)
        assert response.status_code == 200
        assert response.headers["x-ratelimit-limit-tokens"] == "60"
        assert response.headers["x-ratelimit-remaining-tokens"] == "0"
        assert response.headers["x-ratelimit-reset-tokens"] == "1m20s"
        refused = await served.complete()
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "21")
        clock.now += 20.9
        assert (await served.complete()).status_code == 429
        clock.now += 0.1
        assert (await served.complete(max_tokens=1)).status_code == 200


async def test_requests_at_once() -> None:
    key = ApiKey("alice", "a", max_concurrency=1)
    async with serve_in_process(settings=ServerSettings(api_keys=(key,)), headers=bearer(key)) as served:
        limits = served.context.limits.of(key)
        limits.enter()
        refused = await served.complete()
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["code"] == "concurrency_limit_exceeded"
        limits.leave()
        assert (await served.complete()).status_code == 200
        # Whatever becomes of a request, its place is free afterwards.
        assert (await served.complete(n=-1)).status_code == 400
        served.engine.refuse_with = RuntimeError("broken")
        assert (await served.complete()).status_code == 500
        served.engine.refuse_with = None
        assert (await served.complete()).status_code == 200


def test_what_is_refused_costs_nothing() -> None:
    clock = Clock()
    limits = KeyLimits(ApiKey("a", "a", requests_per_minute=1, max_concurrency=1), clock)
    limits.enter()
    for _ in range(5):
        with pytest.raises(Overloaded):
            limits.enter()
    limits.leave()
    clock.now += 60
    limits.enter()


def test_durations() -> None:
    shown = [duration(seconds) for seconds in (0, 0.0004, 1.5, 59.9996, 72, 360)]
    assert shown == ["0s", "0.001s", "1.5s", "1m0s", "1m12s", "6m0s"]

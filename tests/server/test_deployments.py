"""Deployments of language models behind the application: routed, retried, mirrored, scored and steered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from quire.errors import EngineDied, NoTokenAllowed, Overloaded
from quire.server.app import create_app
from quire.server.context import ServerContext
from quire.server.deployments.deployment import Deployment
from quire.server.deployments.shadow import ShadowStrategy
from quire.server.deployments.tally import Outcome
from quire.server.draining import DrainingServer
from quire.server.keys import ApiKey
from quire.server.responses.store import ResponseStore
from quire.server.settings import ServerSettings

from .conftest import events, until
from .fake_engine import FakeEngine

MESSAGES = [{"role": "user", "content": "hello"}]
CANARY_ONLY = {"type": "canary", "steps": [100], "step_requests": 10_000}
"""All requests go to the candidate, so that each test's first request does."""


class Deployed:
    """A server with the models "old" and "new", and the deployment "chat" in front of them."""

    def __init__(self, engines: dict[str, FakeEngine], app: Any, client: httpx.AsyncClient) -> None:
        self.old, self.new = engines["old"], engines["new"]
        self.app = app
        self.context: ServerContext = app.state.context
        self.client = client

    @property
    def deployment(self) -> Deployment:
        return self.context.deployments.get("chat")

    async def make(self, **spec: Any) -> None:
        response = await self.client.put("/admin/deployments/chat", json={"versions": ["old", "new"]} | spec)
        assert response.status_code == 200, response.text

    async def chat(self, **body: Any) -> httpx.Response:
        return await self.client.post(
            "/v1/chat/completions", json={"model": "chat", "messages": MESSAGES, "max_tokens": 4} | body
        )

    def outcomes(self, version: str) -> dict[str, int]:
        return {what: number for what, number in self.deployment.totals[version].outcomes.items() if number}


@contextlib.asynccontextmanager
async def serve(settings: ServerSettings | None = None, **client: Any) -> AsyncIterator[Deployed]:
    engines = {name: FakeEngine(name=name) for name in ("old", "new")}
    app = create_app(engines, settings)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://quire", **client) as http:
        try:
            yield Deployed(engines, app, http)
        finally:
            app.state.context.deployments.close()
            for engine in engines.values():
                await engine.close_grammars()


@pytest.fixture
async def deployed() -> AsyncIterator[Deployed]:
    async with serve() as deployed:
        yield deployed


GENERATION = {
    "/v1/completions": {"prompt": "hello"},
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 4},
    "/v1/embeddings": {"input": "hello"},
    "/pooling": {"input": "hello"},
    "/score": {"text_1": "hello", "text_2": "you"},
    "/api/generate": {"prompt": "hello", "stream": False},
    "/api/chat": {"messages": MESSAGES, "stream": False},
    "/completion": {"prompt": "hello"},
}


@pytest.mark.parametrize("path", GENERATION)
async def test_every_dialect_reaches_the_version_and_another_one_where_that_fails(
    deployed: Deployed, path: str
) -> None:
    await deployed.make(strategy=CANARY_ONLY)
    answer = await deployed.client.post(path, json=GENERATION[path] | {"model": "chat"})
    assert (answer.status_code, answer.headers["x-quire-version"]) == (200, "new"), answer.text
    assert (len(deployed.old.seen), bool(deployed.new.seen)) == (0, True)
    deployed.new.refuse_with = RuntimeError("broken")
    answer = await deployed.client.post(path, json=GENERATION[path] | {"model": "chat"})
    assert (answer.status_code, answer.headers["x-quire-version"]) == (200, "old"), answer.text
    assert deployed.outcomes("new") == {"succeeded": 1, "failed": 1}
    assert deployed.outcomes("old") == {"succeeded": 1}
    assert deployed.deployment.totals["new"].num_retried == 1


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/api/generate", "/completion"])
async def test_a_stream_that_has_not_begun_is_begun_by_another_version(deployed: Deployed, path: str) -> None:
    await deployed.make(strategy=CANARY_ONLY)
    deployed.new.fail_after = (0, EngineDied("gone"))
    body = GENERATION[path] | {"model": "chat", "stream": True}
    broken = await deployed.client.post(path, json=body)
    plain = await deployed.client.post(path, json=body | {"model": "old"})
    assert broken.status_code == plain.status_code == 200
    assert "error" not in broken.text
    assert len(broken.text.splitlines()) == len(plain.text.splitlines())
    assert deployed.outcomes("new") == {"failed": 1}


async def test_a_failure_in_mid_stream_counts_and_is_told(deployed: Deployed) -> None:
    await deployed.make(strategy=CANARY_ONLY)
    deployed.new.fail_after = (2, EngineDied("gone"))
    answer = await deployed.chat(stream=True)
    assert events(answer.text)[-2]["error"]["code"] == "engine_died"
    assert deployed.outcomes("new") == {"failed": 1}
    assert deployed.old.seen == []


async def test_what_is_wrong_with_a_request_is_no_evidence_and_not_repeated(deployed: Deployed) -> None:
    await deployed.make(strategy=CANARY_ONLY)
    for body in ({"temperature": 9}, {"max_tokens": -1}, {"top_logprobs": 3}):
        assert (await deployed.chat(**body)).status_code == 400
    deployed.new.refuse_with = NoTokenAllowed("nothing is left")
    assert (await deployed.chat()).status_code == 400
    assert deployed.outcomes("new") == {"void": 4}
    assert deployed.old.seen == []


async def test_requests_that_ask_nothing_of_the_model_say_nothing_of_it(deployed: Deployed) -> None:
    await deployed.make(strategy=CANARY_ONLY)
    for path in ("/tokenize", "/v1/messages/count_tokens"):
        body = (
            {"model": "chat", "prompt": "hello"}
            if path == "/tokenize"
            else {"model": "chat", "messages": MESSAGES}
        )
        assert (await deployed.client.post(path, json=body)).status_code == 200
    assert deployed.outcomes("new") == {"void": 2}


async def test_a_full_queue_is_the_versions_fault(deployed: Deployed) -> None:
    await deployed.make(strategy=CANARY_ONLY)
    deployed.new.refuse_with = Overloaded("full")
    answer = await deployed.chat()
    assert (answer.status_code, answer.headers["x-quire-version"]) == (200, "old")
    deployed.old.refuse_with = Overloaded("full, too")
    answer = await deployed.chat()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert deployed.outcomes("new") == {"failed": 2}
    assert deployed.outcomes("old") == {"succeeded": 1, "failed": 1}


async def test_a_client_that_goes_is_no_evidence(deployed: Deployed) -> None:
    await deployed.make(strategy=CANARY_ONLY)
    deployed.new.going.clear()
    asked = asyncio.create_task(deployed.chat())
    await until(lambda: bool(deployed.new.running), "the request runs")
    asked.cancel()
    await until(lambda: not deployed.new.running, "it is aborted")
    await asyncio.gather(asked, return_exceptions=True)
    assert deployed.outcomes("new") == {"void": 1}
    assert not deployed.deployment.pending


async def test_a_client_that_goes_in_mid_stream_is_no_evidence(deployed: Deployed) -> None:
    await deployed.make(strategy=CANARY_ONLY)
    deployed.new.step_seconds = 0.01
    settings = ServerSettings()
    server = DrainingServer(deployed.app, settings)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve(sockets=[listening]))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1/completions"
        body = {"model": "chat", "prompt": "hello", "stream": True, "max_tokens": 500, "ignore_eos": True}
        async with httpx.AsyncClient() as client, client.stream("POST", url, json=body) as answer:
            assert answer.headers["x-quire-version"] == "new"
            async for _ in answer.aiter_lines():
                break
        await until(lambda: not deployed.deployment.pending, "the attempt is over")
        assert deployed.outcomes("new") == {"void": 1}
        server.should_exit = True
        await task


async def test_a_canary_that_hangs_is_left_and_its_client_gets_an_answer(deployed: Deployed) -> None:
    await deployed.make(strategy={"type": "canary", "steps": [100], "hang_seconds": 0.2})
    deployed.new.going.clear()
    answers = await asyncio.gather(*(deployed.chat(stream=stream) for stream in (True, False)))
    assert [answer.headers["x-quire-version"] for answer in answers] == ["old", "old"]
    assert all(answer.status_code == 200 and "error" not in answer.text for answer in answers)
    assert deployed.deployment.strategy.describe()["phase"] == "rolled_back"
    assert not deployed.new.running
    (entry,) = [e for e in await deployed.context.deployments.audit("chat", 10) if e.what == "rolled_back"]
    assert entry.who == "quire"
    assert "hung" in entry.why


async def test_a_stream_that_hangs_in_the_middle_ends_with_an_error(deployed: Deployed) -> None:
    await deployed.make(strategy={"type": "canary", "steps": [100], "hang_seconds": 0.2})
    deployed.new.step_seconds = 0.01
    asked = asyncio.create_task(deployed.chat(stream=True, max_tokens=100, ignore_eos=True))
    await until(lambda: bool(deployed.new.running), "the request runs")
    await asyncio.sleep(0.1)
    deployed.new.going.clear()
    answer = await asked
    assert events(answer.text)[-2]["error"]["code"] == "model_hung"
    assert deployed.outcomes("new") == {"hung": 1}
    assert not deployed.new.running


async def test_a_canary_that_fails_is_rolled_back_and_no_client_notices(deployed: Deployed) -> None:
    await deployed.make(strategy={"type": "canary", "steps": [20, 100], "step_requests": 10_000})
    deployed.new.refuse_with = EngineDied("gone")
    for start in range(0, 400, 20):
        answers = await asyncio.gather(*(deployed.chat() for _ in range(start, start + 20)))
        assert {answer.status_code for answer in answers} == {200}
    assert deployed.deployment.strategy.describe()["phase"] == "rolled_back"
    assert sum(deployed.outcomes("new").values()) <= 50
    assert set(deployed.outcomes("old")) == {"succeeded"}


async def test_a_version_that_is_not_there_counts_as_failed(deployed: Deployed) -> None:
    await deployed.make(strategy=CANARY_ONLY)
    deployed.context.language_models.remove("new")
    answer = await deployed.chat()
    assert (answer.status_code, answer.headers["x-quire-version"]) == (200, "old")
    assert deployed.outcomes("new") == {"failed": 1}
    deployed.context.language_models.remove("old")
    answer = await deployed.chat()
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "version_unavailable"


# Blue-green


async def test_a_switch_under_load_loses_nothing_and_every_answer_is_of_one_version(
    deployed: Deployed,
) -> None:
    await deployed.make(strategy="blue-green")
    deployed.old.script, deployed.new.script = ["a" * 40], ["b" * 40]
    deployed.old.step_seconds = deployed.new.step_seconds = 0.001
    texts: list[str] = []

    async def client() -> None:
        for _ in range(15):
            answer = await deployed.chat(max_tokens=100, stream=True)
            assert answer.status_code == 200
            data = [item for item in events(answer.text) if isinstance(item, dict)]
            assert not any("error" in item for item in data)
            texts.append("".join(item["choices"][0]["delta"].get("content", "") for item in data))

    async def operator() -> None:
        for action in ("switch", "rollback", "switch"):
            await asyncio.sleep(0.05)
            answer = await deployed.client.post(f"/admin/deployments/chat/{action}", json={})
            assert answer.status_code == 200

    await asyncio.gather(operator(), *(client() for _ in range(8)))
    assert len(texts) == 120
    assert set(texts) == {"a" * 40, "b" * 40}


# Shadow


async def test_a_shadow_changes_no_answer_and_is_compared(deployed: Deployed) -> None:
    await deployed.make(strategy="shadow")
    plain = await deployed.chat(model="old")
    deployed.old.seen.clear()
    answers = [await deployed.chat() for _ in range(5)]
    strategy = deployed.deployment.strategy
    assert isinstance(strategy, ShadowStrategy)
    await until(lambda: strategy.state.num_compared == 5, "all are mirrored")
    for answer in answers:
        assert answer.json()["choices"] == plain.json()["choices"]
        assert answer.headers["x-quire-version"] == "old"
    assert (strategy.state.num_agreed, strategy.state.similarity) == (5, 5.0)
    assert [seen[0] for seen in deployed.old.seen] == [seen[0] for seen in deployed.new.seen]
    assert deployed.deployment.totals["new"].num_mirrored == 5
    deployed.new.script = ["something else"]
    await deployed.chat()
    await until(lambda: strategy.state.num_compared == 6, "the sixth is mirrored")
    assert strategy.state.num_agreed == 5
    for path in ("/v1/embeddings", "/v1/completions"):
        await deployed.client.post(path, json=GENERATION[path] | {"model": "chat"})
    await until(lambda: strategy.state.num_compared == 8, "other routes are mirrored")


async def test_a_shadow_that_fails_or_hangs_is_no_ones_trouble(deployed: Deployed) -> None:
    await deployed.make(strategy={"type": "shadow", "max_pending": 2, "timeout": 0.2})
    deployed.new.going.clear()
    answers = await asyncio.gather(*(deployed.chat() for _ in range(6)))
    assert {answer.status_code for answer in answers} == {200}
    strategy = deployed.deployment.strategy
    assert isinstance(strategy, ShadowStrategy)
    assert strategy.state.num_dropped == 4
    await until(lambda: strategy.state.num_given_up == 2, "the mirrored ones are given up")
    assert not deployed.new.running
    deployed.new.going.set()
    deployed.new.refuse_with = RuntimeError("broken")
    assert (await deployed.chat()).status_code == 200
    await until(lambda: deployed.outcomes("new").get("failed", 0) == 3, "the failure is counted")
    assert strategy.state.num_compared == 0


async def test_a_mirrored_request_waits_until_no_client_does(deployed: Deployed) -> None:
    await deployed.make(strategy="shadow")
    deployment, strategy = deployed.deployment, deployed.deployment.strategy
    assert isinstance(strategy, ShadowStrategy)
    clients = [deployment.choose(None) for _ in range(2)]
    shadow = deployment.attempt("new", is_mirrored=True)
    begun: list[bool] = []

    async def ask() -> float:
        begun.append(deployment.is_quiet)
        return 1.0

    deployed.context.deployments.mirrors.start(strategy, shadow, ask())
    for client in clients:
        await asyncio.sleep(0.01)
        assert begun == []
        client.end(Outcome.SUCCEEDED)
    await until(lambda: shadow.outcome is Outcome.SUCCEEDED, "it was asked")
    assert begun == [True]
    assert deployment.totals["new"].num_mirrored == 1
    # Where there is always somebody, it does not wait for ever.
    busy = deployment.choose(None)
    late = deployment.attempt("new", is_mirrored=True)
    deployed.context.deployments.mirrors.start(strategy, late, ask())
    await until(lambda: late.outcome is Outcome.SUCCEEDED, "it was asked")
    assert begun == [True, False]
    busy.end(Outcome.SUCCEEDED)


async def test_a_mirrored_request_counts_for_no_limit_and_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remembered: list[object] = []
    add = ResponseStore.add
    monkeypatch.setattr(ResponseStore, "add", lambda store, one: (remembered.append(one), add(store, one)))
    settings = ServerSettings(
        api_keys=(ApiKey("alice", "k-alice", tokens_per_minute=10_000), ApiKey("admin", "k-admin"))
    )
    async with serve(settings, headers={"authorization": "Bearer k-admin"}) as deployed:
        await deployed.make(strategy="shadow")
        alice = {"authorization": "Bearer k-alice"}
        body = {"model": "chat", "input": "hello", "max_output_tokens": 4}
        answer = await deployed.client.post("/v1/responses", json=body, headers=alice)
        left = int(answer.headers["x-ratelimit-remaining-tokens"])
        await until(lambda: deployed.outcomes("new") == {"succeeded": 1}, "it is mirrored")
        key = ApiKey("alice", "k-alice", tokens_per_minute=10_000)
        limits = dict(deployed.context.limits.of(key).headers())
        assert int(limits[b"x-ratelimit-remaining-tokens"]) >= left - 4
        assert len(deployed.new.seen) == 1
        stored = await deployed.client.get(f"/v1/responses/{answer.json()['id']}", headers=alice)
        assert stored.json()["output"] == answer.json()["output"]
        assert len(remembered) == 1


# Feedback, stickiness


async def test_feedback_goes_to_the_version_that_answered_once_and_by_the_same_key() -> None:
    settings = ServerSettings(api_keys=tuple(ApiKey(name, f"k-{name}") for name in ("alice", "bob", "admin")))
    async with serve(settings, headers={"authorization": "Bearer k-admin"}) as deployed:
        await deployed.make(strategy="bandit")
        alice = {"authorization": "Bearer k-alice"}
        answer = await deployed.client.post(
            "/v1/chat/completions",
            json={"model": "chat", "messages": MESSAGES, "request_id": "mine"},
            headers=alice,
        )
        body = {"request_id": "mine", "score": 1}
        for headers, status in (({"authorization": "Bearer k-bob"}, 404), (alice, 200), (alice, 400)):
            said = await deployed.client.post("/v1/feedback", json=body, headers=headers)
            assert said.status_code == status, said.text
        version = answer.headers["x-quire-version"]
        assert deployed.deployment.totals[version].num_scores == 1
        assert deployed.deployment.strategy.describe()["arms"][version]["alpha"] == 2
        await deployed.client.post(
            "/v1/chat/completions",
            json={"model": "chat", "messages": MESSAGES, "request_id": "2"},
            headers=alice,
        )
        for score in (1.5, -1, "good", None):
            said = await deployed.client.post(
                "/v1/feedback", json={"request_id": "2", "score": score}, headers=alice
            )
            assert said.status_code == 400, said.text


@pytest.mark.parametrize(
    ("sticky", "who"),
    [
        ("user", lambda name: ({"user": name}, {})),
        ("header:X-User", lambda name: ({}, {"x-user": name})),
    ],
)
async def test_a_client_stays_at_its_version(deployed: Deployed, sticky: str, who: Any) -> None:
    await deployed.make(strategy={"type": "canary", "steps": [50, 100]}, sticky=sticky)
    seen: dict[str, set[str]] = {}
    for name in map(str, range(12)):
        body, headers = who(name)
        for _ in range(3):
            answer = await deployed.client.post(
                "/v1/completions",
                json={"model": "chat", "prompt": "x", "max_tokens": 1} | body,
                headers=headers,
            )
            seen.setdefault(name, set()).add(answer.headers["x-quire-version"])
    assert all(len(versions) == 1 for versions in seen.values())
    assert {"old", "new"} == set().union(*seen.values())


# The admin API


async def test_the_admin_api_makes_changes_steers_and_deletes(deployed: Deployed) -> None:
    client = deployed.client
    assert (await client.get("/admin/deployments")).json() == {"deployments": []}
    body = {"name": "chat", "versions": ["old", {"model": "new", "id": "next"}], "strategy": "canary"}
    made = await client.post("/admin/deployments", json=body)
    assert made.status_code == 200, made.text
    assert [version["id"] for version in made.json()["versions"]] == ["old", "next"]
    assert (await client.post("/admin/deployments", json=body)).status_code == 409
    steered = await client.post("/admin/deployments/chat/promote", json={"why": "it is Friday"})
    assert steered.json()["state"]["percent"] == 5
    assert (await client.post("/admin/deployments/chat/promote", json={"version": "old"})).status_code == 400
    assert (await client.post("/admin/deployments/chat/explode", json={})).status_code == 400
    assert (await client.post("/admin/deployments/nothing/promote", json={})).status_code == 404
    listed = (await client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["old", "new", "chat"]
    assert (await client.get("/v1/models/chat")).json()["root"] == "old"
    changed = await client.put("/admin/deployments/chat", json=body | {"strategy": "blue-green"})
    assert changed.json()["state"]["active"] == "old"
    entries = (await client.get("/admin/deployments/chat/audit")).json()["entries"]
    assert [(entry["who"], entry["what"]) for entry in entries] == [
        ("operator", "changed"),
        ("operator", "step"),
        ("operator", "created"),
    ]
    assert entries[1]["why"] == "it is Friday"
    older = (await client.get("/admin/audit", params={"before": entries[1]["id"], "limit": 5})).json()
    assert [entry["what"] for entry in older["entries"]] == ["created"]
    for params in ({"limit": 0}, {"limit": "x"}, {"limit": 10**6}, {"since": 1}):
        assert (await client.get("/admin/audit", params=params)).status_code == 400
    assert (await client.delete("/admin/deployments/chat")).json() == {"name": "chat", "deleted": True}
    assert (await client.get("/admin/deployments/chat")).status_code == 404
    assert (await deployed.chat()).status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"versions": ["old", "absent"]},
        {"versions": ["old", "new@2"]},
        {"versions": []},
        {"versions": "old"},
        {"versions": ["old", "new"], "strategy": {"type": "canary", "steps": [0]}},
        {"versions": ["old", "new"], "strategy": {}},
        {"versions": ["old", "new"], "why": "x" * 2000},
        {"versions": ["old", "new"], "name": "other"},
        {"versions": ["old", "new"], "colour": "red"},
    ],
)
async def test_a_wrong_deployment_is_refused_and_nothing_changes(deployed: Deployed, wrong: Any) -> None:
    await deployed.make(strategy="blue-green")
    before = deployed.deployment.describe()
    answer = await deployed.client.put("/admin/deployments/chat", json={"strategy": "canary"} | wrong)
    assert answer.status_code == 400, answer.text
    assert deployed.deployment.describe() == before


async def test_every_admin_route_needs_the_admin_key() -> None:
    settings = ServerSettings(api_keys=(ApiKey("alice", "k-alice"), ApiKey("admin", "k-admin")))
    async with serve(settings, headers={"authorization": "Bearer k-alice"}) as deployed:
        for method, path in (
            ("GET", "/admin/deployments"),
            ("POST", "/admin/deployments"),
            ("GET", "/admin/deployments/chat"),
            ("PUT", "/admin/deployments/chat"),
            ("DELETE", "/admin/deployments/chat"),
            ("POST", "/admin/deployments/chat/promote"),
            ("GET", "/admin/deployments/chat/audit"),
            ("GET", "/admin/audit"),
        ):
            answer = await deployed.client.request(method, path)
            assert answer.status_code == 403, path


async def test_metrics_have_the_versions(deployed: Deployed) -> None:
    await deployed.make(strategy=CANARY_ONLY)
    await deployed.chat()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families((await deployed.client.get("/metrics")).text)
        for sample in family.samples
    }
    assert found["quire:deployment_requests_total", "chat", Outcome.SUCCEEDED, "new"] == 1
    assert found["quire:deployment_share", "chat", "new"] == 1
    assert found["quire:deployment_request_seconds_count", "chat", "new"] == 1
    assert found["quire:deployment_pending", "chat", "new"] == 0


async def test_without_deployments_nothing_is_kept_and_nothing_added(deployed: Deployed) -> None:
    answer = await deployed.chat(model="old")
    assert "x-quire-version" not in answer.headers
    assert json.loads(answer.text)["model"] == "old"
    assert deployed.context.num_body_bytes == 0
    await deployed.make(strategy=CANARY_ONLY)
    await deployed.chat()
    assert deployed.context.num_body_bytes == 0
    deployed.new.going.clear()
    asked = asyncio.create_task(deployed.chat())
    await until(lambda: bool(deployed.new.running), "the request runs")
    assert deployed.context.num_body_bytes > 0  # the body is kept: it may be needed again
    deployed.new.going.set()
    await asked
    assert deployed.context.num_body_bytes == 0


async def test_a_body_that_is_too_large_to_be_kept_is_not_repeated() -> None:
    async with serve(ServerSettings(max_buffered_bytes=250)) as deployed:
        await deployed.make(strategy=CANARY_ONLY)
        deployed.new.refuse_with = EngineDied("gone")
        assert (await deployed.chat()).status_code == 200
        long = [{"role": "user", "content": "x" * 75}]
        assert (await deployed.chat(messages=long)).status_code == 500
        assert deployed.outcomes("new") == {"failed": 2}
        assert deployed.context.num_body_bytes == 0


async def test_a_language_models_deployment_is_no_classic_model(deployed: Deployed) -> None:
    await deployed.make(strategy=CANARY_ONLY)
    tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}
    assert (await deployed.client.post("/v2/models/chat/infer", json={"inputs": [tensor]})).status_code == 404
    assert (await deployed.client.post("/v1/models/chat:predict", json={"instances": [1]})).status_code == 404
    assert deployed.outcomes("new") == deployed.outcomes("old") == {}

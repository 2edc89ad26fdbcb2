"""Deployments of a real server: bad canaries are left without a client noticing, and a restart goes on."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from .quire_process import PATIENCE

HERE = Path(__file__).parent
KEY = "k-admin"
VERSIONS = {"1": "Good", "2": "Failing", "3": "Slow", "4": "Hanging", "5": "Good"}
CLASSIC = "\n".join(
    f"""
[[models]]
name = "scale"
version = "{version}"
python_class = "deployed_predictors:{kind}"
parameters = {{ factor = {version}.0 }}
"""
    for version, kind in VERSIONS.items()
)
LANGUAGE = "\n".join(
    f"""
[[models]]
name = "{name}"
model = "embedded"
num_threads = 1
max_model_len = 256
num_blocks = 256
"""
    for name in ("old", "new")
)
DEPLOYMENT = """
[[deployments]]
name = "chat"
versions = ["old", "new"]
strategy = { type = "canary", steps = [50, 100], step_requests = 10_000 }
"""


class Server:
    """`quire serve --config` over a file, with an admin key; can be ended and started again."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        (folder / "quire.toml").write_text(config)
        self._start()

    def _start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("QUIRE_")}
        paths = [str(HERE), *filter(None, [environment.get("PYTHONPATH")])]
        environment |= {"QUIRE_ADMIN_KEY": KEY, "PYTHONPATH": os.pathsep.join(paths)}
        command = ["-m", "quire", "serve", "--config", "quire.toml", "--port", "0"]
        self.log = self.folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self.url = self._wait_for_url()
        except BaseException:
            self.stop()
            raise

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(r"on (http://127\.0\.0\.1:\d+)", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return found[1]

    def client(self) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.AsyncClient(base_url=self.url, timeout=PATIENCE, headers=headers)

    def restart(self) -> None:
        """Ends it as an operator does, and starts it again."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait() == 0, self.log.read_text()
        self._start()

    def stop(self) -> None:
        children = psutil.Process(self.process.pid).children() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(children, timeout=PATIENCE)
        assert alive == []


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("classic"), CLASSIC)
    yield server
    server.stop()


@pytest.fixture
def language(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, LANGUAGE + DEPLOYMENT)
    yield server
    server.stop()


async def infer(client: httpx.AsyncClient, model: str) -> tuple[str, float]:
    """The version that answered, and what it said of 1; the request must succeed."""
    tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}
    answer = await client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    return answer.headers["x-quire-version"], answer.json()["outputs"][0]["data"][0]


async def make(client: httpx.AsyncClient, name: str, versions: list[str], strategy: Any) -> None:
    body = {"versions": versions, "strategy": strategy}
    answer = await client.put(f"/admin/deployments/{name}", json=body)
    assert answer.status_code == 200, answer.text


async def state(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    return (await client.get(f"/admin/deployments/{name}")).json()


@pytest.mark.parametrize("version", ["2", "3", "4"], ids=[VERSIONS[v].lower() for v in ("2", "3", "4")])
async def test_a_bad_canary_is_left_and_no_client_sees_it(classic: Server, version: str) -> None:
    name = f"canary-{version}"
    async with classic.client() as client:
        strategy = {"type": "canary", "steps": [25, 100], "step_requests": 10_000, "hang_seconds": 2}
        await make(client, name, ["scale@1", f"scale@{version}"], strategy)
        done = asyncio.Event()

        async def ask() -> None:
            while not done.is_set():
                answered, said = await infer(client, name)
                assert said == float(answered.removeprefix("scale@"))

        clients = [asyncio.create_task(ask()) for _ in range(4)]
        while (now := await state(client, name))["state"]["phase"] == "running":
            assert not any(task.done() for task in clients), await asyncio.gather(*clients)
            await asyncio.sleep(0.1)
        done.set()
        await asyncio.gather(*clients)
        stable, canary = (await state(client, name))["versions"]
        assert now["state"]["phase"] == "rolled_back"
        print(now["state"]["reason"])
        # One more second of requests would be seen here: it gets none any more.
        before = sum(canary["requests"].values())
        assert {(await infer(client, name))[0] for _ in range(50)} == {"scale@1"}
        after = await state(client, name)
        assert sum(after["versions"][1]["requests"].values()) == before <= 50
        assert stable["requests"]["failed"] == stable["requests"]["hung"] == 0


async def test_a_good_canary_is_promoted_and_a_restart_goes_on(tmp_path: Path) -> None:
    models = "\n".join(part for part in CLASSIC.split("\n\n") if 'version = "1"' in part or '"5"' in part)
    server = Server(
        tmp_path,
        models
        + """
[[deployments]]
name = "y"
versions = ["scale@1", "scale@5"]
strategy = { type = "canary", steps = [20, 60, 100], step_requests = 15, step_seconds = 0.5 }
""",
    )
    try:
        async with server.client() as client:
            while (now := await state(client, "y"))["state"]["step"] == 0:
                await infer(client, "y")
            assert now["state"]["step"] == 1
            await client.post("/admin/deployments/y/pause", json={"why": "a restart"})
            before = await state(client, "y")
        assert (tmp_path / "quire.sqlite").exists()
        server.restart()
        async with server.client() as client:
            assert await state(client, "y") == before
            await client.post("/admin/deployments/y/resume", json={})
            while (now := await state(client, "y"))["state"]["phase"] == "running":
                await infer(client, "y")
            assert now["state"]["phase"] == "completed"
            assert {(await infer(client, "y"))[0] for _ in range(20)} == {"scale@5"}
            entries = (await client.get("/admin/deployments/y/audit")).json()["entries"]
            assert [(entry["who"], entry["what"]) for entry in reversed(entries)] == [
                ("config", "created"),
                ("quire", "step"),
                ("admin", "paused"),
                ("admin", "resumed"),
                ("quire", "step"),
                ("quire", "promoted"),
            ]
        assert (await asyncio.to_thread(server.log.read_text)).count("Traceback") == 0
    finally:
        server.stop()


async def test_the_death_of_a_canarys_engine_is_seen_by_no_one_who_waits_whole(language: Server) -> None:
    async with language.client() as client:
        body = {"model": "chat", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
        texts: set[str] = set()
        done = asyncio.Event()

        async def ask() -> None:
            while not done.is_set():
                answer = await client.post("/v1/completions", json=body)
                assert answer.status_code == 200, answer.text
                texts.add(answer.json()["choices"][0]["text"])

        clients = [asyncio.create_task(ask()) for _ in range(4)]
        while sum((await state(client, "chat"))["versions"][1]["requests"].values()) < 5:
            await asyncio.sleep(0.05)
        # The engine of "new" was started last.
        engines = sorted(
            (
                child
                for child in psutil.Process(language.process.pid).children()
                if "quire.engine.engine_process" in child.cmdline()
            ),
            key=lambda child: child.create_time(),
        )
        engines[-1].kill()
        while (now := await state(client, "chat"))["state"]["phase"] == "running":
            assert not any(task.done() for task in clients), await asyncio.gather(*clients)
            await asyncio.sleep(0.1)
        done.set()
        await asyncio.gather(*clients)
        stable, canary = now["versions"]
        assert now["state"]["phase"] == "rolled_back"
        assert canary["requests"]["failed"] <= 50
        assert canary["retried"] > 0
        assert stable["requests"]["failed"] == 0
        assert len(texts) == 1  # both versions are the same model here, and who answers makes no difference


def test_a_wrong_table_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    for table, named in (
        ('name = "y"\nversions = ["scale@1", "scale@7"]\nstrategy = "canary"', "no version '7'"),
        ('name = "y"\nversions = ["scale@1", "scale@2"]\nstrategy = "roulette"', "roulette"),
    ):
        (tmp_path / "quire.toml").write_text(f"{CLASSIC}\n[[deployments]]\n{table}\n")
        done = subprocess.run(
            [sys.executable, "-m", "quire", "serve", "--config", "quire.toml", "--port", "0"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "quire.toml: [[deployments]] 'y'" in done.stderr
        assert named in done.stderr

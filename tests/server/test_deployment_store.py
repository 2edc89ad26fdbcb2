"""Deployments on disk: a restart goes on where the last process was, and the audit log stays."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quire.errors import InvalidRequest, QuireError
from quire.server.deployments.manager import Deployments
from quire.server.deployments.spec import read_spec
from quire.server.deployments.tally import Outcome

SPEC = {"name": "e", "versions": ["old", "new"], "strategy": {"type": "canary", "steps": [10, 50, 100]}}


def send(deployments: Deployments, number: int) -> None:
    deployment = deployments.get("e")
    for _ in range(number):
        deployment.choose(None).end(Outcome.SUCCEEDED)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deployments.sqlite"


@pytest.mark.parametrize("strategy", ["canary", "bandit", "blue-green", "shadow"])
def test_a_restart_resumes(path: Path, strategy: str) -> None:
    before = Deployments(path, rng=random.Random(1))
    before.create(read_spec(SPEC | {"strategy": strategy}), "alice", "try it")
    send(before, 300)
    if strategy == "bandit":
        for value in (1.0, 0.0, 1.0):
            before.get("e").score("new", value)
    before.act("e", "switch" if strategy == "blue-green" else "promote", "bob", "faster")
    send(before, 100)
    expected = before.get("e").describe()
    before.close()
    assert path.stat().st_mode & 0o777 == 0o600

    after = Deployments(path)
    assert after.get("e").describe() == expected
    assert after.get("e").totals == before.get("e").totals
    entries = asyncio.run(after.audit("e", 10))
    assert [(entry.who, entry.what) for entry in entries][1:] == [("alice", "created")]
    assert (entries[0].who, entries[0].why) == ("bob", "faster")
    after.delete("e", "carol", "done")
    after.close()

    last = Deployments(path)
    assert len(last) == 0
    assert [entry.what for entry in asyncio.run(last.audit(None, 1))] == ["deleted"]
    last.close()


def test_what_was_done_shortly_before_a_kill_is_there(path: Path) -> None:
    code = f"""
import os, random, signal
from pathlib import Path
from quire.server.deployments.manager import Deployments
from quire.server.deployments.spec import read_spec
from quire.server.deployments.tally import Outcome
deployments = Deployments(Path({str(path)!r}), rng=random.Random(1))
deployments.create(read_spec({SPEC!r}), "alice", "try it")
deployments.act("e", "promote", "alice", "go on")
for _ in range(100):
    deployments.get("e").choose(None).end(Outcome.SUCCEEDED)
deployments.tick()
deployments.store.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    after = Deployments(path)
    assert after.get("e").describe()["state"]["step"] == 1
    requests = sum(sum(totals.outcomes.values()) for totals in after.get("e").totals.values())
    assert requests == 100
    assert len(asyncio.run(after.audit("e", 10))) == 2
    after.close()


def test_the_configuration_is_taken_up_and_wins(path: Path) -> None:
    first = Deployments(path)
    first.create(read_spec(SPEC | {"name": "by-api"}), "alice", "")
    first.configure([SPEC, SPEC | {"name": "f"}])
    first.act("e", "promote", "alice", "")
    first.close()

    second = Deployments(path)
    second.configure([SPEC])  # as before, and without "f"
    assert second.get("e").describe()["state"]["step"] == 1
    assert {deployment.name for deployment in second} == {"e", "by-api"}
    second.configure([SPEC | {"sticky": "key"}, SPEC | {"name": "by-api"}])
    assert second.get("e").describe()["state"]["step"] == 0
    second.configure([SPEC | {"sticky": "key"}])
    assert {deployment.name for deployment in second} == {"e"}  # the configuration had taken it over
    for wrong in ([SPEC, SPEC], [SPEC | {"strategy": "roulette"}]):
        with pytest.raises(InvalidRequest):
            second.configure(wrong)
    second.close()


def test_a_file_that_cannot_be_had_is_named(path: Path) -> None:
    path.write_text("this is no database, and long enough to be sure of it: " * 50)
    with pytest.raises(QuireError, match=str(path)):
        Deployments(path)
    with pytest.raises(QuireError, match="absent"):
        Deployments(path.parent / "absent" / "deployments.sqlite")


def test_a_second_server_does_not_take_the_same_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.server.deployments.store.BUSY_SECONDS", 0.1)
    first = Deployments(path)
    with pytest.raises(QuireError, match="locked"):
        Deployments(path)
    first.close()
    Deployments(path).close()


def test_a_state_that_cannot_be_read_costs_nothing_but_itself(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Deployments(path)
    first.create(read_spec(SPEC), "alice", "")
    first.create(read_spec(SPEC | {"name": "f"}), "alice", "")
    first.close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE deployments SET strategy = '{\"phase\": 7}' WHERE name = 'e'")
    connection.close()
    second = Deployments(path)
    assert [deployment.name for deployment in second] == ["f"]
    assert "'e' cannot be restored" in caplog.text
    second.close()


async def test_a_disk_that_is_full_costs_no_request(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deployments = Deployments(path)
    deployments.create(read_spec(SPEC), "alice", "")
    store: Any = deployments.store
    store.flush()
    store._connection.execute(
        f"PRAGMA max_page_count = {store._connection.execute('PRAGMA page_count').fetchone()[0]}"
    )
    for _ in range(200):
        deployments.act("e", "pause", "alice", "x" * 1000)
        deployments.act("e", "resume", "alice", "x" * 1000)
    send(deployments, 10)
    deployments.close()
    assert "could not be written" in caplog.text

"""An engine in a process of its own, for `peers.py`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from peer_adapters.protocol import Settings

ADAPTERS = Path(__file__).parent / "peer_adapters"
GRACE = 20  # seconds to end in peace
CLEAN = 0.03  # a measurement counts as undisturbed when others had less than this share of the CPUs


class EngineProcess:
    """Starts an adapter, and asks it questions.

    Args:
        python: The interpreter to run it with.
        adapter: The script's name.
        settings: What the adapter is told.
        log: Where its stderr goes.

    Raises:
        RuntimeError: If it ends before it is ready, with the end of its log.

    Attributes:
        start_up: Seconds from the start until it was ready.
        report: What it says about itself.
    """

    def __init__(self, python: Path, adapter: str, settings: Settings, log: Path) -> None:
        self._log = log
        threads = str(settings.threads)
        # Sessions of their own, so that one signal reaches an engine with all its helpers.
        with log.open("w") as output:
            started = time.perf_counter()
            self._process = subprocess.Popen(
                [str(python), str(ADAPTERS / f"{adapter}.py"), json.dumps(dataclasses.asdict(settings))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            )
        self.report: dict[str, str] = self._read()["ready"]
        self.start_up = time.perf_counter() - started

    def wait_for_quiet(self, patience: float) -> None:
        """Returns when others leave the CPUs alone for a second, or after so many seconds."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            before = self._others()
            time.sleep(1)
            if self._others() - before < CLEAN * len(os.sched_getaffinity(0)):
                return

    def ask(self, order: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """Sends an order and waits for the answer.

        Returns:
            The answer, and the share of the CPUs that others had meanwhile: it should be about zero.
        """
        assert self._process.stdin is not None
        started, others = time.perf_counter(), self._others()
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        available = (time.perf_counter() - started) * len(os.sched_getaffinity(0))
        return answer, max(0.0, self._others() - others) / available

    def close(self) -> None:
        """Ends it: by the end of its stdin, or else by force."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.stdin.close()
            self._process.wait(GRACE)
        self._kill()  # and what helpers it has left

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._kill()
            raise RuntimeError(f"the engine ended; its log ends: ...{self._log.read_text()[-600:].strip()}")
        return json.loads(line)

    def _others(self) -> float:
        """CPU seconds since the machine's start of whatever is not this engine, on the CPUs in use."""
        tick = os.sysconf("SC_CLK_TCK")
        names = {f"cpu{cpu}" for cpu in os.sched_getaffinity(0)}
        busy = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *ticks = line.split()
            if name in names:  # all but idle and waiting, with what the hypervisor gave to others
                busy += sum(int(ticks[i]) for i in (0, 1, 2, 5, 6, 7))
        own = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == self._process.pid:  # of its session
                own += sum(int(value) for value in fields[11:15])  # with children that have ended
        return (busy - own) / tick

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

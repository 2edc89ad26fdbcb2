"""quire beside MLServer, BentoML and mosec: the same LightGBM, single rows as JSON over HTTP.

    python benchmarks/classic_versus.py --peers FOLDER [--seconds 10] [--rounds 3] [--only quire,mosec]

FOLDER holds a virtual environment for each peer that is to be measured, under its name:

    for peer in mosec bentoml mlserver; do python3 -m venv FOLDER/$peer; done
    FOLDER/mosec/bin/pip install mosec lightgbm
    FOLDER/bentoml/bin/pip install bentoml lightgbm
    FOLDER/mlserver/bin/pip install mlserver mlserver-lightgbm 'uvloop<0.22'

The model has 100 trees on 30 features. wrk, with 64 connections on the same machine, asks one system after
another, round by round; each answer is first compared with the library's own. Every system has one process
for the model, with one thread, and batches if it can; the rest is as it comes. `MLServer` computes each
request by itself, as it does by default, and `MLServer, batched` has its adaptive batching.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))

from classic import FEATURES, train

CONNECTIONS = 64
FIRST_PORT = 18600
PEERS = Path(__file__).parent / "classic_peers"
PATIENCE = 120.0  # seconds that a system may take to start
ROW = [round((number * 0.37) % 2 - 1, 6) for number in range(FEATURES)]
TENSOR = {"name": "input", "shape": [1, FEATURES], "datatype": "FP64", "data": ROW}
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '%s'
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {"us": %%d, "requests": %%d, "failed": %%d, "p50": %%d, "p99": %%d}\\n',
    summary.duration, summary.requests - e.status, e.status + e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass
class System:
    """A server, and how it is asked.

    Attributes:
        name: In the table.
        command: Starts it.
        port: Where it listens.
        path: Of the route that predicts.
        body: The row, as it takes it.
        environment: In addition to this process's.
        folder: Its working directory.
    """

    name: str
    command: list[str]
    port: int
    path: str
    body: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    def ask(self) -> float:
        """One request's answer; raises OSError or ValueError until there is one."""
        data = json.dumps(self.body).encode()
        request = urllib.request.Request(self.url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            found = json.loads(answer.read())
        if isinstance(found, dict):
            found = found["outputs"][0]["data"]
        return float(found[0])


def quire(model: Path, folder: Path, port: int) -> System:
    """`quire serve --config`, as its documentation has it."""
    config = folder / "quire.toml"
    config.write_text(f'[server]\nport = {port}\n\n[[models]]\nname = "trees"\npath = "{model}"\n')
    command = [sys.executable, "-m", "quire", "serve", "--config", str(config)]
    return System("quire", command, port, "/v2/models/trees/infer", {"inputs": [TENSOR]})


def mlserver(model: Path, folder: Path, port: int, python: Path, *, batched: bool) -> System:
    """MLServer with its LightGBM runtime."""
    place = folder / f"mlserver{port}"
    place.mkdir()
    settings = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2, "host": "127.0.0.1"}
    (place / "settings.json").write_text(json.dumps(settings))
    batching = {"max_batch_size": 64, "max_batch_time": 0.001} if batched else {}
    served = {
        "name": "trees",
        "implementation": "mlserver_lightgbm.LightGBMModel",
        "parameters": {"uri": str(model)},
        **batching,
    }
    (place / "model-settings.json").write_text(json.dumps(served))
    name = "MLServer, batched" if batched else "MLServer"
    command = [str(python.with_name("mlserver")), "start", str(place)]
    return System(name, command, port, "/v2/models/trees/infer", {"inputs": [TENSOR]}, folder=place)


def bentoml(model: Path, port: int, python: Path) -> System:
    """BentoML's own server for a service class."""
    command = [str(python.with_name("bentoml")), "serve", "bentoml_service:Trees", "--port", str(port)]
    environment = {"MODEL": str(model), "BENTOML_DO_NOT_TRACK": "True"}
    return System("BentoML", command, port, "/predict", {"rows": [ROW]}, environment, PEERS)


def mosec(model: Path, port: int, python: Path) -> System:
    """mosec's server."""
    command = [str(python), str(PEERS / "mosec_server.py"), "--address", "127.0.0.1", "--port", str(port)]
    return System("mosec", command, port, "/inference", {"rows": [ROW]}, {"MODEL": str(model)})


def systems(model: Path, folder: Path, arguments: argparse.Namespace) -> list[System]:
    """quire, and the peers that are installed; says which are not."""
    found = [quire(model, folder, FIRST_PORT)]
    for number, name in enumerate(("mosec", "mlserver", "bentoml"), 1):
        python = arguments.peers / name / "bin" / "python" if arguments.peers is not None else Path("absent")
        port = FIRST_PORT + 10 * number
        if not python.exists():
            print(f"{name} is not measured: there is no {python}")
        elif name == "mlserver":
            found.append(mlserver(model, folder, port, python, batched=False))
            found.append(mlserver(model, folder, port + 5, python, batched=True))
        else:
            found.append({"mosec": mosec, "bentoml": bentoml}[name](model, port, python))
    wanted = arguments.only.split(",") if arguments.only else None
    return [one for one in found if wanted is None or one.name.partition(",")[0].lower() in wanted]


@contextlib.contextmanager
def running(system: System, expected: float, log: Path) -> Iterator[psutil.Process]:
    """Starts a system, and returns when its answer is right; ends it with all its processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **system.environment}
    with log.open("wb") as output:
        process = subprocess.Popen(
            system.command,
            cwd=system.folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + PATIENCE
        while True:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{system.name} does not start:\n{log.read_text(errors='replace')[-3000:]}")
            try:
                answer = system.ask()
                break
            except (OSError, ValueError, KeyError):
                time.sleep(0.2)
        if abs(answer - expected) > 1e-9:
            raise SystemExit(f"{system.name} answers {answer}, and LightGBM {expected}")
        yield psutil.Process(process.pid)
    finally:
        helpers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
        for one in [*helpers, process]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.kill()
        process.wait()


def load(system: System, seconds: float) -> dict[str, float]:
    """What wrk sees."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % json.dumps(system.body))
        script.flush()
        command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds:g}s", "--timeout", "10s"]
        done = subprocess.run(
            [*command, "-s", script.name, system.url], capture_output=True, text=True, check=True
        )
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    result = json.loads(found[1])
    return result | {"rate": result["requests"] / result["us"] * 1e6}


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process and all its helpers."""
    each = [process, *process.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in each)


def main(arguments: argparse.Namespace) -> None:
    """Prints a line for each system, with the ratio of quire's rate to its."""
    if shutil.which("wrk") is None:
        raise SystemExit("this needs wrk: apt-get install wrk")
    print(f"{os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        model = folder / "model.txt"
        train(model)
        import lightgbm

        expected = float(lightgbm.Booster(model_file=str(model)).predict([ROW])[0])
        chosen = systems(model, folder, arguments)
        processes = {
            one.name: stack.enter_context(running(one, expected, folder / f"{one.port}.log"))
            for one in chosen
        }
        results: dict[str, list[dict[str, float]]] = {one.name: [] for one in chosen}
        for one in chosen:
            load(one, min(2.0, arguments.seconds))
        for _ in range(arguments.rounds):
            for one in chosen:
                before = cpu_seconds(processes[one.name])
                result = load(one, arguments.seconds)
                result["cpu"] = (cpu_seconds(processes[one.name]) - before) / max(1, result["requests"]) * 1e6
                results[one.name].append(result)
    show(results)


def show(results: dict[str, list[dict[str, float]]]) -> None:
    """The medians of the rounds."""
    ours = results.get("quire")
    print(f"{'':<20}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}{'failed':>8}   quire is")
    for name, samples in results.items():
        middle = {key: statistics.median(one[key] for one in samples) for key in samples[0]}
        failed = sum(one["failed"] for one in samples)
        # Round by round, so that a busy moment of the machine does not fall on one side alone.
        pairs = zip(ours, samples, strict=True) if ours else ()
        ratios = [mine["rate"] / max(theirs["rate"], 1e-9) for mine, theirs in pairs]
        ratio = f"{statistics.median(ratios):8.2f} x" if ratios and name != "quire" else ""
        print(
            f"{name:<20}{middle['rate']:12.0f}{middle['p50'] / 1e3:9.1f}{middle['p99'] / 1e3:9.1f}"
            f"{middle['cpu']:9.0f}{failed:8.0f} {ratio}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, help="a folder with a virtual environment for each peer")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="names, separated by commas: quire, mosec, mlserver, bentoml")
    main(parser.parse_args())

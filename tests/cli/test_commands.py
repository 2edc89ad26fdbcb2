"""The `quire` command as its user meets it, on the embedded model."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

import quire
from quire.cli import main

GREEDY = ("--temperature", "0", "--max-tokens", "12", "--num-blocks", "128", "--threads", "1")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


class Run(Protocol):
    def __call__(self, *arguments: str, stdin: str = "") -> Done: ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs the command line in this process, as `quire ARGUMENTS` would."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def call(*arguments: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["quire", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        return Done(status, *capsys.readouterr())

    yield call
    root.handlers[:] = handlers
    root.setLevel(level)


def test_help_and_version_load_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from quire.cli import app\n"
        "for arguments in (['--help'], ['--version'], ['serve', '--help'], ['chat', '--help']):\n"
        "    assert CliRunner().invoke(app, arguments).exit_code == 0, arguments\n"
        "print([name for name in ('torch', 'numpy', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_version(run: Run) -> None:
    assert run("--version") == Done(0, f"quire {quire.__version__}\n", "")


def test_python_m_quire_is_the_same_command() -> None:
    command = [sys.executable, "-m", "quire", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"quire {quire.__version__}\n"


@pytest.mark.parametrize("command", ["generate", "chat", "serve"])
def test_a_model_that_is_not_there_is_one_line(run: Run, command: str, tmp_path: Path) -> None:
    done = run(command, str(tmp_path / "nothing"), *(["Hello"] if command == "generate" else []))
    assert done.status == 1
    assert "nothing" in done.err
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_setting_out_of_range_names_itself(run: Run) -> None:
    done = run("generate", "embedded", "Hello", "--block-size", "0")
    assert done.status == 2
    assert "block_size" in done.err


def test_a_context_longer_than_the_models_is_one_line(run: Run) -> None:
    done = run("generate", "embedded", "Hello", "--max-model-len", "1000000")
    assert done.status == 1
    assert "max_model_len=1000000" in done.err
    assert "Traceback" not in done.err


def test_generate_streams_what_the_batch_gives(run: Run) -> None:
    streamed = run("generate", "embedded", "Once upon a time", *GREEDY)
    assert streamed.status == 0, streamed.err
    text = streamed.out.removesuffix("\n")
    assert text.strip()
    batch = run("generate", "embedded", "Once upon a time", "The moon", *GREEDY)
    assert batch.status == 0, batch.err
    assert f"Once upon a time\n--> {text}\n" in batch.out
    assert "The moon\n--> " in batch.out


def test_generate_reads_the_standard_input(run: Run) -> None:
    piped = run("generate", "embedded", *GREEDY, stdin="Once upon a time")
    assert piped.status == 0, piped.err
    assert piped.out == run("generate", "embedded", "Once upon a time", *GREEDY).out


def test_chat_answers_piped_lines(run: Run) -> None:
    done = run("chat", *GREEDY, stdin="Hello!\n/clear\nHello!\n/exit\nnot read\n")
    assert done.status == 0, done.err
    first, second = (part.strip() for part in done.out.split("(a new conversation)"))
    assert first
    assert first == second


def test_doctor_reports_as_json(run: Run) -> None:
    done = run("doctor", "--json", "--num-blocks", "100")
    assert done.status == 0, done.err
    report = json.loads(done.out)
    assert report["versions"]["quire"] == quire.__version__
    assert report["machine"]["usable_cores"] >= 1
    assert report["machine"]["available_ram_bytes"] <= report["machine"]["ram_bytes"]
    assert set(report["kernels"]["table"]["cpu"]) >= {"rms_norm", "linear", "paged_attention"}
    assert report["model"]["architecture"] == "LlamaForCausalLM"
    assert "100 blocks of 16 tokens" in report["model"]["kv_cache"]


def test_doctor_says_what_would_fit(run: Run) -> None:
    done = run("doctor", "--num-blocks", "2")
    assert done.status == 1
    assert "max_model_len" in done.out
    assert "Traceback" not in done.err


def test_doctor_prints_every_kernel(run: Run) -> None:
    done = run("doctor")
    assert done.status == 0, done.err
    for word in ("torch", "isa", "available ram", "rms_norm", "paged_attention", "KV cache"):
        assert word in done.out

"""The `quire` command as its user meets it, on the embedded model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import quire

GREEDY = ("--temperature", "0", "--max-tokens", "12", "--num-blocks", "128", "--threads", "1")


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "quire", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def test_help_and_version_load_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from quire.cli import app\n"
        "for arguments in (['--help'], ['--version'], ['serve', '--help'], ['chat', '--help']):\n"
        "    assert CliRunner().invoke(app, arguments).exit_code == 0, arguments\n"
        "print([name for name in ('torch', 'numpy', 'fastapi', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_version() -> None:
    assert run("--version").stdout == f"quire {quire.__version__}\n"


@pytest.mark.parametrize("command", ["generate", "chat", "serve"])
def test_a_model_that_is_not_there_is_one_line(command: str, tmp_path: Path) -> None:
    done = run(command, str(tmp_path / "nothing"), *(["Hello"] if command == "generate" else []))
    assert done.returncode == 1
    assert "nothing" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_setting_out_of_range_names_itself() -> None:
    done = run("generate", "embedded", "Hello", "--block-size", "0")
    assert done.returncode == 2
    assert "block_size" in done.stderr


def test_a_context_longer_than_the_models_is_one_line() -> None:
    done = run("generate", "embedded", "Hello", "--max-model-len", "1000000")
    assert done.returncode == 1
    assert "max_model_len=1000000" in done.stderr
    assert "Traceback" not in done.stderr


def test_generate_streams_what_the_batch_gives() -> None:
    streamed = run("generate", "embedded", "Once upon a time", *GREEDY)
    assert streamed.returncode == 0, streamed.stderr
    text = streamed.stdout.removesuffix("\n")
    assert text.strip()
    batch = run("generate", "embedded", "Once upon a time", "The moon", *GREEDY)
    assert batch.returncode == 0, batch.stderr
    assert f"Once upon a time\n--> {text}\n" in batch.stdout
    assert "The moon\n--> " in batch.stdout


def test_generate_reads_the_standard_input() -> None:
    piped = run("generate", "embedded", *GREEDY, stdin="Once upon a time")
    assert piped.returncode == 0, piped.stderr
    assert piped.stdout == run("generate", "embedded", "Once upon a time", *GREEDY).stdout


def test_chat_answers_piped_lines() -> None:
    done = run("chat", *GREEDY, stdin="Hello!\n/clear\nHello!\n/exit\nnot read\n")
    assert done.returncode == 0, done.stderr
    first, second = (part.strip() for part in done.stdout.split("(a new conversation)"))
    assert first
    assert first == second


def test_doctor_reports_as_json() -> None:
    done = run("doctor", "--json", "--num-blocks", "100")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["versions"]["quire"] == quire.__version__
    assert report["machine"]["usable_cores"] >= 1
    assert report["machine"]["available_ram_bytes"] <= report["machine"]["ram_bytes"]
    assert set(report["kernels"]["table"]["cpu"]) >= {"rms_norm", "linear", "paged_attention"}
    assert report["model"]["architecture"] == "LlamaForCausalLM"
    assert "100 blocks of 16 tokens" in report["model"]["kv_cache"]


def test_doctor_says_what_would_fit() -> None:
    done = run("doctor", "--num-blocks", "2")
    assert done.returncode == 1
    assert "max_model_len" in done.stdout
    assert "Traceback" not in done.stderr


def test_doctor_prints_every_kernel() -> None:
    done = run("doctor")
    assert done.returncode == 0, done.stderr
    for word in ("torch", "isa", "available ram", "rms_norm", "paged_attention", "KV cache"):
        assert word in done.stdout

"""`quire eval` as its user meets it, on the embedded model and on tiny ones."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from quire import LLM
from quire.cli import main
from quire.cli.eval import compared_formats
from quire.engine.config import EngineConfig
from quire.engine.evaluation import cut_windows, evaluate_windows

TEXT = "The king and the queen lived in a castle. And then the rain began, and in the end they went in.\n" * 4
BOS = 256


@dataclass(frozen=True)
class Done:
    """How a command ended. Its output has no line breaks of a terminal's width."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_model: Callable[..., Path]
) -> Iterator[Run]:
    """Runs `quire eval` on a tiny model in this process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    model = str(tiny_model())

    def call(*arguments: str | Path) -> Done:
        capsys.readouterr()  # what making the model printed
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["quire", "eval", model, "--threads", "1", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        return Done(status, *capsys.readouterr())

    yield call
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


def test_the_perplexity_of_a_text(
    run: Run, text_file: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    figures = tmp_path / "figures.json"
    done = run("--text", text_file, "--window", "50", "--stride", "20", "--json", figures)
    assert done.status == 0, done.err
    report = json.loads(figures.read_text())
    assert report["model"] == str(tiny_model())
    assert (report["text"], report["window"], report["stride"]) == (str(text_file), 50, 20)
    (row,) = report["results"]
    llm = LLM(str(tiny_model()))
    token_ids = llm.tokenizer.encode(TEXT, add_special_tokens=False)
    windows = cut_windows(token_ids, [BOS], 50, 20)
    expected = evaluate_windows(llm, windows)
    assert row["format"] == "float32"
    assert row["perplexity"] == pytest.approx(expected.perplexity, rel=1e-6)
    assert row["ratio"] == 1.0
    assert row["num_tokens"] == expected.num_tokens == len(token_ids)
    assert row["num_computed"] == sum(len(window.token_ids) for window in windows)
    assert row["num_windows"] == len(windows)
    assert row["tokens_per_second"] == pytest.approx(row["num_computed"] / row["seconds"])
    assert f"{expected.perplexity:.4f}" in done.out
    assert "float32" in done.out
    assert not done.err


def test_formats_side_by_side(run: Run, text_file: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    formats = ["float32", "bfloat16", "int8", "int8-g64-float", "int4-g32", "int4-g32-float"]
    done = run("--text", text_file, "--compare", ",".join(formats), "--json", figures)
    assert done.status == 0, done.err
    rows = json.loads(figures.read_text())["results"]
    assert [row["format"] for row in rows] == formats
    by_name = {row["format"]: row for row in rows}
    for row in rows:
        assert f"{row['perplexity']:.4f}" in done.out
        assert row["ratio"] == pytest.approx(row["perplexity"] / rows[0]["perplexity"])
    # Every format is what it says: none computes the same, and each takes the memory that it should.
    assert len({row["perplexity"] for row in rows}) == len(formats)
    size = {name: row["weights_bytes"] for name, row in by_name.items()}
    assert size["float32"] == 2 * size["bfloat16"]
    assert size["bfloat16"] > size["int8-g64-float"] > size["int8"] > size["int4-g32"]
    assert size["int4-g32"] == size["int4-g32-float"]
    # Rounding to 8 bits changes little; to 4 bits more.
    error = {name: abs(math.log(row["ratio"])) for name, row in by_name.items()}
    assert error["int8"] < 0.01
    assert error["int4-g32"] > error["int8"]


def test_a_format_is_the_same_however_it_is_asked_for(run: Run, text_file: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    rows: list[dict[str, object]] = []
    for arguments in (
        ["--compare", "int4-g64-float", "--lm-head", "int4"],
        ["--quantization", "int4", "--group-size", "64", "--activations", "float", "--lm-head", "int4"],
    ):
        done = run("--text", text_file, "--json", figures, *arguments)
        assert done.status == 0, done.err
        (row,) = json.loads(figures.read_text())["results"]
        rows.append({name: row[name] for name in ("format", "perplexity", "weights_bytes")})
    assert rows[0] == rows[1]
    assert rows[0]["format"] == "int4-g64-float"


def test_only_the_beginning_of_a_text(run: Run, text_file: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = run("--text", text_file, "--max-tokens", "33", "--json", figures)
    assert done.status == 0, done.err
    report = json.loads(figures.read_text())
    assert report["results"][0]["num_tokens"] == 33
    assert report["window"] == 256  # the model's context


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"fine until \xff here", "no UTF-8 text: byte 11"),
    ],
)
def test_a_text_that_cannot_be_evaluated(run: Run, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    done = run("--text", path)
    assert done.status == 1
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_a_window_longer_than_the_context_is_one_line(run: Run, text_file: Path) -> None:
    done = run("--text", text_file, "--window", "257")
    assert done.status == 1
    assert "a window of 257 tokens exceeds the context of 256 tokens" in done.err
    assert len(done.err.splitlines()) == 1
    assert run("--text", text_file, "--max-model-len", "40", "--window", "41").status == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--text"),
        (["--text", "nothing.txt"], "nothing.txt"),
        (["--text", "{text}", "--window", "1"], "--window"),
        (["--text", "{text}", "--json", "nowhere/figures.json"], "nowhere"),
        (["--text", "{text}", "--compare", "float32,int5"], "int5"),
        (["--text", "{text}", "--compare", "int8,int8"], "twice"),
        (["--text", "{text}", "--compare", "int8-g48"], "int8-g48"),
        (["--text", "{text}", "--compare", "float32", "--lm-head", "int8"], "--lm-head"),
        (["--text", "{text}", "--compare", "int8", "--quantization", "int8"], "--quantization"),
        (["--text", "{text}", "--compare", "int8", "--activations", "float"], "--activations"),
    ],
)
def test_a_wrong_option_is_a_usage_error(run: Run, text_file: Path, arguments: list[str], named: str) -> None:
    done = run(*(argument.format(text=text_file) for argument in arguments))
    assert done.status == 2
    assert named in done.err
    assert "Traceback" not in done.err


def test_a_stride_longer_than_the_window(run: Run, text_file: Path) -> None:
    done = run("--text", text_file, "--window", "20", "--stride", "21")
    assert done.status == 1
    assert "stride must be between 1 and the window of 20" in done.err


def test_formats_become_settings() -> None:
    config = EngineConfig(model="m", lm_head="int4", max_num_seqs=3)
    assert compared_formats("bfloat16,int8,int4-g128,int4-float", config) == {
        "bfloat16": EngineConfig(model="m", dtype="bfloat16", max_num_seqs=3),
        "int8": EngineConfig(model="m", quantization="int8", lm_head="int4", max_num_seqs=3),
        "int4-g128": EngineConfig(
            model="m",
            quantization="int4",
            quantization_group_size=128,
            lm_head="int4",
            max_num_seqs=3,
        ),
        "int4-float": EngineConfig(
            model="m", quantization="int4", activations="float", lm_head="int4", max_num_seqs=3
        ),
    }
    for text in ("", "int8,", "int8-float-g32", "float32-float", "INT8", "int4-g"):
        with pytest.raises(typer.BadParameter):
            compared_formats(text, EngineConfig(model="m"))

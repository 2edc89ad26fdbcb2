"""`quire quantize` as its user meets it, on tiny models and on a trained one."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from quire import LLM, SamplingParams
from quire.cli import main
from quire.engine.evaluation import cut_windows, evaluate_windows, leading_tokens

TEXT = "The king and the queen lived in a castle. And then the rain began, and in the end they went in.\n" * 9


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs `quire quantize` in this process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def call(*arguments: str | Path) -> Done:
        capsys.readouterr()
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["quire", "quantize", "--threads", "1", *map(str, arguments)])
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


def test_a_checkpoint_in_another_layout(
    run: Run, tiny_model: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    # No width of this model is a multiple of 32, but for the hidden size.
    source, output = tiny_model(intermediate_size=100), tmp_path / "model"
    options = ["--text", text_file, "--window", "64", "--group-size", "32", "--format", "compressed-tensors"]
    done = run(source, output, *options)
    assert done.status == 0, done.err
    assert "21 matrices in 4 bits" in done.out
    assert "left float" not in done.out
    stored = json.loads((output / "config.json").read_text())["quantization_config"]
    assert stored["quant_method"] == "compressed-tensors"
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    (outputs,) = LLM(str(output)).generate([[256, 84, 104]], params, use_tqdm=False)
    assert len(outputs.outputs[0].token_ids) == 8


@pytest.mark.parametrize("more", [[], ["--bits", "8", "--group-size", "-1", "--asymmetric", "--desc-act"]])
def test_a_checkpoint_that_the_engine_runs(
    run: Run, more: list[str], tiny_model: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    source, output = tiny_model(), tmp_path / "new" / "model"
    size = [] if more else ["--group-size", "32"]
    options = ["--text", text_file, "--window", "64", "--num-samples", "4", *size, *more]
    done = run(source, output, *options)
    assert done.status == 0, done.err
    assert f"21 matrices in {8 if more else 4} bits" in done.out
    config = json.loads((output / "config.json").read_text())
    stored = config.pop("quantization_config")
    assert config == json.loads((source / "config.json").read_text())
    assert (stored["quant_method"], stored["checkpoint_format"]) == ("gptq", "gptq")
    assert stored["bits"] == (8 if more else 4)
    assert stored["group_size"] == (-1 if more else 32)
    assert (stored["sym"], stored["desc_act"]) == (not more, bool(more))
    # All that belongs to the model came along.
    names = {file.name for file in source.iterdir()}
    assert {file.name for file in output.iterdir()} == names
    prompts = [[256, 84, 104], [256, 10, 20, 30]]
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    outputs = LLM(str(output)).generate(prompts, params, use_tqdm=False)
    assert all(len(each.outputs[0].token_ids) == 8 for each in outputs)


def test_what_is_refused(run: Run, tiny_model: Callable[..., Path], text_file: Path, tmp_path: Path) -> None:
    source, output = tiny_model(), tmp_path / "model"
    text = ["--text", text_file, "--window", "64", "--group-size", "32"]
    assert run(source, output, *text).status == 0
    config = (output / "config.json").read_bytes()
    empty = tmp_path / "empty.txt"
    empty.touch()
    nowhere = tmp_path / "nowhere"
    for arguments, message in (
        ([source, output, *text], "is not empty"),
        ([source, text_file, *text], "is a file"),
        ([output, nowhere, *text], "is quantized already (quant_method gptq)"),
        ([source, nowhere, *text, "--text", empty], "is empty"),
        ([source, nowhere, *text, "--window", "257"], "context of 256 tokens"),
        ([source, nowhere, *text, "--group-size", "128"], "nothing to quantize"),
        ([tmp_path / "absent", nowhere, *text], "absent"),
    ):
        done = run(*arguments)
        assert done.status == 1, arguments
        assert message in done.err
        # A warning that there are few windows may stand before it.
        assert "Traceback" not in done.err
    assert (output / "config.json").read_bytes() == config
    for wrong in (["--bits", "3"], ["--group-size", "48"], ["--damping", "0"], ["--num-samples", "0"]):
        done = run(source, nowhere, *text, *wrong)
        assert done.status == 2, wrong
        assert wrong[0].removeprefix("--") in done.err


@pytest.mark.parametrize(
    # Rounding the same matrices to the nearest values costs 2.9 percent, and all of them 9.5.
    ("layout", "more", "limit"),
    [("gptq", [], 1.024), ("compressed-tensors", ["--asymmetric"], 1.06)],
)
def test_a_trained_model_keeps_its_perplexity(
    layout: str, more: list[str], limit: float, run: Run, shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "models" / "stories260K"
    stories = (shared_data / "text" / "tinystories-train-2MiB.txt").read_bytes().decode()
    # The model has never seen how the stories are separated in this file.
    text = "\n".join(story.strip() for story in stories.split("<|endoftext|>"))
    calibration = tmp_path / "calibration.txt"
    calibration.write_bytes(text[400_000:].encode())
    options = ["--text", calibration, "--group-size", "32", "--num-samples", "32", *more, "--format", layout]
    done = run(source, tmp_path / "model", *options)
    assert done.status == 0, done.err
    assert ("left float" in done.out) == (layout == "gptq")  # the MLP's width of 172
    before, after = LLM(str(source)), LLM(str(tmp_path / "model"))
    token_ids = before.tokenizer.encode(text[:200_000], add_special_tokens=False)[:20_000]
    windows = cut_windows(token_ids, leading_tokens(before.tokenizer), 512)
    perplexities = [evaluate_windows(llm, windows).perplexity for llm in (before, after)]
    assert perplexities[0] < perplexities[1] < limit * perplexities[0]
    params = SamplingParams(temperature=0.0, max_tokens=24)
    (output,) = after.generate(["Once upon a time, there was a little"], params, use_tqdm=False)
    words = output.outputs[0].text.split()
    assert len(set(words)) > 8, output.outputs[0].text

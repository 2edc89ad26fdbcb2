"""What README and CONTRIBUTING say is there, is there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from typer.main import get_command

from quire.cli import app
from quire.engine.config import EngineConfig
from quire.engine.memory import CPU_MEMORY_FRACTION, GPU_MEMORY_FRACTION
from quire.engine.pool import CPU_BATCHED_TOKENS, GPU_BATCHED_TOKENS
from quire.models.classic.runtimes import RUNTIMES
from quire.models.registry import known_architectures
from quire.server.config.quire_toml import read_config
from quire.server.settings import API_KEY_FILE_VARIABLE, API_KEY_VARIABLE, ServerSettings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
OTHER_FLAGS = {"--help", "--extra-index-url"}  # click adds the one, the other is pip's


def flags() -> set[str]:
    root = get_command(app)
    commands = [root.get_command(None, name) for name in root.list_commands(None)]  # type: ignore[attr-defined]
    for command in commands:
        commands += getattr(command, "commands", {}).values()  # those of a group
    return {
        flag
        for command in commands
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }


def row(flag: str) -> str:
    """The line of the configuration table that begins with a flag."""
    (line,) = (line for line in README.splitlines() if line.startswith(f"| `{flag}`"))
    return line


def test_every_flag_exists() -> None:
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - OTHER_FLAGS <= flags()


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_make_target_exists(text: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^(?:    |.*`)make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_configuration_table_has_the_defaults() -> None:
    config, settings = EngineConfig(model="embedded"), ServerSettings()
    assert f"| {config.block_size} |" in row("--block-size")
    assert f"| {config.max_num_seqs} |" in row("--max-num-seqs")
    assert f"| {config.max_num_waiting} |" in row("--max-num-waiting")
    assert f"| {settings.drain_timeout:g} |" in row("--grace")
    assert f"| {CPU_BATCHED_TOKENS} on CPUs, {GPU_BATCHED_TOKENS} on GPUs |" in row(
        "--max-num-batched-tokens"
    )
    assert f"| {CPU_MEMORY_FRACTION} on CPUs, {GPU_MEMORY_FRACTION} on GPUs |" in row("--memory-fraction")
    for variable in (API_KEY_VARIABLE, API_KEY_FILE_VARIABLE):
        assert f"`{variable}`" in README


def test_every_architecture_is_named() -> None:
    named = README.casefold().replace("-", "")
    for architecture in known_architectures():
        family = re.sub(r"(For[A-Z]\w+|Model)$", "", architecture)
        assert family.casefold() in named


def test_the_map_of_the_house_is_true() -> None:
    for line in re.findall(r"^\| (`.*?) \|", CONTRIBUTING, re.MULTILINE):
        folder = Path()
        for name in re.findall(r"`([^`]+)`", line):
            # A bare name lies beside the one before it.
            path = Path(name) if "/" in name or name == "errors.py" else folder / name
            folder = path.parent
            assert (ROOT / path).exists(), path


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README + CONTRIBUTING):
        assert (ROOT / target).exists(), target


def test_the_offline_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "LLM(" in block)
    exec(compile(example, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "Once upon a time -->" in out
    assert "The moon is -->" in out


def test_the_classic_models_of_the_example_and_the_table_are_those_that_there_are(tmp_path: Path) -> None:
    section = README.partition("\n## Classic models\n")[2].partition("\n## ")[0]
    example = section[section.index("    [[models]]") : section.index("| runtime |")]
    (tmp_path / "quire.toml").write_text(textwrap.dedent(example))
    assert [spec.name for spec in read_config(tmp_path / "quire.toml").models] == ["iris", "churn"]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", section, re.MULTILINE)
    assert {name for name, _, _ in rows} == RUNTIMES.keys()
    for name, what, install in rows:
        runtime = RUNTIMES[name]
        assert install.strip() == (f"`quire[{runtime.extra}]`" if runtime.extra else "is there"), name
        assert all(f"`{suffix}`" in what for suffix in runtime.suffixes), name
        assert runtime.folder_with is None or f"`{runtime.folder_with}`" in what, name

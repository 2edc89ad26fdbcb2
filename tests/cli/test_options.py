"""Flags become settings objects; a value out of range is a usage error that names the setting."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from quire.cli.options import ENGINE, SAMPLING, SERVER, Group, takes
from quire.cli.serve import SERVED
from quire.engine.config import EngineConfig
from quire.server.settings import ServerSettings

SET_BY_CLOUDS = {"vertex_health_route", "vertex_predict_route", "sagemaker_multi_model"}
NOT_ON_THE_COMMAND_LINE = {"api_key", "api_keys", *SET_BY_CLOUDS}


def run(*arguments: str, **groups: Group) -> tuple[int, str, dict[str, Any]]:
    """Runs a command that takes these groups: its exit status, its output, and what it was given."""
    given: dict[str, Any] = {}

    def command(**values: Any) -> None:
        given.update(values)

    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in groups]
    vars(command)["__signature__"] = inspect.Signature(parameters)
    app = typer.Typer()
    app.command()(takes(**groups)(command))
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output, given


def test_defaults_are_the_settings_objects_own() -> None:
    status, output, given = run("m", config=ENGINE, params=SAMPLING, settings=SERVER)
    assert status == 0, output
    assert given["config"] == EngineConfig(model="m")
    assert given["settings"] == ServerSettings()
    assert given["params"] == {}


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["--block-size", "32"], {"block_size": 32}),
        (["--no-prefix-caching"], {"enable_prefix_caching": False}),
        (["--threads", "3"], {"num_threads": 3}),
        (["--tensor-parallel-size", "2"], {"tensor_parallel_size": 2}),
        (["--dtype", "bfloat16", "--device", "cpu"], {"dtype": "bfloat16", "device": "cpu"}),
        (["--memory-fraction", "0.25"], {"memory_fraction": 0.25}),
        (
            ["--max-num-waiting", "7", "--served-model-name", "x"],
            {"max_num_waiting": 7, "served_model_name": "x"},
        ),
    ],
)
def test_engine_flags(arguments: list[str], changes: dict[str, Any]) -> None:
    status, output, given = run("m", *arguments, config=SERVED)
    assert status == 0, output
    assert given["config"] == EngineConfig(model="m", **changes)


def test_stop_strings_and_seconds_of_grace() -> None:
    _, _, given = run(
        "m",
        "--stop",
        "a",
        "--stop",
        "b",
        "--grace",
        "2.5",
        "--insecure",
        params=SAMPLING,
        settings=SERVER,
        config=ENGINE,
    )
    assert given["params"] == {"stop": ["a", "b"]}
    assert given["settings"] == ServerSettings(drain_timeout=2.5, insecure=True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--block-size", "0"], "block_size"),
        (["--tensor-parallel-size", "0"], "tensor_parallel_size"),
        (["--memory-fraction", "2"], "memory_fraction"),
        (["--temperature", "9"], "temperature"),
        (["--grace", "-1"], "drain_timeout"),
        (["--device", "abacus"], "--device"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
)
def test_a_wrong_value_is_a_usage_error(arguments: list[str], named: str) -> None:
    status, output, given = run("m", *arguments, config=ENGINE, params=SAMPLING, settings=SERVER)
    assert status == 2
    assert named in output
    assert not given


@pytest.mark.parametrize(("group", "target"), [(SERVED, EngineConfig), (SERVER, ServerSettings)])
def test_every_setting_has_a_flag(group: Group, target: Any) -> None:
    assert {field.name for field in dataclasses.fields(target)} - set(group.help) <= NOT_ON_THE_COMMAND_LINE


def test_sampling_options_are_what_was_given_and_nothing_else() -> None:
    _, _, given = run("--temperature", "0", "--min-tokens", "20", "--ignore-eos", params=SAMPLING)
    assert given["params"] == {"temperature": 0.0, "min_tokens": 20, "ignore_eos": True}


def test_without_a_default_the_model_is_required() -> None:
    assert run(config=ENGINE)[0] == 2
    _, _, given = run(config=ENGINE.but(model="embedded"))
    assert given["config"].model == "embedded"

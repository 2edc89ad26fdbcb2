"""`quire eval`: the perplexity of a text, for one or several formats of a model."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from ..engine.config import EngineConfig
from ..engine.evaluation import Evaluation, Window, evaluate_windows
from ..errors import QuireError
from .logs import LogLevel, set_up_logging
from .offline import open_llm
from .options import ENGINE, takes
from .text_windows import windows_of

if TYPE_CHECKING:
    from ..engine.model_choice import ModelChoice

LONGEST_DEFAULT_WINDOW = 2048
FORMAT = re.compile(r"(float32|bfloat16|float16)|(int8|int4)(?:-g(\d+))?(-float)?")
PANEL = "Evaluation"


@dataclass(frozen=True, slots=True)
class Result:
    """One format of the model, and how well it predicted the text.

    Attributes:
        format: Its name, as `--compare` takes it.
        evaluation: The figures.
        weights_bytes: What the weights take in this format.
    """

    format: str
    evaluation: Evaluation
    weights_bytes: int


@takes(config=ENGINE)
def evaluate(
    config: EngineConfig,
    text: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="A file of UTF-8 text.", rich_help_panel=PANEL),
    ],
    window: Annotated[
        int | None,
        typer.Option(
            min=2,
            rich_help_panel=PANEL,
            help="Tokens that the model sees at once, BOS included; by default the context, at most 2048.",
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=PANEL,
            help="Tokens between the beginnings of two windows; each scores what the one before it did not "
            "see. By default windows do not overlap.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the text to look at.", rich_help_panel=PANEL)
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT,...",
            rich_help_panel=PANEL,
            help="Evaluate the model in several formats: float32, bfloat16, float16, or int8 or int4, with "
            "-g32, -g64 or -g128 for that group size, and -float for exact activations. "
            "--lm-head is that of the integer formats.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", dir_okay=False, help="Write the figures to this file.", rich_help_panel=PANEL),
    ] = None,
    log_level: LogLevel = "warning",
) -> None:
    """Measure how well a model predicts a text: its perplexity, lower is better.

    With --compare, what other formats of the same model lose against the first one.
    """
    set_up_logging(log_level)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise typer.BadParameter(f"the folder of {json_file} does not exist", param_hint="--json")
    formats = None if compare is None else compared_formats(compare, config)
    choice = _choose(config)
    configs = formats or {_format_of(config, choice): config}
    for each in configs.values():
        _choose(each)  # a format that the model cannot have is refused before anything is loaded
    window = window or min(choice.max_model_len, LONGEST_DEFAULT_WINDOW)
    windows = windows_of(text, choice, window, stride, max_tokens)
    results = [_evaluate(name, each, windows) for name, each in configs.items()]
    _print_table(results)
    if json_file is not None:
        about = {"model": config.model_name, "text": str(text), "window": window, "stride": stride or window}
        _write_json(json_file, about, results)


def compared_formats(text: str, config: EngineConfig) -> dict[str, EngineConfig]:
    """The engine's settings for each format that `--compare` names.

    Args:
        text: Formats, with commas between them.
        config: All other settings.

    Raises:
        typer.BadParameter: A format is unknown or named twice, or a setting beside it would decide the same.
    """
    for name in ("quantization", "quantization_group_size", "activations"):
        if getattr(config, name) != getattr(EngineConfig(model=config.model), name):
            flag = ENGINE.flags.get(name, f"--{name}")
            raise typer.BadParameter(f"{flag} is what each format says itself", param_hint="--compare")
    configs: dict[str, EngineConfig] = {}
    for name in text.split(","):
        if name in configs:
            raise typer.BadParameter(f"{name} is there twice", param_hint="--compare")
        configs[name] = _with_format(name, config)
    if config.lm_head != "auto" and all(each.quantization is None for each in configs.values()):
        raise typer.BadParameter("--lm-head has no integer format to belong to", param_hint="--compare")
    return configs


def _with_format(text: str, config: EngineConfig) -> EngineConfig:
    match = FORMAT.fullmatch(text)
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is no format; one is float32, bfloat16, float16, int8 or int4-g32-float, for example",
            param_hint="--compare",
        )
    dtype, integers, group_size, exact = match.groups()
    if dtype is not None:
        return replace(config, dtype=cast("Literal['float32', 'bfloat16', 'float16']", dtype), lm_head="auto")
    try:
        return replace(
            config,
            quantization=cast("Literal['int8', 'int4']", integers),
            quantization_group_size=None if group_size is None else int(group_size),
            activations="float" if exact else "auto",
        )
    except ValueError as error:
        raise typer.BadParameter(f"{text}: {error}", param_hint="--compare") from error


def _format_of(config: EngineConfig, choice: ModelChoice) -> str:
    """The name of a format, as `--compare` takes it."""
    layers = config.weight_options.layers
    if layers is None:
        return str(choice.dtype).removeprefix("torch.")
    group = f"-g{layers.group_size}" if layers.group_size else ""
    return f"{layers.format}{group}{'-float' if config.activations == 'float' else ''}"


def _choose(config: EngineConfig) -> ModelChoice:
    from ..engine.model_choice import choose

    try:
        return choose(config)
    except QuireError:
        raise
    except ValueError as error:
        raise QuireError(str(error)) from error


def _evaluate(format: str, config: EngineConfig, windows: Sequence[Window]) -> Result:
    """Loads the model in a format and evaluates it; it is gone before the next one is loaded."""
    from ..engine.model_choice import weight_bytes

    llm = open_llm(config)
    evaluation = evaluate_windows(llm, windows, description=format, progress=sys.stderr.isatty())
    return Result(format, evaluation, weight_bytes(config, _choose(config)))


def _print_table(results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..engine.memory import format_bytes

    first = results[0].evaluation.perplexity
    table = Table("format")
    for title in ("perplexity", "ratio", "tokens", "tokens/s", "weights"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        figures = result.evaluation
        table.add_row(
            result.format,
            f"{figures.perplexity:.4f}",
            f"{figures.perplexity / first:.4f}",
            f"{figures.num_tokens}",
            f"{figures.tokens_per_second:.0f}",
            format_bytes(result.weights_bytes),
        )
    Console(highlight=False).print(table)


def _write_json(path: Path, about: dict[str, Any], results: Sequence[Result]) -> None:
    first = results[0].evaluation.perplexity
    rows = [
        {
            "format": result.format,
            "perplexity": result.evaluation.perplexity,
            "ratio": result.evaluation.perplexity / first,
            "num_tokens": result.evaluation.num_tokens,
            "num_computed": result.evaluation.num_computed,
            "num_windows": result.evaluation.num_windows,
            "seconds": result.evaluation.seconds,
            "tokens_per_second": result.evaluation.tokens_per_second,
            "weights_bytes": result.weights_bytes,
        }
        for result in results
    ]
    path.write_text(json.dumps({**about, "results": rows}, indent=2) + "\n", encoding="utf-8")

"""`quire quantize`: a checkpoint rounded with GPTQ from a float one, calibrated on a text."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..engine.config import EngineConfig
from ..errors import ModelError
from .logs import LogLevel, set_up_logging
from .text_windows import windows_of

if TYPE_CHECKING:
    from ..engine.evaluation import Window
    from ..engine.model_choice import ModelChoice
    from ..models.causal_lm import CausalLM
    from ..models.quant.gptq_quantizer import GptqOptions

logger = logging.getLogger(__name__)


def quantize(
    model: Annotated[str, typer.Argument(help="A float model: a folder, a hub id, or 'embedded'.")],
    output: Annotated[Path, typer.Argument(help="The folder to write to; new, or empty.")],
    text: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="UTF-8 text like that which the model will see."),
    ],
    bits: Annotated[Literal["4", "8"], typer.Option(help="Bits of a weight.")] = "4",
    group_size: Annotated[
        Literal["32", "64", "128", "-1"],
        typer.Option(help="Columns that share a scale; -1 for whole rows."),
    ] = "128",
    desc_act: Annotated[
        bool,
        typer.Option(
            "--desc-act",
            help="Round the columns with the largest inputs first, and group them so: more accurate where "
            "groups are large, and slower to run.",
        ),
    ] = False,
    symmetric: Annotated[
        bool,
        typer.Option("--symmetric/--asymmetric", help="Whether groups have no zero points of their own."),
    ] = True,
    layout: Annotated[
        Literal["gptq", "compressed-tensors"],
        typer.Option(
            "--format",
            help="The layout to write: gptq, which most engines read, or compressed-tensors, which stores "
            "matrices of any shape.",
        ),
    ] = "gptq",
    num_samples: Annotated[
        int, typer.Option(min=1, help="Windows of the text to calibrate on, spread over all of it.")
    ] = 128,
    window: Annotated[int, typer.Option(min=2, help="Tokens in a window, BOS included.")] = 512,
    damping: Annotated[
        float,
        typer.Option(help="Of the inputs' covariance, as a fraction of its mean; more trusts the text less."),
    ] = 0.01,
    num_threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; by default all usable cores.")
    ] = None,
    log_level: LogLevel = "warning",
) -> None:
    """Round a model to 4 or 8 bits with GPTQ, and write it as a checkpoint.

    A text shows which inputs the matrices have; they are rounded so that their outputs change least.
    Matrices whose shape the format cannot store, the embedding and lm_head stay as they are.
    """
    set_up_logging(log_level)
    from ..models.quant.checkpoint_writer import check_output
    from ..models.quant.gptq_quantizer import GptqOptions

    try:
        options = GptqOptions(
            bits=int(bits),
            group_size=int(group_size),
            symmetric=symmetric,
            desc_act=desc_act,
            damping=damping,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    choice = _choose(model)
    check_output(output)
    windows = _spread(windows_of(text, choice, window), num_samples)
    _quantize(choice, output, windows, options, layout, num_threads)


def _choose(model: str) -> ModelChoice:
    from ..engine.model_choice import choose

    choice = choose(EngineConfig(model=model, device="cpu"))
    if choice.config.quantization is not None:
        raise ModelError(
            f"{model} is quantized already (quant_method {choice.config.quantization.method}); "
            "start from the float checkpoint"
        )
    if choice.config.num_experts:
        raise ModelError(f"{model} is a mixture of experts, which quire runs with float weights only")
    return choice


def _spread(windows: Sequence[Window], num_samples: int) -> list[list[int]]:
    """The tokens of some windows, as far apart as there are windows to choose from."""
    if len(windows) < num_samples:
        logger.warning("the text has only %d windows", len(windows))
        num_samples = len(windows)
    return [windows[index * len(windows) // num_samples].token_ids for index in range(num_samples)]


def _quantize(
    choice: ModelChoice,
    output: Path,
    windows: Sequence[Sequence[int]],
    options: GptqOptions,
    layout_name: str,
    num_threads: int | None,
) -> None:
    from ..engine.memory import format_bytes
    from ..models.calibration import float_modules, quantize_model
    from ..models.quant.checkpoint_writer import WRITTEN_LAYOUTS, write_checkpoint

    model = _load(choice, num_threads)
    layout = WRITTEN_LAYOUTS[layout_name]
    skipped = float_modules(model, options, layout)
    matrices = quantize_model(model, windows, options, skipped, progress=sys.stderr.isatty())
    write_checkpoint(choice.folder, output, matrices, layout, options, skipped)
    size = sum(file.stat().st_size for file in output.glob("*.safetensors"))
    print(f"{output}: {len(matrices)} matrices in {options.bits} bits, {format_bytes(size)} in all")
    if skipped:
        print(f"left float, as the format has no room for their shapes: {', '.join(sorted(skipped))}")


def _load(choice: ModelChoice, num_threads: int | None) -> CausalLM:
    import torch

    from ..engine.model_choice import usable_cores
    from ..kernels import cpu
    from ..models.loader import load_model

    # The kernels and torch take turns here, and neither computes little.
    torch.set_num_threads(num_threads or usable_cores())
    if cpu.unavailable() is None:
        cpu.set_num_threads(num_threads or usable_cores())
    return load_model(
        choice.folder,
        choice.config,
        device="cpu",
        dtype=choice.dtype,
        max_model_len=choice.max_model_len,
        progress=sys.stderr.isatty(),
    )

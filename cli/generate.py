"""`quire generate`: continue texts in this process, without a server."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..engine.config import EngineConfig
from ..engine.sampling_params import SamplingParams
from .logs import LogLevel, set_up_logging
from .offline import open_llm, pieces
from .options import ENGINE, SAMPLING, takes


@takes(config=ENGINE, params=SAMPLING.but(max_tokens=256))
def generate(
    config: EngineConfig,
    params: SamplingParams,
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT...", help="Texts to continue; without one, the standard input."),
    ] = None,
    log_level: LogLevel = "warning",
) -> None:
    """Continue texts. One prompt streams to the terminal; several run as one batch."""
    if not prompts:
        if sys.stdin.isatty():
            raise typer.BadParameter("give a prompt, or pipe one in", param_hint="PROMPT")
        prompts = [sys.stdin.read()]
    set_up_logging(log_level)
    llm = open_llm(config)
    if len(prompts) == 1:
        for piece in pieces(llm.stream(prompts[0], params)):
            print(piece, end="", flush=True)
        print()
        return
    outputs = llm.generate(prompts, params, use_tqdm=sys.stderr.isatty())
    for prompt, output in zip(prompts, outputs, strict=True):
        print(f"{prompt}\n--> {output.outputs[0].text}\n")

"""`quire generate`: continue texts in this process, without a server."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated, Any

import typer

from ..engine.config import EngineConfig
from .logs import LogLevel, set_up_logging
from .offline import open_llm, pieces
from .options import ENGINE, SAMPLING, takes

MAX_TOKENS = 256


@takes(config=ENGINE, sampling=SAMPLING)
def generate(
    config: EngineConfig,
    sampling: dict[str, Any],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT...", help="Texts to continue; without one, the standard input."),
    ] = None,
    log_level: LogLevel = "warning",
) -> None:
    """Continue texts. One prompt streams to the terminal; several run as one batch.

    At most 256 tokens each, unless --max-tokens says otherwise.
    """
    if not prompts:
        if sys.stdin.isatty():
            raise typer.BadParameter("give a prompt, or pipe one in", param_hint="PROMPT")
        prompts = [sys.stdin.read()]
    set_up_logging(log_level)
    llm = open_llm(config)
    params = replace(llm.get_default_sampling_params(), **{"max_tokens": MAX_TOKENS, **sampling})
    if len(prompts) == 1:
        for piece in pieces(llm.stream(prompts[0], params)):
            print(piece, end="", flush=True)
        print()
        return
    outputs = llm.generate(prompts, params, use_tqdm=sys.stderr.isatty())
    for prompt, output in zip(prompts, outputs, strict=True):
        print(f"{prompt}\n--> {output.outputs[0].text}\n")

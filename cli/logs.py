"""Where the log of a command goes: coloured on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Literal

import typer

LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option(help="What is logged, on the standard error.")
]


def set_up_logging(level: str) -> None:
    """Sends the log of this process from `level` up to the standard error."""
    handler: logging.Handler
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=False, rich_tracebacks=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)

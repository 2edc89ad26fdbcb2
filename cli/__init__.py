"""The `quire` command. Commands import torch and the server only when they run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import QuireError
from .bench import bench
from .chat import chat
from .deploy import deploy
from .doctor import doctor
from .eval import evaluate
from .generate import generate
from .quantize import quantize
from .serve import serve

app = typer.Typer(
    name="quire",
    help="quire: an LLM inference engine for CPUs and GPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (serve, generate, chat, doctor, quantize):
    app.command()(command)
app.command("eval")(evaluate)
app.add_typer(bench, name="bench")
app.add_typer(deploy, name="deploy")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"quire {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Options of `quire` itself."""


def main() -> None:
    """Runs the command line. An error that quire raises on purpose is one line, not a traceback."""
    try:
        app()
    except QuireError as error:
        print(f"quire: {error.message}", file=sys.stderr)
        sys.exit(1)

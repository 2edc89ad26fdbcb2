"""The `quire` command. Commands import torch and the server only when they run."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from .. import __version__
from ..errors import QuireError
from .chat import chat
from .doctor import doctor
from .eval import evaluate
from .generate import generate
from .quantize import quantize
from .serve import serve

LATE = ("bench", "deploy")
"""Groups of commands, each a package with a `typer.Typer` of its own name."""


class Commands(TyperGroup):
    """The commands, and groups that are imported when one is used: `quire serve` waits for neither."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names."""
        return [*super().list_commands(ctx), *LATE]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command, or None."""
        if cmd_name not in LATE:
            return super().get_command(ctx, cmd_name)
        group = get_group(getattr(importlib.import_module(f".{cmd_name}", __package__), cmd_name))
        group.name = cmd_name
        return group


app = typer.Typer(
    name="quire",
    cls=Commands,
    help="quire: an LLM inference engine for CPUs and GPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (serve, generate, chat, doctor, quantize):
    app.command()(command)
app.command("eval")(evaluate)


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

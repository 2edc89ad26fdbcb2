"""`quire deploy`: deployments of a server that runs, over its admin API."""

from __future__ import annotations

import typer

from .commands import audit, create, delete, list_all, show
from .steering import STEERING
from .watch import watch

deploy = typer.Typer(
    no_args_is_help=True, help="Bring new versions of models to traffic, on a server that runs."
)
deploy.command("list")(list_all)
for command in (show, create, delete, audit, watch):
    deploy.command()(command)
for name, steer in STEERING.items():
    deploy.command(name)(steer)

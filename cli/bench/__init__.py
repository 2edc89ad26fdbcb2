"""`quire bench`: load tests of servers, and measurements of the engine in this process."""

from __future__ import annotations

import typer

from .latency import latency
from .serve import serve
from .throughput import throughput

bench = typer.Typer(no_args_is_help=True, help="Measure a server, or the engine in this process.")
for command in (serve, throughput, latency):
    bench.command()(command)

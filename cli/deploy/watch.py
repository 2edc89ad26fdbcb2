"""`quire deploy watch`: a deployment as it goes."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.live import Live

from .admin_client import DEFAULT_URL, AdminClient, AdminKey, Url
from .display import shown


def watch(
    name: Annotated[str, typer.Argument(help="The deployment's name.")],
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    url: Url = DEFAULT_URL,
    admin_key: AdminKey = None,
) -> None:
    """Watch a deployment, until Ctrl-C or the end of a canary's rollout.

    The exit status is 0 if the rollout was completed, and 1 if it was rolled back.
    """
    client = AdminClient(url, admin_key)
    phase: str | None = None
    try:
        with Live(auto_refresh=False) as live:
            while phase not in ("completed", "rolled_back"):
                deployment = client.deployment("GET", name)
                live.update(shown(deployment), refresh=True)
                phase = deployment["state"].get("phase")
                if phase not in ("completed", "rolled_back"):
                    time.sleep(interval)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(0 if phase == "completed" else 1)

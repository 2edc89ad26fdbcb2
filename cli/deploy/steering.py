"""What an operator does to a deployment: one command for each action."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from .admin_client import DEFAULT_URL, AdminClient, AdminKey, Url, Why
from .display import print_deployment


def _act(name: str, action: str, url: str, key: str | None, why: str, version: str | None = None) -> None:
    body = {"why": why} if version is None else {"why": why, "version": version}
    print_deployment(AdminClient(url, key).deployment("POST", name, f"/{action}", body))


def _plain(action: str, text: str) -> Callable[..., None]:
    def command(name: str, why: Why = "", url: Url = DEFAULT_URL, admin_key: AdminKey = None) -> None:
        _act(name, action, url, admin_key, why)

    command.__doc__ = text
    return command


def _with_version(action: str, text: str, help: str) -> Callable[..., None]:
    def command(
        name: str,
        version: str | None = None,
        why: Why = "",
        url: Url = DEFAULT_URL,
        admin_key: AdminKey = None,
    ) -> None:
        _act(name, action, url, admin_key, why, version)

    command.__annotations__["version"] = Annotated[str | None, typer.Argument(help=help)]
    command.__doc__ = text
    return command


STEERING: Mapping[str, Callable[..., None]] = {
    "promote": _with_version(
        "promote",
        "Go to a canary's next step; make a shadow the live version; give a bandit's best version all.",
        "For bandits, which version; the best by default.",
    ),
    "rollback": _plain("rollback", "Take all traffic from a canary; take back a blue-green switch."),
    "switch": _with_version(
        "switch",
        "Make another version of a blue-green deployment the active one.",
        "Which; of two, the other.",
    ),
    "pause": _plain("pause", "Stay at a canary's step; mirror nothing to a shadow."),
    "resume": _plain("resume", "Go on after a pause, or after a bandit's promotion."),
    "restart": _plain("restart", "Begin a canary at its first step, with empty books."),
}

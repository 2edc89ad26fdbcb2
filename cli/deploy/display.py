"""Deployments as tables on the terminal."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

COLOURS = {"rolled_back": "red", "completed": "green", "paused": "yellow"}


def print_deployments(deployments: Sequence[dict[str, Any]]) -> None:
    """One line each."""
    table = Table("name", "strategy", "state", "versions", box=None, pad_edge=False)
    for each in deployments:
        versions = ", ".join(f"{version['id']} {version['share']:.0%}" for version in each["versions"])
        table.add_row(Text(each["name"]), each["strategy"]["type"], summary(each), Text(versions))
    Console().print(table if deployments else "There are no deployments.")


def print_deployment(deployment: dict[str, Any]) -> None:
    """One, with its versions."""
    Console().print(shown(deployment))


def shown(deployment: dict[str, Any]) -> RenderableType:
    """One, with its versions."""
    head = Text.assemble(
        (deployment["name"], "bold"), f"  {deployment['strategy']['type']}  ", summary(deployment)
    )
    columns = ("version", "share", "pending", "succeeded", "failed", "hung", "void", "mean s", "score")
    table = Table(box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    for version in deployment["versions"]:
        requests = version["requests"]
        table.add_row(
            Text(version["id"]),
            f"{version['share']:.1%}",
            str(version["pending"]),
            *(str(requests[outcome]) for outcome in ("succeeded", "failed", "hung", "void")),
            _number(version["mean_seconds"]),
            _number(version["mean_score"]),
        )
    return Group(head, table)


def summary(deployment: dict[str, Any]) -> Text:
    """Where a deployment stands, in a few words."""
    state = deployment["state"]
    match deployment["strategy"]["type"]:
        case "canary":
            phase = state["phase"]
            text = f"{phase.replace('_', ' ')}, {state['percent']:g}%"
            if state["reason"]:
                text += f": {state['reason']}"
            return Text(text, COLOURS.get(phase, ""))
        case "blue-green":
            return Text(f"{state['active']} is active")
        case "shadow":
            agreement = (
                "nothing compared yet" if state["agreement"] is None else f"{state['agreement']:.1%} agree"
            )
            return Text(f"{state['shadow']} in the shadow of {state['live']}: {agreement}")
        case _:
            best = max(state["arms"], key=lambda version: state["arms"][version]["mean"])
            return Text(f"{state['pinned']} has all" if state["pinned"] else f"{best} seems best")


def print_audit(entries: Sequence[dict[str, Any]]) -> None:
    """The newest last, as a log reads."""
    table = Table("time", "deployment", "who", "what", "why", box=None, pad_edge=False)
    for entry in reversed(entries):
        when = datetime.datetime.fromtimestamp(entry["time"], datetime.UTC).astimezone()
        table.add_row(
            f"{when:%Y-%m-%d %H:%M:%S}", *(Text(entry[name]) for name in ("deployment", "who", "what", "why"))
        )
    Console().print(table if entries else "Nothing was decided yet.")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"

"""`quire deploy list`, `show`, `create`, `delete` and `audit`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import QuireError
from .admin_client import DEFAULT_URL, AdminClient, AdminKey, Url, Why
from .display import print_audit, print_deployment, print_deployments

Name = Annotated[str, typer.Argument(help="The deployment's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print what the server answers, as JSON.")]


def list_all(url: Url = DEFAULT_URL, admin_key: AdminKey = None, as_json: Json = False) -> None:
    """List the deployments."""
    found = AdminClient(url, admin_key).ask("GET", "/admin/deployments")
    if as_json:
        _print_json(found)
    else:
        print_deployments(found["deployments"])


def show(name: Name, url: Url = DEFAULT_URL, admin_key: AdminKey = None, as_json: Json = False) -> None:
    """Show a deployment: its versions, their shares, and what they have done."""
    found = AdminClient(url, admin_key).deployment("GET", name)
    if as_json:
        _print_json(found)
    else:
        print_deployment(found)


def create(
    name: Name,
    versions: Annotated[
        list[str] | None,
        typer.Argument(help="MODEL or MODEL@VERSION, the one that is known to work first."),
    ] = None,
    strategy: Annotated[str, typer.Option(help="blue-green, canary, shadow or bandit.")] = "canary",
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting of the strategy, as --set steps=10,50,100."
        ),
    ] = None,
    sticky: Annotated[
        str, typer.Option(help="Who stays at a version: none, key, user or header:NAME.")
    ] = "none",
    file: Annotated[
        Path | None,
        typer.Option(help="A TOML file whose [[deployments]] has one of this name, instead of the above."),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Change the deployment if there is one; its rollout begins anew."),
    ] = False,
    why: Why = "",
    url: Url = DEFAULT_URL,
    admin_key: AdminKey = None,
) -> None:
    """Make a deployment."""
    if file is not None:
        if versions or setting:
            raise typer.BadParameter("--file goes without versions and without --set")
        body = _from_file(file, name)
    else:
        settings = dict(map(_setting, setting or ()))
        body = {"versions": versions or [], "strategy": {"type": strategy, **settings}, "sticky": sticky}
    body = {**body, "name": name, "why": why}
    client = AdminClient(url, admin_key)
    made = (
        client.deployment("PUT", name, "", body)
        if replace
        else client.ask("POST", "/admin/deployments", body)
    )
    print_deployment(made)


def delete(name: Name, url: Url = DEFAULT_URL, admin_key: AdminKey = None) -> None:
    """Delete a deployment; requests that run end where they are."""
    AdminClient(url, admin_key).deployment("DELETE", name)
    print(f"{name} is deleted")


def audit(
    name: Annotated[str | None, typer.Argument(help="The deployment; all of them by default.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The latest so many.")] = 20,
    url: Url = DEFAULT_URL,
    admin_key: AdminKey = None,
    as_json: Json = False,
) -> None:
    """Who decided what, when, and why."""
    client = AdminClient(url, admin_key)
    query = f"?limit={limit}"
    found = (
        client.ask("GET", f"/admin/audit{query}")
        if name is None
        else client.deployment("GET", name, f"/audit{query}")
    )
    if as_json:
        _print_json(found)
    else:
        print_audit(found["entries"])


def _setting(text: str) -> tuple[str, Any]:
    """A name and a value: JSON, or numbers with commas between them, or else a text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
    for candidate in (value, f"[{value}]") if "," in value else (value,):
        try:
            return name, json.loads(candidate)
        except ValueError:
            continue
    return name, value


def _from_file(path: Path, name: str) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("deployments", [])
    except (OSError, ValueError) as error:
        raise QuireError(f"{path}: {error}") from None
    found = [table for table in tables if isinstance(table, dict) and table.get("name") == name]
    if len(found) != 1:
        raise QuireError(f"{path} has {len(found)} deployments of the name {name!r}")
    return found[0]


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))

"""README's tables and what runs: the routes of the server, its options, and the environment's variables."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from typer.main import get_command

from quire.cli import app as command_line
from quire.server.app import create_app

from .server.attacked import flat
from .server.conftest import serve_in_process
from .server.fake_engine import FakeEngine

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
SERVED_UNDOCUMENTED = {
    "GET /openapi.json",  # the document itself
    "GET /",  # the web page
    "GET /ui/{name}",
    "POST /completions",  # another name of llama.cpp's /completion
}
NOT_FOR_USERS = {
    "QUIRE_LOG_LEVEL",  # from `quire serve --log-level` to the engine's process
    "TRITON_DEFAULT_FP_FUSION",
    "TRITON_INTERPRET",
    "XDG_CACHE_HOME",
}


def table(heading: str) -> list[list[str]]:
    """The cells of a section's only table, or of its first, row by row."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    lines = itertools.takewhile(
        lambda line: line.startswith("|"),
        itertools.dropwhile(lambda line: not line.startswith("|"), section.splitlines()),
    )
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][2:]


def spelled_out(route: str) -> Iterator[str]:
    """A route with the parts in brackets, and without them."""
    parts = re.split(r"\[(.*?)\]", route)
    for chosen in itertools.product((True, False), repeat=len(parts) // 2):
        yield parts[0] + "".join(
            (part if kept else "") + plain
            for kept, part, plain in zip(chosen, parts[1::2], parts[2::2], strict=True)
        )


def documented_routes() -> dict[str, set[str]]:
    """Method and path of every operation in the OpenAPI document, by its tag."""
    found: dict[str, set[str]] = {}
    for path, operations in create_app(FakeEngine()).openapi()["paths"].items():
        for method, operation in operations.items():
            (tag,) = operation["tags"]
            found.setdefault(tag, set()).add(f"{method.upper()} {path}")
    return found


def test_the_route_table_is_the_openapi_document() -> None:
    written = {
        tag: {route for cell in re.findall("`([^`]+)`", routes) for route in spelled_out(cell)}
        for tag, routes in table("Routes")
    }
    served = documented_routes()
    for tag, routes in served.items():
        line = f"| {tag} | {', '.join(f'`{route}`' for route in sorted(routes))} |"
        assert written.get(tag) == routes, f"README's table must say (brackets may join routes):\n{line}"
    assert written.keys() == served.keys()


async def test_every_other_route_is_a_refusal() -> None:
    """What the document does not name says what it does not do, in its dialect's form."""
    documented = set().union(*documented_routes().values())
    async with serve_in_process() as served:
        app = served.client._transport.app  # type: ignore[attr-defined]
        hidden = {
            f"{method} {route.path}"
            for route in flat(app.routes)
            for method in (route.methods or set()) & {*METHODS}
        }
        for line in sorted(hidden - documented - SERVED_UNDOCUMENTED):
            method, path = line.split(" ")
            response = await served.client.request(method, re.sub(r"\{.*?\}", "x", path))
            assert 400 <= response.status_code < 500 or response.status_code == 501, line


def test_the_table_of_clients_names_routes_that_exist() -> None:
    (section,) = re.findall(r"### Clients of other systems\n(.*?)^### ", README, re.MULTILINE | re.DOTALL)
    paths = {route.split(" ")[1] for routes in documented_routes().values() for route in routes} | {"/"}
    ends = {path.partition("}")[2] for path in paths}
    for line in section.splitlines():
        if line.startswith("|"):
            for route in re.findall("`([/:][^`]*)`", line.split(" | ")[1]):
                start, dots, _ = route.partition("...")
                if dots:
                    assert any(path.startswith(start) for path in paths), route
                else:
                    assert all(one in paths or one in ends for one in spelled_out(route)), route


def test_the_options_table_has_the_options_of_serve() -> None:
    serve = get_command(command_line).commands["serve"]  # type: ignore[attr-defined]
    options = {
        flag: parameter for parameter in serve.params for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    rows = table("Configuration")
    assert len(rows) > 20
    for flags, default, _ in rows:
        defaults = default.split(", ")
        for place, flag in enumerate(re.findall("`(--[^`]+)`", flags)):
            assert flag in options, flag
            shown = defaults[min(place, len(defaults) - 1)]
            if re.fullmatch(r"`[^`]+`|\d+", shown):
                assert re.sub(r"\.0$", "", str(options[flag].default)) == shown.strip("`"), flag


def names_in_code() -> set[str]:
    """Strings in the package that look like names of environment variables."""
    found: set[str] = set()
    for layer in ("cli", "server", "engine", "models", "kernels"):
        for path in (ROOT / layer).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found |= {*re.findall(r"^(?:QUIRE|AIP|TRITON|XDG|OPENAI)_[A-Z_]+$", node.value)}
    return found


def test_the_environment_variables_are_those_that_are_read() -> None:
    written = {*re.findall(r"\b(?:QUIRE|AIP|TRITON|OPENAI)_[A-Z_]+\b", README)}
    read = names_in_code()
    assert read >= NOT_FOR_USERS
    assert written == read - NOT_FOR_USERS

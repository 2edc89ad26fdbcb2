"""Imports point one way, and each layer runs without what only the layers above need."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("errors", "kernels", "models", "engine", "server", "cli")
ENTRANCES = {"__init__", "__main__"}
NOT_PACKAGED = {"tests", "benchmarks", "build", "dist", "setup.py"}
ABOVE_THE_ENGINE = {
    "fastapi",
    "httptools",
    "msgspec",
    "prometheus_client",
    "pydantic",
    "rich",
    "sse_starlette",
    "starlette",
    "typer",
    "uvicorn",
    "uvloop",
}
# The doors between the server's process and the engine's, which alone speak msgpack.
DOORS = {"protocol", "engine_process", "async_engine"}
# Run by hand, by those who change the embedded model.
SCRIPTS = {"train", "evaluate"}
PURE = (
    "scheduler",
    "in_flight",
    "step_data",
    "waiting_queue",
    "block_pool",
    "block_map",
    "block_manager",
    "request",
    "sampling_params",
    "config",
)


def modules() -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Every module of the package: its file, and its dotted name under quire in parts."""
    for top in sorted(ROOT.iterdir()):
        if top.name in NOT_PACKAGED or top.name.startswith("."):
            continue
        for path in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            if path.suffix == ".py":
                yield path, (*path.relative_to(ROOT).parts[:-1], path.stem)


def imports(path: Path, name: tuple[str, ...]) -> Iterator[tuple[int, str, bool]]:
    """Every import of a module, those inside functions too: line, absolute name, whether relative."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, False
        elif isinstance(node, ast.ImportFrom) and node.level:
            package = ("quire", *name)[: -node.level]
            base = ".".join((*package, node.module)) if node.module else ".".join(package)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}", True
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or "", False


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_every_module_has_a_layer() -> None:
    strangers = {name[0] for _, name in modules()} - {*LAYERS, *ENTRANCES}
    assert not strangers, f"give these a place in LAYERS: {sorted(strangers)}"


def test_imports_point_down() -> None:
    upward = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for path, name in modules()
        if name[0] not in ENTRANCES
        for line, target, relative in imports(path, name)
        if relative
        and target.split(".")[1] in LAYERS
        and LAYERS.index(target.split(".")[1]) > LAYERS.index(name[0])
    ]
    assert not upward, "\n".join(upward)


def test_the_package_imports_itself_relatively() -> None:
    absolute = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for path, name in modules()
        for line, target, relative in imports(path, name)
        if not relative and target.split(".")[0] == "quire"
    ]
    assert not absolute, "\n".join(absolute)


def test_models_and_engine_leave_the_servers_packages_alone() -> None:
    strayed = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for path, name in modules()
        if name[0] in ("errors", "kernels", "models", "engine")
        for line, target, relative in imports(path, name)
        if not relative and target.split(".")[0] in ABOVE_THE_ENGINE
        if not (name[-1] in DOORS and target == "msgspec")
    ]
    assert not strayed, "\n".join(strayed)


def test_everything_below_the_server_imports_where_its_packages_are_absent() -> None:
    names = [
        ".".join(("quire", *(part for part in name if part != "__init__")))
        for _, name in modules()
        if name[0] in ("errors", "kernels", "models", "engine")
        if name[-1] not in DOORS | SCRIPTS
    ]
    done = run(
        f"""
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABOVE_THE_ENGINE!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)

sys.meta_path.insert(0, Absent())
for name in {names!r}:
    importlib.import_module(name)
import quire
for name in quire.__all__:
    if name != "AsyncEngine":
        getattr(quire, name)
"""
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", PURE)
def test_policy_never_loads_torch(module: str) -> None:
    done = run(
        f"import quire.engine.{module}, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert done.returncode == 0, done.stderr or f"importing quire.engine.{module} loads torch or numpy"


def test_importing_quire_is_cheap() -> None:
    heavy = ("torch", "transformers", "fastapi", "numpy", "typer")
    done = run(f"import quire, sys; print([name for name in {heavy!r} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_command_waits_for_no_other_group() -> None:
    groups = ("quire.cli.bench", "quire.cli.deploy")
    done = run(f"import quire.cli, sys; print([name for name in {groups!r} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_servers_process_never_loads_torch() -> None:
    heavy = ("torch", "numpy", "transformers")
    done = run(
        f"""
import sys
import quire.cli.serve, quire.server.main, quire.server.app, quire.server.draining
print([name for name in {heavy!r} if name in sys.modules])
"""
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_engines_process_loads_neither_transformers_nor_torchs_compiler() -> None:
    done = run(
        """
import sys
from quire.engine import engine_process
from quire.engine.build import build_engine
from quire.engine.config import EngineConfig
build_engine(EngineConfig(model="embedded", weight_cache=False))
heavy = ("transformers", "torch._dynamo", "fastapi", "uvicorn", "jinja2")
print([name for name in heavy if name in sys.modules])
"""
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr

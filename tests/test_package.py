"""The installed package: its public face, its size, and its place beside a user's own modules."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import quire

ROOT = Path(__file__).parent.parent
MOST_DISTRIBUTIONS = 50


def closure(name: str, extras: frozenset[str] = frozenset(), seen: set[str] | None = None) -> set[str]:
    """The distributions that installing `name` brings, itself included."""
    seen = set() if seen is None else seen
    try:
        found: Distribution = distribution(name)
    except PackageNotFoundError:
        pytest.fail(f"{name} is required but not installed")
    seen.add(canonicalize_name(name))
    for line in found.requires or ():
        requirement = Requirement(line)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        )
        if wanted and canonicalize_name(requirement.name) not in seen:
            closure(requirement.name, frozenset(requirement.extras), seen)
    return seen


def test_a_plain_install_stays_small() -> None:
    # The CUDA build of torch brings its libraries as distributions of their own.
    names = {name for name in closure("quire") if not name.startswith(("nvidia-", "cuda-"))}
    assert len(names) <= MOST_DISTRIBUTIONS, f"{len(names)}: {', '.join(sorted(names))}"


def test_version_is_the_installed_one() -> None:
    assert quire.__version__ == version("quire")


def test_the_public_names_are_there() -> None:
    for name in quire.__all__:
        assert getattr(quire, name) is not None
        assert name in dir(quire)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="LMM"):
        _ = quire.LMM


def test_a_users_own_modules_are_not_shadowed_and_do_not_shadow(tmp_path: Path) -> None:
    names = ("models", "server", "engine", "kernels", "errors", "cli")
    for name in names:
        (tmp_path / f"{name}.py").write_text("mine = True\n")
    code = "\n".join(
        [
            *(f"import {name}; assert {name}.mine" for name in names),
            "import quire.cli, quire.errors, quire.engine.scheduler, quire.kernels.ops",
            "import quire.models, quire.server",
            "assert not hasattr(quire.models, 'mine')",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_pin_is_a_version_that_the_package_accepts() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {r.name: r for r in (Requirement(line) for line in lines if line and not line.startswith("#"))}
    accepted = {r.name: r for r in map(Requirement, distribution("quire").requires or ())}
    for name, pin in pins.items():
        (only,) = pin.specifier
        assert only.operator == "=="
        assert accepted[name].specifier.contains(only.version)

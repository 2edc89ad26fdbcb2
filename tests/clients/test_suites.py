"""Clients that are too heavy for the development tools, in an interpreter of their own.

`make clients` makes one, and names it in QUIRE_CLIENTS_PYTHON.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .conftest import KEY

SUITES = Path(__file__).parent / "suites"
PYTHON = os.environ.get("QUIRE_CLIENTS_PYTHON")


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("suite", "package"),
    [("litellm", "litellm"), ("langchain", "langchain_openai"), ("text_generation", "text_generation")],
)
def test_suite(suite: str, package: str, embedded: str, thinker: str, rambler: str) -> None:
    if not PYTHON:
        pytest.skip("QUIRE_CLIENTS_PYTHON names no interpreter; `make clients` makes one")
    if subprocess.run([PYTHON, "-c", f"import {package}"], capture_output=True, check=False).returncode:
        pytest.skip(f"{PYTHON} has no {package}")
    done = subprocess.run(
        [PYTHON, SUITES / f"{suite}_suite.py", KEY, embedded, thinker, rambler],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr

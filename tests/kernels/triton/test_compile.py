"""Every form of a kernel that the engine uses compiles for Ampere and Hopper, and none spills registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quire.kernels import triton as column

# What a program may have on an A100 and on an H100, in bytes.
SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10}

FOLDER = Path(column.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if "def compile_cases(" in path.read_text("utf-8"))


@pytest.mark.parametrize("module", MODULES)
def test_compiles_without_spills(module: str) -> None:
    script = Path(__file__).with_name("compile_check.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(script), module, *map(str, SHARED_MEMORY)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-4000:]
    cases = [json.loads(line) for line in result.stdout.splitlines()]
    assert cases
    for case in cases:
        print(case)
        assert case["spilled"] == 0, case
        assert case["shared"] <= SHARED_MEMORY[case["arch"]], case

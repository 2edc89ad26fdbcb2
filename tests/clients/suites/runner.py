"""Runs the checks of a suite, in an interpreter that has its client: `python SUITE.py KEY URL URL URL`."""

from __future__ import annotations

import inspect
import sys
import traceback
from dataclasses import dataclass


@dataclass
class Servers:
    """The key, and where the servers are.

    Attributes:
        key: What they all take.
        embedded: Serves the embedded model.
        thinker: Serves a model that thinks, and calls a function.
        rambler: Serves a model that may think and call, and cannot come to an end by itself.
    """

    key: str
    embedded: str
    thinker: str
    rambler: str


def main(module_name: str) -> None:
    """Calls every `check_...` of the module; exits with 1 if one fails."""
    servers = Servers(*sys.argv[1:])
    failed = 0
    checks = inspect.getmembers(sys.modules[module_name], inspect.isfunction)
    for name, check in checks:
        if name.startswith("check_"):
            try:
                check(servers)
                print(f"{name}: passed", flush=True)
            except Exception:
                failed += 1
                print(f"{name}: FAILED\n{traceback.format_exc()}", flush=True)
    sys.exit(bool(failed))

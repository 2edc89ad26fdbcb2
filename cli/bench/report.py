"""What a benchmark reports, as JSON: the settings, the machine, the versions and the figures."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from ... import __version__
from ...engine.memory import total_ram
from .load import LoadRun
from .sample import Sample

SCHEMA_VERSION = 1
"""Grows when a field is renamed, removed or comes to mean something else."""

PACKAGES = ("httptools", "msgspec", "torch", "transformers", "uvicorn")


def document(kind: str, settings: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """A report that can be written as JSON.

    Args:
        kind: Which benchmark: "serve", "throughput" or "latency".
        settings: What was asked for.
        results: The figures.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": f"quire.bench.{kind}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "machine": machine(),
        "versions": versions(),
        "results": results,
    }


def settings_of(*objects: Any, **more: Any) -> dict[str, Any]:
    """Settings objects as one dict of plain values."""
    fields = {name: value for each in objects for name, value in dataclasses.asdict(each).items()}
    return {name: str(value) if isinstance(value, Path) else value for name, value in (fields | more).items()}


def machine() -> dict[str, Any]:
    """The machine that the benchmark ran on, which for `serve` is the client's."""
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_name(),
        "usable_cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "ram_bytes": total_ram(),
    }


def versions() -> dict[str, str | None]:
    """Of quire, Python, and the packages that a benchmark depends on."""
    found: dict[str, str | None] = {"quire": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def sample_details(run: LoadRun) -> list[dict[str, Any]]:
    """Every request on its own; times are seconds since the beginning."""

    def since(time: float | None) -> float | None:
        return None if time is None or math.isnan(time) else time - run.origin

    def details(sample: Sample) -> dict[str, Any]:
        return {
            "index": sample.index,
            "intended": since(sample.intended),
            "begun": since(sample.begun),
            "started": since(sample.started),
            "chunk_times": [since(time) for time in sample.chunk_times],
            "chunk_tokens": [count if count >= 0 else None for count in sample.chunk_tokens],
            "finished": since(sample.finished),
            "prompt_tokens": sample.prompt_tokens,
            "output_tokens": sample.num_output_tokens,
            "error": sample.error,
            "detail": sample.detail,
        }

    return [details(sample) for sample in run.samples]


def check_writable(path: Path | None, flag: str) -> None:
    """Raises a usage error if a report could not be written, before anything is measured."""
    if path is not None and not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"the folder of {path} does not exist", param_hint=flag)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a report."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor()

"""`quire doctor`: what quire finds on this machine, and what it would do with a model here."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..engine.config import EngineConfig
from ..errors import QuireError
from .options import ENGINE, takes

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "safetensors",
    "sentencepiece",
    "fastapi",
    "uvicorn",
    "xformers",
)
ISA_FLAGS = ("avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")

Section = dict[str, Any]


@takes(config=ENGINE.but(model="embedded"))
def doctor(
    config: EngineConfig,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Report on the machine, the versions, the kernels, and how a model would fit.

    Nothing is loaded. The exit status is 1 if the model could not run here.
    """
    report: dict[str, Section] = {
        "versions": _versions(),
        "machine": _machine(),
        "gpus": _gpus(),
        "kernels": _kernels(),
        "model": _model(config),
    }
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print_report(report)
    if "error" in report["model"]:
        raise typer.Exit(1)


def _versions() -> Section:
    versions: Section = {"quire": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _machine() -> Section:
    from ..engine.memory import available_ram, total_ram

    model, flags = _cpu()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": model,
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "ram_bytes": total_ram(),
        "available_ram_bytes": available_ram(),
    }


def _cpu() -> tuple[str, set[str]]:
    """The CPU's name and the instruction sets that the system reports."""
    path = Path("/proc/cpuinfo")
    fields: dict[str, str] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    return fields.get("model name", platform.processor()), set(fields.get("flags", "").split())


def _gpus() -> Section:
    import torch

    gpus: Section = {}
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        gpus[f"cuda:{index}"] = {
            "name": gpu.name,
            "capability": f"{gpu.major}.{gpu.minor}",
            "memory_bytes": gpu.total_memory,
        }
    return gpus


def _kernels() -> Section:
    """For each device that is there, the columns of each op in the order they are tried."""
    import torch

    from ..kernels import ops

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {
        "cpp_extension": _extension(),
        "forced": os.environ.get("QUIRE_KERNELS"),
        "table": {device: ops.resolved_table(device) for device in devices},
    }


def _extension() -> str:
    """What the C++ extension runs as, or why it does not run."""
    try:
        from ..kernels import _C

        name = _C.isa()
    except ImportError as error:
        return f"not built, the reference kernels run instead: {error}"
    except RuntimeError as error:
        return f"built, but refuses to run: {error}"
    return f"built, running as {name}, {_C.num_threads()} threads"


def _model(config: EngineConfig) -> Section:
    from ..engine.build_encoder import check_encoder_settings
    from ..engine.model_choice import check_weights_fit, choose, weight_bytes
    from ..engine.pool import plan_memory, pool_budget

    section: Section = {"name": config.model_name}
    try:
        choice = choose(config)
        section |= {
            "folder": str(choice.folder),
            "architecture": choice.config.architecture,
            "device": str(choice.device),
            "dtype": str(choice.dtype).removeprefix("torch."),
            "max_model_len": choice.max_model_len,
        }
        to_come = 0
        if config.load_format == "auto":
            to_come = section["weights_bytes"] = weight_bytes(config, choice)
        check_weights_fit(config, choice)
        if choice.config.encoder is not None:
            check_encoder_settings(config, choice)
            section["kv_cache"] = "none: an encoder reads whole texts and generates none"
        else:
            budget = pool_budget(config, choice, to_come=to_come)
            section["kv_cache"] = plan_memory(config, choice, budget).describe()
    except (QuireError, ValueError) as error:
        section["error"] = str(error)
    return section


def _print_report(report: dict[str, Section]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..engine.memory import format_bytes

    console = Console(highlight=False, soft_wrap=True)
    for title, section in report.items():
        console.print(f"[bold]{title}[/bold]")
        if not section:
            console.print("  none")
        for name, value in section.items():
            if name == "table":
                continue
            if name.endswith("_bytes"):
                name, value = name.removesuffix("_bytes"), format_bytes(value)
            elif isinstance(value, list):
                value = " ".join(value)
            console.print(f"  {name.replace('_', ' '):14} {'-' if value is None else value}", markup=False)
    for device, rows in report["kernels"]["table"].items():
        table = Table(
            "op", device, title=f"kernels on {device}, in the order they are tried", title_justify="left"
        )
        for op, columns in rows.items():
            table.add_row(op, columns)
        console.print(table)

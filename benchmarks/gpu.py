"""quire on one GPU: kernels and whole models against the roofline of this device, and against transformers.

    python benchmarks/gpu.py [--models qwen3-0.6b llama-3.1-8b] [--minutes 8] [--output benchmarks/results]
    python benchmarks/gpu.py --dry-run          the same program on a CPU, with tiny shapes

One command, with no network: weights are random and made on the device. First the limits are measured (the
bandwidth of a copy, the bf16 peak of a matrix product), then each kernel as the engine calls it, through
`ops`, then the models. A percentage is the shortest time that the limits allow, over the time measured; for
a step, that is its weights or its arithmetic, whichever takes longer, and then its keys and values. What does
not fit into the minutes is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import logging
import os
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import gpu_kernels as kernels
import gpu_models as models
import torch
from shapes import SHAPES

MODELS: dict[str, tuple[str, str | None]] = {
    "qwen3-0.6b": ("qwen3-0.6b", None),
    "llama-3.1-8b": ("llama-3.1-8b", None),
    "llama-3.1-8b-int4": ("llama-3.1-8b", "int4"),
}
"""The name on the command line: the shape, and the format that its matrices are rounded to."""

DRY_MODELS: dict[str, tuple[str, str | None]] = {"tiny": ("tiny", None), "tiny-int4": ("tiny", "int4")}

WITH_PEERS = ("qwen3-0.6b", "llama-3.1-8b", "tiny")
LOADED = ("llama-3.1-8b", "tiny")
"""The models under whose load the device's utilisation is watched."""

MODEL_SECONDS = 45.0
"""A model is not begun with less time left."""

Rows = list[tuple[str, ...]]


class Report:
    """The tables, as they grow."""

    def __init__(self, device: torch.device, deadline: float) -> None:
        self.device = device
        self.deadline = deadline
        self.sections: list[tuple[str, tuple[str, ...], Rows]] = []
        self.notes: list[str] = []

    def section(self, title: str, columns: tuple[str, ...]) -> Rows:
        """A new table, to be filled."""
        rows: Rows = []
        self.sections.append((title, columns, rows))
        print(f"\n{title}", flush=True)
        return rows

    def note(self, text: str) -> None:
        print(f"    {text}", flush=True)
        self.notes.append(text)

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.perf_counter()

    def markdown(self, command: str) -> str:
        """Everything, with machine, versions and date."""
        lines = [f"# {machine(self.device)}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}", ""]
        lines += [f"{versions()}. `{command}`", ""]
        for title, columns, rows in self.sections:
            lines += [f"## {title}", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
            lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"


def machine(device: torch.device) -> str:
    if device.type == "cpu":
        return f"{platform.machine()} CPU, a dry run"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def versions() -> str:
    names = ("torch", "triton", "transformers")
    found = [f"{name} {metadata.version(name)}" for name in names]
    from quire import __version__

    return ", ".join([f"quire {__version__}", *found, f"CUDA {torch.version.cuda}", platform.platform()])


def measure_kernels(
    report: Report, limits: kernels.Limits, sizes: kernels.Sizes, dtype: torch.dtype, seconds: float
) -> None:
    rows = report.section("Kernels", ("op", "size", "us", "of the roofline", "implementation"))
    table = kernels.ops.resolved_table(report.device.type)
    end = time.perf_counter() + seconds
    budget = min(0.2, seconds / 200)
    for case in kernels.all_cases(report.device, dtype, sizes):
        if time.perf_counter() > end:
            report.note("kernels: the time is over before all cases were measured")
            return
        taken = kernels.seconds_per_call(case.calls, report.device, budget)
        share = limits.seconds(case.bytes, case.operations) / taken
        first = table[case.op].split(" · ")[0]
        print(f"    {case.op:22}{case.size:40}{taken * 1e6:10.1f} us {share:6.1%}  {first}", flush=True)
        rows.append((case.op, case.size, f"{taken * 1e6:.1f}", f"{share:.0%}", first))


def measure_model(
    report: Report, name: str, shape: str, quantization: str | None, limits: kernels.Limits, args: Any
) -> None:
    dtype = "float32" if args.dry_run else "bfloat16"
    load = models.DRY if args.dry_run else models.Load()
    rows = report.section(f"{name}, {quantization or dtype}", ("", "value", "unit", "of the roofline"))
    figures = models.Figures()
    with tempfile.TemporaryDirectory() as folder:
        measured = models.Measured(
            Path(folder), shape, quantization, report.device.type, dtype, load, args.memory_fraction
        )
        figures.add("start-up, warm-up included", measured.start_up, "s")
        models.measure_decode(measured, limits, figures)
        models.measure_prefill(measured, limits, figures)
        models.measure_mixed(measured, figures)
        if name in LOADED and not args.no_load:
            seconds = min(load.load_seconds, max(load.load_seconds / 6, report.seconds_left / 3))
            models.measure_utilization(measured, figures, seconds)
        if name in WITH_PEERS and not args.no_transformers:
            models.measure_same_requests(measured, figures)
            measured.close()
            release(report.device)
            measure_peers(report, name, measured, figures, Path(folder))
    rows += [
        (what, f"{value:,.2f}", unit, "" if share is None else f"{share:.0%}")
        for what, value, unit, share in figures.rows
    ]


def measure_peers(
    report: Report, name: str, measured: models.Measured, figures: models.Figures, folder: Path
) -> None:
    """transformers, where time and memory allow; quire's engine has given its memory back."""
    device, dtype = measured.choice.device, measured.choice.dtype
    if report.seconds_left < MODEL_SECONDS:
        report.note(f"{name}: no time was left for transformers")
        return
    free = torch.cuda.mem_get_info(device)[0] if device.type != "cpu" else 1 << 62
    needed = 2.5 * measured.operations / 2 * dtype.itemsize
    if needed > free:
        report.note(f"{name}: transformers needs some {needed / 2**30:.0f} GiB")
        return
    model = models.make_peer(folder, device, dtype)
    for measure in (models.measure_generate, models.measure_continuous):
        try:
            measure(model, measured, figures)
        except (RuntimeError, ValueError, ImportError, AttributeError, TypeError, KeyError) as error:
            # A peer that does not run here is a line of the report, not the end of the run.
            words = str(error).strip() or "no message"
            report.note(f"{name}: {measure.__name__} failed: {type(error).__name__}: {words.splitlines()[0]}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=[*MODELS, *DRY_MODELS], default=None)
    parser.add_argument("--minutes", type=float, default=7.5, help="for everything together")
    parser.add_argument("--memory-fraction", type=float, default=None, help="the share that quire takes")
    parser.add_argument("--no-transformers", action="store_true", help="leave transformers out")
    parser.add_argument("--no-kernels", action="store_true", help="leave the single kernels out")
    parser.add_argument("--no-load", action="store_true", help="do not watch the utilisation under load")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with tiny shapes")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results", help="folder of the report"
    )
    return parser.parse_args()


def main() -> None:
    args = parse()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.basicConfig(level="WARNING", format="%(name)s: %(message)s")
    if not args.dry_run and not torch.cuda.is_available():
        raise SystemExit("torch finds no usable GPU; --dry-run runs the program on a CPU")
    device = torch.device("cpu" if args.dry_run else "cuda")
    if args.dry_run:
        torch.set_num_threads(1)
    dtype = torch.float32 if args.dry_run else torch.bfloat16
    sizes = kernels.DRY if args.dry_run else kernels.Sizes()
    seconds = 60.0 * args.minutes
    report = Report(device, time.perf_counter() + seconds)
    print(f"{machine(device)}\n{versions()}")
    with torch.inference_mode():
        limits = kernels.measure_limits(device, dtype, sizes, 0.01 if args.dry_run else 1.0)
    rows = report.section("Limits", ("", "measured"))
    rows += [
        ("copy, read and written", f"{limits.bandwidth / 1e9:,.0f} GB/s"),
        (f"{str(dtype)[6:]} matrix product", f"{limits.flops / 1e12:,.1f} TFLOP/s"),
    ]
    if args.dry_run:
        report.note("a dry run: whether it runs is all that it says; its figures mean nothing")
    print("\n".join(f"    {name:44}{value}" for name, value in rows))
    if not args.no_kernels:
        with torch.inference_mode():
            measure_kernels(report, limits, sizes, dtype, seconds / 5)
        release(device)
    known = DRY_MODELS if args.dry_run else MODELS
    for name in args.models or known:
        if name not in known:
            raise SystemExit(f"{name} is not measured {'in a dry run' if args.dry_run else 'on a GPU'}")
        if report.seconds_left < (0 if args.dry_run else MODEL_SECONDS):
            report.note(f"{name}: no time was left")
            continue
        shape, quantization = known[name]
        assert shape in SHAPES
        measure_model(report, name, shape, quantization, limits, args)
        release(device)
    args.output.mkdir(parents=True, exist_ok=True)
    label = "dry-run" if args.dry_run else torch.cuda.get_device_name(device).lower().replace(" ", "-")
    path = args.output / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-{label}.md"
    path.write_text(report.markdown("python benchmarks/gpu.py"))
    print(f"\nwritten to {path}")


def release(device: torch.device) -> None:
    """Gives memory back before the next model."""
    gc.collect()
    if device.type != "cpu":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

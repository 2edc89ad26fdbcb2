"""The GPU benchmark runs from end to end, with tiny shapes, on any machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ABSENT = ("fastapi", "msgspec", "uvicorn", "starlette")


def test_a_dry_run_measures_everything_and_writes_its_report(tmp_path: Path) -> None:
    code = f"""
import runpy, sys
for name in {ABSENT!r}:
    sys.modules[name] = None  # it must run where the server's packages are absent
sys.argv = ["gpu.py", "--dry-run", "--output", {str(tmp_path)!r}]
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
runpy.run_path({str(ROOT / "benchmarks" / "gpu.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = tmp_path.glob("*-dry-run.md")
    text = report.read_text(encoding="utf-8")
    for op in (
        "linear",
        "paged_attention",
        "add_rms_norm",
        "silu_and_mul",
        "rope_and_cache_write",
        "argmax",
    ):
        assert f"| {op} |" in text
    for line in (
        "copy, read and written",
        "decoding, batch 3",
        "host time per step, batch 3",
        "prefill of 20 tokens",
        "mixed load, 4 requests",
        "quire, 2 requests, prompts included",
        "transformers generate, batch 2",
        "transformers continuous batching, 2 requests",
    ):
        assert f"| {line} |" in text, text
    assert "## tiny, float32" in text
    assert "## tiny-int4, int4" in text
    assert "torch " in text


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        return
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "torch finds no usable GPU; --dry-run runs the program on a CPU" in done.stderr

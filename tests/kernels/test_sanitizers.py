"""The C++ kernels under the compiler's sanitizers, on random shapes: see fuzz_kernels.cpp.

The seed is new each time and printed; `QUIRE_FUZZ="SEED CASES FIRST"` repeats cases.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CSRC = ROOT / "kernels" / "csrc"
COMPILER = shutil.which(os.environ.get("CXX", "g++"))

# As setup.py compiles, but for the optimisation.
FLAGS = ["-std=c++17", "-O1", "-g", "-fno-math-errno", "-ffp-contract=off", "-pthread", f"-I{CSRC}"]

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler here"),
]


def run(command: list[str | Path], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def build(folder: Path, sanitizers: str) -> Path:
    """The fuzzer and all kernels, without the Python binding, as one program."""
    assert COMPILER is not None
    compiler = COMPILER
    flags = [*FLAGS, f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    probe = folder / "probe.cpp"
    probe.write_text("int main() {}\n")
    if run([compiler, *flags, probe, "-o", folder / "probe"]).returncode != 0:
        pytest.skip(f"this compiler has no -fsanitize={sanitizers}")
    if (done := run([folder / "probe"])).returncode != 0:
        pytest.skip(f"{sanitizers} cannot run here: {done.stderr.strip()[-200:]}")
    sources = [path for path in CSRC.glob("*.cpp") if path.name != "module.cpp"]
    sources.append(Path(__file__).with_name("fuzz_kernels.cpp"))
    objects = [folder / f"{path.stem}.o" for path in sources]

    def compile_one(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
        return run([compiler, *flags, "-c", source, "-o", target])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(compile_one, sources, objects):
            assert done.returncode == 0, done.stderr
    done = run([compiler, *flags, *objects, "-o", folder / "fuzz"])
    assert done.returncode == 0, done.stderr
    return folder / "fuzz"


@pytest.mark.parametrize(("sanitizers", "cases"), [("address,undefined", 30_000), ("thread", 6_000)])
def test_random_shapes(sanitizers: str, cases: int, tmp_path: Path) -> None:
    fuzz = build(tmp_path, sanitizers)
    which = os.environ.get("QUIRE_FUZZ") or f"{random.randrange(10**9)} {cases} 0"
    print(f"QUIRE_FUZZ={which!r} under {sanitizers}")
    done = run([fuzz, *which.split()], TSAN_OPTIONS="halt_on_error=1")
    print(done.stdout[-2000:])
    assert done.returncode == 0, done.stderr[:6000]

"""What pyproject.toml cannot say: which folders are packages, and how the C++ extension is built."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SOURCES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("kernels/csrc/*.cpp"))
HEADERS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("kernels/csrc/*.h*"))


class build_py_without_setup(build_py):
    """Leaves this file, which lies in the root package's folder, out of the package."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        modules = super().find_package_modules(package, package_dir)
        return [module for module in modules if module[1] != "setup"]


# A build/ in the checkout would lie inside the package, and modules deleted since would go from it
# into the next wheel; so the build happens elsewhere.
build_base = tempfile.mkdtemp(prefix="quire-build-")
atexit.register(shutil.rmtree, build_base, ignore_errors=True)

ParallelCompile(default=0).install()

extension = Pybind11Extension(
    "quire.kernels._C",
    SOURCES,
    depends=HEADERS,
    cxx_std=17,
    # No contraction into fused multiply-adds: the compiler would choose it loop by loop, and a result
    # would depend on which loop computed it. No -march: the instruction set is chosen at run time.
    extra_compile_args=["-O3", "-fno-math-errno", "-ffp-contract=off", "-pthread"],
    extra_link_args=["-pthread"],
    optional=True,  # without a compiler the install succeeds and quire runs on the reference kernels
)

PACKAGES = find_packages(str(ROOT), exclude=["tests*", "benchmarks*"])

setup(
    packages=["quire", *(f"quire.{name}" for name in PACKAGES)],
    ext_modules=[extension] if SOURCES else [],
    cmdclass={"build_py": build_py_without_setup},
    options={"build": {"build_base": build_base}},
)

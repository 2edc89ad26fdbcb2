"""Compiles every form of a Triton kernel that the engine uses, and prints what each takes, a JSON line each.

    python compile_check.py MODULE ARCH [ARCH ...]        python compile_check.py rms_norm 80 90

It needs no GPU: Triton's own ptxas makes the machine code, and its cuobjdump reads the figures from it. A
process of its own because a kernel's module is imported either for the interpreter or for the compiler.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


def compile_case(case: Any, arch: int) -> dict[str, Any]:
    """Registers, bytes of spills and of shared memory, per program."""
    names = case.kernel.arg_names
    signature = {name: case.signature.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in case.constants.items()}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in case.aligned}
    source = ASTSource(case.kernel, signature, constants, aligned)
    options = {
        "num_warps": case.num_warps,
        "num_stages": case.num_stages,
        "enable_fp_fusion": case.fp_fusion,
    }
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return {
        "case": case.name,
        "kernel": case.kernel.fn.__name__,
        "arch": arch,
        "shared": compiled.metadata.shared,
        **resources(compiled.asm["cubin"]),
    }


def resources(cubin: bytes) -> dict[str, int]:
    """What cuobjdump says of the kernel: its registers, and its stack, to which registers are spilled."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / "cuobjdump"), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = {name: max(map(int, re.findall(rf"{name}:(\d+)", text))) for name in ("REG", "STACK", "LOCAL")}
    return {"registers": usage["REG"], "spilled": max(usage["STACK"], usage["LOCAL"])}


def main() -> None:
    module = importlib.import_module(f"quire.kernels.triton.{sys.argv[1]}")
    for case in module.compile_cases():
        for arch in set(map(int, sys.argv[2:])) & set(case.archs):
            print(json.dumps(compile_case(case, arch)), flush=True)


if __name__ == "__main__":
    main()

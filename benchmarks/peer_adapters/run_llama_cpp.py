"""llama.cpp, through its own llama-batched-bench, which is started anew for each measurement.

The bench reports the time of the prompts and the time of the outputs. Its first output token is the first
of the decoding steps, all of which are alike, so one of them is taken off. No token is sampled, which
spares it a per cent or so. Its start-up time is that of the smallest run it can make.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from protocol import Settings, settings, take_stdout

CONTEXT_STEP = 256  # each sequence's share of the context is rounded up to it


def bench(given: Settings, batch: int, num_prompt: int, num_outputs: int) -> dict[str, Any]:
    """One line of llama-batched-bench."""
    context = -(-(num_prompt + num_outputs) // CONTEXT_STEP) * CONTEXT_STEP * batch
    sizes = ["-c", context, "-npp", num_prompt, "-ntg", num_outputs, "-npl", batch]
    command = [
        f"{given.home}/build/bin/llama-batched-bench",
        *("-m", f"{given.model}/model.gguf"),
        *("-t", str(given.threads), "-tb", str(given.threads)),
        *map(str, sizes),
        *("--output-format", "jsonl"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    sys.stderr.write(result.stderr)
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode or len(lines) != 1:
        raise RuntimeError(f"llama-batched-bench gave {result.returncode}: {result.stdout[-300:]}")
    return json.loads(lines[0])


def main() -> None:
    """Starts the bench once, and once more for each measurement."""
    send, given = take_stdout(), settings()
    bench(given, 1, 1, 1)
    (source,) = Path(given.home).glob("llama_cpp_python-*/")
    send({"ready": {"version": "llama.cpp of " + source.name.replace("_", "-")}})
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("warm_up"):
            send({})
            continue
        times = bench(given, order["batch"], given.prompt, given.output)
        decode = times["t_tg"] * (given.output - 1) / given.output
        send({"first": times["t_pp"], "whole": times["t_pp"] + decode})


if __name__ == "__main__":
    main()

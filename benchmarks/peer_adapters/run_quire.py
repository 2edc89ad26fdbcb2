"""quire, in this process, as `throughput.py` runs it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from protocol import Prompts, serve, settings, take_stdout


def main() -> None:
    """Loads the model and answers."""
    send, given = take_stdout(), settings()
    from quire import __version__
    from quire.engine.build import build_engine
    from quire.engine.config import EngineConfig
    from quire.engine.engine import EngineRequest
    from quire.engine.sampling_params import SamplingParams

    # quire quantises a bf16 checkpoint while it loads it; "int4 g128 all" is int4 in groups of 128, the
    # output matrix too.
    format_, *more = given.weights.split()
    extra: dict[str, Any] = {} if format_ == "bf16" else {"quantization": format_}
    for word in more:
        if word == "all":
            extra["lm_head"] = format_
        else:
            extra["quantization_group_size"] = int(word.removeprefix("g"))
    engine, _, _ = build_engine(
        EngineConfig(
            model=given.model,
            max_model_len=2048,
            num_threads=given.threads,
            max_num_seqs=max(given.batches),
            memory_fraction=0.1,  # of the free memory: the other engines want to live too
            enable_prefix_caching=False,
            **extra,
        )
    )

    def generate(prompts: Prompts, num_outputs: int) -> int:
        params = SamplingParams(temperature=0.0, max_tokens=num_outputs, ignore_eos=True)
        for i, prompt in enumerate(prompts):
            engine.add_request(EngineRequest(f"{time.monotonic()}.{i}", prompt, params))
        produced = 0
        while engine.has_unfinished:
            produced += sum(len(delta.token_ids) for delta in engine.step())
        return produced

    serve(given, send, {"version": f"{__version__}, commit {commit()}"}, generate)


def commit() -> str:
    """Which sources these are; -dirty if they were changed since."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=7"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()

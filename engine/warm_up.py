"""What a GPU does before the first request: every kernel compiled, every decoding graph captured.

Triton compiles a kernel when it is first called with a kind of arguments, which takes up to seconds; a
request must not wait for that. So steps of all kinds are run over the empty cache: prompts short and long,
of lengths that are multiples of 16 and that are not (Triton compiles those anew), several at once, decoding
beside them, and sampling of all kinds.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import MutableMapping, Sequence

from tqdm import tqdm

from ..models.weight_cache import cache_folder
from .decode_graphs import GraphMaker, padded_sizes
from .model_runner import ModelRunner
from .profile import is_out_of_memory
from .request import Request
from .sampling_params import SamplingParams
from .step_data import ScheduledChunk, SchedulerOutput

logger = logging.getLogger(__name__)

TRITON_VARIABLE = "TRITON_CACHE_DIR"

GREEDY = SamplingParams(temperature=0.0)
KINDS = (
    GREEDY,
    SamplingParams(temperature=0.8),
    SamplingParams(temperature=0.8, top_k=20, top_p=0.9, min_p=0.05),
    SamplingParams(temperature=0.0, logprobs=5),
    SamplingParams(temperature=0.0, repetition_penalty=1.1, presence_penalty=0.1, min_tokens=1),
)
"""One request of each way to sample."""


def keep_triton_cache(environment: MutableMapping[str, str] = os.environ) -> None:
    """Has Triton keep compiled kernels in quire's cache folder, unless the user has chosen another."""
    folder = cache_folder(environment)
    if folder is not None:
        environment.setdefault(TRITON_VARIABLE, str(folder / "triton"))


def warm_up_steps(num_tokens: int, max_num_seqs: int, max_model_len: int) -> list[list[int]]:
    """The steps to run, each as the lengths of the prompts in it.

    Args:
        num_tokens: The most tokens of a step.
        max_num_seqs: The most requests of a step.
        max_model_len: The longest prompt.
    """
    longest = min(num_tokens, max_model_len)
    lengths = {1, 2, 7, 16, 17, longest}
    lengths |= {1 << power for power in range(5, longest.bit_length())}
    lengths |= {(1 << power) + 1 for power in range(5, longest.bit_length())}
    steps = [[length] for length in sorted(lengths) if length <= longest]
    steps += [[1] * num for num in (2, max_num_seqs) if num <= min(max_num_seqs, num_tokens)]
    mixed = [1] * min(len(KINDS), max_num_seqs - 1)
    if mixed and len(mixed) < num_tokens:
        steps.append([min(longest, num_tokens - len(mixed)), *mixed])
    full = [longest] * min(num_tokens // longest, max_num_seqs)
    if len(full) > 1:
        steps.append(full)
    return steps


def warm_up(
    runner: ModelRunner,
    *,
    num_tokens: int,
    maker: GraphMaker | None,
    padding_block: int,
    progress: bool = False,
) -> None:
    """Runs all kinds of steps, then captures the decoding steps.

    Args:
        runner: Over an empty cache, whose blocks it overwrites.
        num_tokens: The most tokens of a step.
        maker: Makes the graphs; None captures nothing.
        padding_block: A block of the caches that is not in the pool.
        progress: Whether to draw a bar.
    """
    started = time.monotonic()
    steps = warm_up_steps(num_tokens, runner.max_num_seqs, runner.max_model_len)
    for lengths in tqdm(steps, desc="Compiling kernels", unit=" steps", disable=not progress):
        run_step(runner, lengths)
    compiled = time.monotonic()
    logger.info("%d steps to compile all kernels took %.1f s", len(steps), compiled - started)
    if maker is None:
        return
    try:
        num_graphs = _capture(runner, maker, padding_block, progress)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        logger.warning("decoding steps cannot be captured as graphs and run kernel by kernel: %s", error)
    else:
        logger.info("capturing %d decoding graphs took %.1f s", num_graphs, time.monotonic() - compiled)


def _capture(runner: ModelRunner, maker: GraphMaker, padding_block: int, progress: bool) -> int:
    """Captures decoding steps of all sizes; returns how many."""
    sizes = padded_sizes(runner.max_num_seqs)
    captured = runner.capture(maker, sizes, padding_block)
    return sum(
        1
        for _size in tqdm(
            captured, desc="Capturing graphs", unit=" graphs", total=len(sizes), disable=not progress
        )
    )


def run_step(runner: ModelRunner, lengths: Sequence[int]) -> None:
    """Runs one step of prompts of the given lengths, which all use the first blocks of the cache."""
    chunks: list[ScheduledChunk] = []
    for i, length in enumerate(lengths):
        params = KINDS[i % len(KINDS)] if len(lengths) > 1 else GREEDY
        request = Request(f"warm-up {i}", [0] * length, params, max_model_len=length + 1)
        request.block_ids = list(range(-(-length // runner.block_size)))
        chunks.append(ScheduledChunk(request, 0, length, True))
    runner.submit(SchedulerOutput(chunks, sum(lengths), [])).result()
    runner.execute(SchedulerOutput([], 0, [chunk.request.request_id for chunk in chunks]))

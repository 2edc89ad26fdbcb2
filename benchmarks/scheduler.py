"""What the engine itself costs per running request and step: schedule() + update() on a fake model.

    python benchmarks/scheduler.py [--requests 256] [--steps 500]

The bound that the design sets is 10 microseconds per running request and step at 256 requests.
Prefills, admissions and ends are part of the measured steps. For scale, the same run measures a
bare loop that appends one token to a list per request: what Python charges for touching each once.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

from quire.engine.block_manager import BlockManager
from quire.engine.request import Request
from quire.engine.sampling_params import SamplingParams
from quire.engine.scheduler import Scheduler
from quire.engine.step_data import ModelRunnerOutput

BLOCK_SIZE = 16


def make_scheduler(num_requests: int, max_len: int) -> Scheduler:
    """A scheduler whose pool holds all requests at full length."""
    return Scheduler(
        BlockManager(num_requests * -(-max_len // BLOCK_SIZE), BLOCK_SIZE),
        max_num_seqs=num_requests,
        max_num_batched_tokens=8192,
        max_num_waiting=1 << 31,
        clock=time.monotonic,
    )


def measure(num_requests: int, num_steps: int) -> list[float]:
    """Microseconds per running request of each step, in steady state: who ends is replaced."""
    rng = random.Random(0)
    scheduler = make_scheduler(num_requests, 2048)
    params = SamplingParams(max_tokens=512, temperature=0.0, stop_token_ids=[7])
    arrivals = 0
    figures: list[float] = []
    for step in range(num_steps):
        while len(scheduler.requests) < num_requests:
            prompt = [rng.randrange(8, 30000) for _ in range(rng.randrange(64, 512))]
            limit = len(prompt) + rng.randrange(64, 512)
            request = Request(str(arrivals), prompt, params, max_model_len=limit, arrival=arrivals)
            scheduler.add(request)
            arrivals += 1
        started = time.perf_counter()
        scheduled = scheduler.schedule()
        middle = time.perf_counter()
        output = ModelRunnerOutput([step + 8 if chunk.samples else None for chunk in scheduled.chunks])
        resumed = time.perf_counter()
        scheduler.update(scheduled, output)
        elapsed = middle - started + time.perf_counter() - resumed
        figures.append(elapsed * 1e6 / num_requests)
    return figures[num_steps // 10 :]


def bare_loop(num_requests: int, num_steps: int) -> list[float]:
    """Microseconds per list append, in a loop over as many lists."""
    lists: list[list[int]] = [[] for _ in range(num_requests)]
    figures: list[float] = []
    for step in range(num_steps):
        started = time.perf_counter()
        for values in lists:
            values.append(step)
        figures.append((time.perf_counter() - started) * 1e6 / num_requests)
    return figures


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    floor = statistics.median(bare_loop(args.requests, args.steps))
    print(f"{args.requests} running requests, {args.steps} steps; microseconds per request and step")
    print(f"{'':24}{'median':>8}{'mean':>8}{'p99':>8}{'x bare loop':>13}")
    figures = sorted(measure(args.requests, args.steps))
    median, p99 = statistics.median(figures), figures[int(len(figures) * 0.99)]
    mean = statistics.mean(figures)
    print(f"{'schedule + update':24}{median:8.2f}{mean:8.2f}{p99:8.2f}{median / floor:13.0f}")
    print(f"{'bare loop':24}{floor:8.3f}")


if __name__ == "__main__":
    main()

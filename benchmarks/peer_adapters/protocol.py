"""How `peers.py` talks to an engine in a process of its own: JSON lines, on stdin and stdout.

An adapter is started with one argument, a JSON object of `Settings`. It loads its engine, says
`{"ready": {...}}` with what should stand in the report, and then answers each line
`{"batch": 8, "seed": "5"}` with `{"first": seconds, "whole": seconds}`: the time of that many requests
with one output token each, and the time of as many others with all output tokens. A line with
`"warm_up": true` is answered with `{}` when a few tokens have been made.

Nothing but the standard library is imported here, because each peer has its own environment.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Prompts = list[list[int]]


@dataclass(frozen=True)
class Settings:
    """What an adapter is told.

    Attributes:
        model: The checkpoint, a folder.
        weights: The entry's name for the format of the weights.
        home: The peer's environment or build.
        threads: CPU threads.
        cpus: The CPUs that the process is bound to.
        prompt: Tokens per prompt.
        output: Tokens per output.
        batches: Numbers of requests at once.
        vocab_size: Prompts are drawn from so many tokens.
    """

    model: str
    weights: str
    home: str
    threads: int
    cpus: list[int]
    prompt: int
    output: int
    batches: list[int]
    vocab_size: int


def settings() -> Settings:
    """Those of this process."""
    return Settings(**json.loads(sys.argv[1]))


def make_prompts(given: Settings, batch: int, seed: str) -> Prompts:
    """Random prompts, different for each seed, so that no prefix cache helps; the same for all engines."""
    rng = random.Random(seed)
    return [[rng.randrange(300, given.vocab_size) for _ in range(given.prompt)] for _ in range(batch)]


def take_stdout() -> Callable[[dict[str, Any]], None]:
    """Keeps stdout for the protocol: what libraries print goes to stderr from here on."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    return send


def serve(
    given: Settings,
    send: Callable[[dict[str, Any]], None],
    report: dict[str, str],
    generate: Callable[[Prompts, int], int],
) -> None:
    """Answers until stdin ends.

    Args:
        given: This process's settings.
        send: What `take_stdout` returned.
        report: The engine's version, and what else should stand in the report.
        generate: Runs prompts at once, each to so many output tokens, whatever they are; returns how
            many came out, so that an engine that stops early is found out.
    """

    def timed(batch: int, seed: str, num_outputs: int) -> float:
        prompts = make_prompts(given, batch, seed)
        started = time.perf_counter()
        produced = generate(prompts, num_outputs)
        elapsed = time.perf_counter() - started
        if produced != batch * num_outputs:
            raise RuntimeError(f"{produced} tokens came out instead of {batch} x {num_outputs}")
        return elapsed

    send({"ready": report})
    for line in sys.stdin:
        order = json.loads(line)
        batch, seed = order["batch"], order["seed"]
        if order.get("warm_up"):
            timed(batch, f"{seed}.{batch}.warm", 4)
            send({})
            continue
        first = timed(batch, f"{seed}.{batch}.first", 1)
        send({"first": first, "whole": timed(batch, f"{seed}.{batch}.whole", given.output)})

"""What an engine says of itself after each step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class EngineStats:
    """Gauges of the moment and counters since the engine started.

    Attributes:
        pid: The engine's process.
        num_running, num_waiting: Requests.
        num_blocks, num_free_blocks, num_cached_blocks: Of the block pool. Free ones can be
            allocated; cached ones hold content that can be found again, whether in use or free.
        prefix_cache_queries, prefix_cache_hits: Counters, in tokens.
        num_preemptions, prompt_tokens, generation_tokens, num_steps: Counters.
        step_tokens: Tokens of the last step.
    """

    pid: int = 0
    num_running: int = 0
    num_waiting: int = 0
    num_blocks: int = 0
    num_free_blocks: int = 0
    num_cached_blocks: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    num_preemptions: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    num_steps: int = 0
    step_tokens: int = 0

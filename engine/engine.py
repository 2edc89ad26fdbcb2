"""The engine: requests in, steps, token deltas out."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import RankFailed
from .outputs import FinishReason
from .request import FinishedRequest, Request
from .sampling_params import SEED_LIMIT, SamplingParams
from .scheduler import ModelRunnerOutput, ScheduledChunk, Scheduler, SchedulerOutput, TokenDelta
from .stats import EngineStats

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """Executes a step: `ModelRunner`, or a fake."""

    def execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        """Computes the scheduled chunks. Running a step again must be harmless."""
        ...


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request as it reaches the engine: checked, tokenised, one per choice.

    Attributes:
        arrival_time: Seconds of the monotonic clock, which all processes of a machine share.
        leader_id: For a later choice of a prompt: the first choice, whose blocks it shares.
    """

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    priority: int = 0
    cache_salt: str | None = None
    arrival_time: float = 0.0
    leader_id: str | None = None


def split_choices(
    ids: Sequence[str],
    prompt_token_ids: list[int],
    params: SamplingParams,
    *,
    priority: int = 0,
    cache_salt: str | None = None,
    arrival_time: float = 0.0,
) -> list[EngineRequest]:
    """One engine request per choice; the later ones follow the first, to share its blocks."""
    return [
        EngineRequest(
            choice_id,
            prompt_token_ids,
            params.for_choice(index),
            priority,
            cache_salt,
            arrival_time,
            ids[0] if index else None,
        )
        for index, choice_id in enumerate(ids)
    ]


class Engine:
    """Runs steps over a scheduler and a runner.

    Args:
        scheduler: Holds all policy.
        runner: Holds all tensors.
        max_model_len: Tokens of a request, prompt and output.
        eos_token_ids: The model's end-of-sequence tokens.
        seed: Seeds the seeds of requests without one; None takes the system's randomness.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        *,
        max_model_len: int,
        eos_token_ids: Sequence[int],
        seed: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.max_model_len = max_model_len
        self.eos_token_ids = tuple(eos_token_ids)
        self.clock = clock
        self._seeds = random.Random(seed)
        self._num_arrivals = 0
        self._stats = EngineStats(pid=os.getpid())

    @property
    def has_unfinished(self) -> bool:
        """Whether there is work."""
        return self.scheduler.has_unfinished

    def add_request(self, request: EngineRequest) -> None:
        """Queues a request that `check_request` has passed. Raises `Overloaded` if the queue is full."""
        leader = self.scheduler.requests.get(request.leader_id) if request.leader_id else None
        self._num_arrivals += 1
        self.scheduler.add(
            Request(
                request.request_id,
                request.prompt_token_ids,
                request.params,
                max_model_len=self.max_model_len,
                eos_token_ids=self.eos_token_ids,
                priority=request.priority,
                cache_salt=request.cache_salt,
                leader=leader,
                seed=self._seeds.randrange(SEED_LIMIT),
                arrival=self._num_arrivals,
                arrival_time=request.arrival_time or self.clock(),
            )
        )

    def abort(self, request_id: str, reason: FinishReason = "abort") -> None:
        """Ends a request and frees its blocks; unknown ids are those that have ended already."""
        self.scheduler.abort(request_id, reason)

    def take_finished(self) -> list[FinishedRequest]:
        """The figures of the requests that have ended since the last call."""
        return self.scheduler.take_finished()

    def step(self) -> list[TokenDelta]:
        """One step: schedule, execute, update."""
        scheduled = self.scheduler.schedule()
        output = self._execute(scheduled)
        deltas = self.scheduler.update(scheduled, output)
        self._count(scheduled, deltas)
        return deltas

    def stats(self) -> EngineStats:
        """The figures of this moment. The object is the engine's own and changes with the next step."""
        stats, manager = self._stats, self.scheduler.block_manager
        stats.num_running = len(self.scheduler.running)
        stats.num_waiting = len(self.scheduler.waiting)
        stats.num_blocks = manager.pool.num_blocks
        stats.num_free_blocks = manager.pool.num_free_blocks
        stats.num_cached_blocks = manager.pool.num_cached_blocks
        stats.prefix_cache_queries = manager.num_prefix_queries
        stats.prefix_cache_hits = manager.num_prefix_hits
        stats.num_preemptions = self.scheduler.num_preemptions
        return stats

    def reset_prefix_cache(self) -> None:
        """Forgets the contents of all blocks that are not in use."""
        self.scheduler.block_manager.pool.forget_free_contents()

    def _count(self, scheduled: SchedulerOutput, deltas: Sequence[TokenDelta]) -> None:
        stats = self._stats
        stats.num_steps += 1
        stats.step_tokens = scheduled.num_tokens
        for delta in deltas:
            stats.generation_tokens += len(delta.token_ids)
        for chunk in scheduled.chunks:
            if chunk.samples and chunk.end == chunk.request.num_prompt_tokens:
                stats.prompt_tokens += chunk.end

    def _execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        """Executes a step; if it raises, finds the requests at fault, and only they fail.

        Raises:
            RankFailed: One of several ranks is gone, without which nothing can be executed.
        """
        try:
            return self.runner.execute(scheduled)
        except RankFailed:
            raise
        except Exception:
            logger.exception("a step of %d requests failed; looking for the cause", len(scheduled.chunks))
        output = ModelRunnerOutput([None] * len(scheduled.chunks))
        self._bisect(scheduled.chunks, 0, output)
        return output

    def _bisect(self, chunks: list[ScheduledChunk], offset: int, output: ModelRunnerOutput) -> None:
        """Executes halves of a failed step, and halves of those that fail again.

        A step writes only into slots of its own requests, so what is executed twice writes the
        same values twice.
        """
        if len(chunks) == 1:
            output.errors[offset] = "engine_error"
            logger.error("request %s failed", chunks[0].request.request_id)
            return
        middle = len(chunks) // 2
        for half, start in ((chunks[:middle], offset), (chunks[middle:], offset + middle)):
            num_tokens = sum(chunk.end - chunk.start for chunk in half)
            try:
                part = self.runner.execute(SchedulerOutput(half, num_tokens, []))
            except RankFailed:
                raise
            except Exception:
                logger.exception("%d of these requests failed again", len(half))
                self._bisect(half, start, output)
                continue
            output.sampled[start : start + len(half)] = part.sampled
            output.logprobs.update({start + i: v for i, v in part.logprobs.items()})
            output.prompt_logprobs.update({start + i: v for i, v in part.prompt_logprobs.items()})
            output.errors.update({start + i: v for i, v in part.errors.items()})
            output.pooled.update({start + i: v for i, v in part.pooled.items()})

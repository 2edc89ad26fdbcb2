"""The engine: requests in, steps, token deltas out."""

from __future__ import annotations

import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import DEADLINE_EXCEEDED, GrammarFailed, RankFailed
from .deadlines import Deadlines
from .outputs import FinishReason
from .request import FinishedRequest, Request, RequestStatus
from .sampling_params import SEED_LIMIT, SamplingParams
from .scheduler import Scheduler
from .stats import EngineStats
from .step_data import ModelRunnerOutput, ScheduledChunk, SchedulerOutput, TokenDelta
from .structured import GrammarCompiler

logger = logging.getLogger(__name__)


class Handle(Protocol):
    """A step that has been submitted."""

    def result(self) -> ModelRunnerOutput:
        """Waits for the step. May be called again."""
        ...


class Runner(Protocol):
    """Executes steps: `ModelRunner`, or a fake."""

    def execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        """Computes the scheduled chunks. Running a step again must be harmless."""
        ...

    def submit(self, scheduled: SchedulerOutput) -> Handle:
        """Starts to. Steps run in the order in which they are submitted.

        A chunk may reach a token that a step before it samples (-1 in `token_ids`), whose result nobody
        has asked for yet: the runner has that token.
        """
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
    tenant: str = ""
    weight: float = 1.0
    timeout: float | None = None


def split_choices(
    ids: Sequence[str],
    prompt_token_ids: list[int],
    params: SamplingParams,
    *,
    priority: int = 0,
    cache_salt: str | None = None,
    arrival_time: float = 0.0,
    tenant: str = "",
    weight: float = 1.0,
    timeout: float | None = None,
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
            tenant,
            weight,
            timeout,
        )
        for index, choice_id in enumerate(ids)
    ]


@dataclass(frozen=True, slots=True)
class _Step:
    """A step that the runner has."""

    scheduled: SchedulerOutput
    handle: Handle


class Engine:
    """Runs steps over a scheduler and a runner.

    With asynchronous scheduling the next step is scheduled and submitted while one runs, so that the runner
    never waits for the host; see `in_flight` for what the scheduler makes of that. Between two calls of
    `step` at most one step is in flight, and none if there are no requests.

    Args:
        scheduler: Holds all policy.
        runner: Holds all tensors.
        max_model_len: Tokens of a request, prompt and output.
        eos_token_ids: The model's end-of-sequence tokens.
        seed: Seeds the seeds of requests without one; None takes the system's randomness.
        async_scheduling: Whether to schedule a step while the one before it runs.
        clock: Seconds, monotonic.
        grammars: Compiles the constraints of structured outputs; without it, no request may have one.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        *,
        max_model_len: int,
        eos_token_ids: Sequence[int],
        seed: int | None = None,
        async_scheduling: bool = False,
        clock: Callable[[], float] = time.monotonic,
        grammars: GrammarCompiler | None = None,
    ) -> None:
        self.grammars = grammars
        self.scheduler = scheduler
        self.runner = runner
        self.max_model_len = max_model_len
        self.eos_token_ids = tuple(eos_token_ids)
        self.async_scheduling = async_scheduling
        self.clock = clock
        self._in_flight: deque[_Step] = deque()
        self._seeds = random.Random(seed)
        self._num_arrivals = 0
        self._deadlines = Deadlines()
        self._stats = EngineStats(pid=os.getpid())

    @property
    def has_unfinished(self) -> bool:
        """Whether there is any request."""
        return self.scheduler.has_unfinished

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything at once: not if all requests wait for their grammars."""
        if self.seconds_to_deadline == 0.0:
            return True
        return self.scheduler.has_schedulable or (self.grammars is not None and self.grammars.has_results)

    @property
    def seconds_to_deadline(self) -> float | None:
        """The time until a request runs out of it, 0 if one has; None if none can."""
        deadline = self._deadlines.next
        return None if deadline is None else max(0.0, deadline - self.clock())

    def add_request(self, request: EngineRequest) -> None:
        """Queues a request that `check_request` has passed. Raises `Overloaded` if the queue is full."""
        leader = self.scheduler.requests.get(request.leader_id) if request.leader_id else None
        self._num_arrivals += 1
        arrival_time = request.arrival_time or self.clock()
        added = Request(
            request.request_id,
            request.prompt_token_ids,
            request.params,
            max_model_len=self.max_model_len,
            eos_token_ids=self.eos_token_ids,
            priority=request.priority,
            cache_salt=request.cache_salt,
            tenant=request.tenant,
            weight=request.weight,
            leader=leader,
            seed=self._seeds.randrange(SEED_LIMIT),
            arrival=self._num_arrivals,
            arrival_time=arrival_time,
            deadline=None if request.timeout is None else arrival_time + request.timeout,
        )
        self.scheduler.add(added)
        self._deadlines.add(added)
        if added.awaits_grammar:
            assert self.grammars is not None, "this engine was built without a compiler of grammars"
            self.grammars.submit(added)

    def abort(self, request_id: str, reason: FinishReason = "abort") -> None:
        """Ends a request and frees its blocks; unknown ids are those that have ended already."""
        self.scheduler.abort(request_id, reason)
        if not self.scheduler.has_unfinished:
            self._take_all()

    def take_finished(self) -> list[FinishedRequest]:
        """The figures of the requests that have ended since the last call."""
        return self.scheduler.take_finished()

    def step(self) -> list[TokenDelta]:
        """One step: schedule, execute, update; asynchronously, the update is that of the step before.

        If all requests wait for their grammars, it waits for one of these first.
        """
        failed = self._end_expired()
        failed += self._take_grammars(wait=not failed and not self.scheduler.has_schedulable)
        if self.async_scheduling:
            return failed + self._step_ahead()
        scheduled = self.scheduler.schedule()
        try:
            output = self.runner.execute(scheduled)
        except RankFailed:
            raise
        except Exception:
            logger.exception("a step of %d requests failed", len(scheduled.chunks))
            return failed + self._find_culprits(scheduled)
        return failed + self._update(scheduled, output)

    def _step_ahead(self) -> list[TokenDelta]:
        """Submits a step, then takes in the result of the one before it."""
        deltas: list[TokenDelta] = []
        if self._in_flight and _needs_its_tokens(self._in_flight[-1].scheduled):
            deltas += self._take_all()
        scheduled = self.scheduler.schedule()
        if not scheduled.chunks:
            self.runner.execute(scheduled)  # which drops what is released
            return deltas + self._take_all()
        try:
            handle = self.runner.submit(scheduled)
        except RankFailed:
            raise
        except Exception:
            logger.exception("a step of %d requests failed", len(scheduled.chunks))
            deltas += self._take_all()
            return deltas + self._find_culprits(scheduled)
        self.scheduler.advance(scheduled)
        self._in_flight.append(_Step(scheduled, handle))
        if len(self._in_flight) > 1:
            deltas += self._take_oldest()
        if not self.scheduler.has_unfinished:
            deltas += self._take_all()
        return deltas

    def _take_all(self) -> list[TokenDelta]:
        """Waits for all steps in flight."""
        deltas: list[TokenDelta] = []
        while self._in_flight:
            deltas += self._take_oldest()
        return deltas

    def _take_oldest(self) -> list[TokenDelta]:
        """Waits for the oldest step in flight and takes its result in."""
        step = self._in_flight[0]
        try:
            output = step.handle.result()
        except RankFailed:
            raise
        except Exception:
            logger.exception("a step of %d requests failed", len(step.scheduled.chunks))
            self._take_back()
            return self._find_culprits(step.scheduled)
        self._in_flight.popleft()
        return self._update(step.scheduled, output)

    def _take_back(self) -> None:
        """Undoes all steps in flight: those after a failed one were computed from its tokens."""
        while self._in_flight:
            step = self._in_flight[-1]
            if len(self._in_flight) > 1:
                try:
                    step.handle.result()
                except RankFailed:
                    raise
                except Exception:
                    logger.exception("the step after it failed, too; its requests will run again")
            self._in_flight.pop()
            self.scheduler.in_flight.rewind(step.scheduled)

    def _update(self, scheduled: SchedulerOutput, output: ModelRunnerOutput) -> list[TokenDelta]:
        deltas = self.scheduler.update(scheduled, output)
        self._count(scheduled, deltas)
        return deltas

    def _end_expired(self) -> list[TokenDelta]:
        """Ends requests that have run out of time; their blocks are freed as those of aborted ones."""
        ended: list[TokenDelta] = []
        for request in self._deadlines.take_expired(self.clock()):
            self.scheduler.abort(request.request_id, "error")
            ended.append(
                TokenDelta(request.request_id, [], 0, finish_reason="error", error=DEADLINE_EXCEEDED)
            )
        return ended

    def _take_grammars(self, wait: bool) -> list[TokenDelta]:
        """Lets requests in whose grammars are compiled; ends those whose grammars cannot be."""
        failed: list[TokenDelta] = []
        if self.grammars is None:
            return failed
        for request, grammar in self.grammars.take(wait=wait):
            if grammar is not None:
                request.grammar = grammar
                self.scheduler.waiting.admit(request)
            elif self.scheduler.abort(request.request_id, "error"):
                code = GrammarFailed.default_code
                failed.append(TokenDelta(request.request_id, [], 0, finish_reason="error", error=code))
        return failed

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
            request = chunk.request
            if chunk.end == request.num_prompt_tokens and (chunk.samples or request.params.pooling):
                stats.prompt_tokens += chunk.end

    def _find_culprits(self, failed: SchedulerOutput) -> list[TokenDelta]:
        """Executes a step that raised in parts, so that only the requests at fault fail.

        Nothing is in flight. Requests that have ended or were preempted since are left out.
        """
        chunks = [
            chunk
            for chunk in failed.chunks
            if chunk.request.status is RequestStatus.RUNNING
            and chunk.request.num_computed_tokens == chunk.start
        ]
        scheduled = SchedulerOutput(chunks, sum(chunk.end - chunk.start for chunk in chunks), [])
        output = self._try_again(scheduled) if self.async_scheduling else None
        if output is None:
            output = ModelRunnerOutput([None] * len(chunks))
            if chunks:
                self._bisect(chunks, 0, output)
        return self._update(scheduled, output)

    def _try_again(self, scheduled: SchedulerOutput) -> ModelRunnerOutput | None:
        """What is left of a step that raised; None if it raises again.

        Whoever was at fault may have gone, and a GPU may blame a step for what another one did.

        Raises:
            RankFailed: One of several ranks is gone, without which nothing can be executed.
        """
        try:
            return self.runner.execute(scheduled)
        except RankFailed:
            raise
        except Exception:
            logger.exception("a step of %d requests failed again", len(scheduled.chunks))
            return None

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


def _needs_its_tokens(scheduled: SchedulerOutput) -> bool:
    """Whether the host must know a step's tokens before the next one can be computed."""
    return any(
        chunk.samples and chunk.request.adjusts_logits and not chunk.request.is_finished
        for chunk in scheduled.chunks
    )

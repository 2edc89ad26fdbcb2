"""Continuous batching: who runs how many tokens in the next step, and what follows from its results.

There are no prefill and decode modes. A request has known tokens and computed tokens, and each
step lets it catch up by as many as the budget and the pool allow. Chunked prefill, prefix-cache
hits and recomputation after preemption are all the same thing: catching up.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator

from ..errors import GrammarFailed, Overloaded
from .block_manager import BlockManager
from .fair_queue import TenantShares
from .headroom import Headroom
from .in_flight import StepsInFlight, drop_placeholders
from .outputs import FinishReason
from .request import FinishedRequest, Request, RequestStatus
from .step_budget import StepBudget
from .step_data import ModelRunnerOutput, ScheduledChunk, SchedulerOutput, TokenDelta
from .waiting_queue import WaitingQueue


class Scheduler:
    """Decides what runs; never sees a tensor.

    Running requests are kept in order of rank (priority, then first admission), so the victim of a
    preemption is always the last one: the first of the best priority always gets on, and nobody starves.
    A preempted request keeps its rank, and goes before others of its tenant when it waits. To keep
    it from being preempted over and over, it is admitted again only when free blocks leave room
    for growth: 2^k blocks for each running request after its k-th preemption, and from
    `headroom.RESERVE_ALL_AFTER` on for everything that the running requests may still generate.

    Tokens, and seats among the running requests, are shared between tenants as `fair_queue` says.

    A step is `schedule`, then `update` with its result. Or, where the next step is scheduled while this one
    runs: `schedule`, `advance`, and `update` once the result is in, after at most one more `schedule` and
    `advance`; `in_flight` says what holds then. The tokens of every request are the same either way.

    Args:
        block_manager: Owns the cache blocks.
        max_num_seqs: Requests running at once.
        max_num_batched_tokens: Tokens per step.
        max_num_prefill_tokens: Tokens of prompts in a step in which others decode, as `StepBudget` has it.
        max_num_waiting: Requests waiting at most.
        clock: Seconds, monotonic; injected so that tests can simulate time.
        whole_prompts: Never cut a prompt into chunks, as for encoders: `max_num_batched_tokens` must hold the
            longest one.
    """

    def __init__(
        self,
        block_manager: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_num_waiting: int,
        clock: Callable[[], float],
        max_num_prefill_tokens: int | None = None,
        whole_prompts: bool = False,
    ) -> None:
        self.block_manager = block_manager
        self.max_num_seqs = max_num_seqs
        self.budget = StepBudget(max_num_batched_tokens, max_num_prefill_tokens)
        self.max_num_waiting = max_num_waiting
        self.clock = clock
        self.whole_prompts = whole_prompts
        self.requests: dict[str, Request] = {}
        self.waiting = WaitingQueue(
            TenantShares(max_num_batched_tokens, max_num_seqs, block_manager.pool.num_blocks)
        )
        self.running: list[Request] = []
        self.in_flight = StepsInFlight(block_manager)
        self.headroom = Headroom(block_manager)
        self.num_preemptions = 0
        self._num_turns = 0
        self._released: list[str] = []
        self._finished: list[FinishedRequest] = []

    @property
    def max_num_batched_tokens(self) -> int:
        """Tokens of a step."""
        return self.budget.max_tokens

    @property
    def has_unfinished(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self.requests)

    @property
    def has_schedulable(self) -> bool:
        """Whether any request could run: those whose grammars are being compiled cannot."""
        return len(self.requests) > self.waiting.num_held

    def add(self, request: Request) -> None:
        """Queues a request. Raises `Overloaded` if the queue is full.

        Whether its tokens fit the context and the pool has been checked before.
        """
        if len(self.waiting) >= self.max_num_waiting:
            raise Overloaded(f"{len(self.waiting)} requests are waiting already; try again later")
        self.requests[request.request_id] = request
        leader = request.leader
        if leader is not None and (leader.is_finished or leader.first_token_time is not None):
            request.leader = None
        self.waiting.push(request)

    def abort(self, request_id: str, reason: FinishReason = "abort") -> bool:
        """Ends a request and frees its blocks; returns whether it was still there."""
        request = self.requests.get(request_id)
        if request is not None:
            self._finish(request, reason)
        return request is not None

    def take_finished(self) -> list[FinishedRequest]:
        """The figures of the requests that have ended since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def schedule(self) -> SchedulerOutput:
        """Chooses the next step's work: decoding requests first, then prompts, then new requests."""
        budget = self.budget.max_tokens
        chunks: dict[str, ScheduledChunk] = {}
        num_preemptions = self.num_preemptions
        behind: list[Request] = []
        block_size = self.block_manager.block_size
        for request in self._running_in_order():
            start = request.num_computed_tokens
            if request.num_pending_tokens and len(request.token_ids) >= request.max_num_tokens:
                continue  # the token that is being sampled is its last
            if len(request.token_ids) == start:
                continue  # all of its prompt is being pooled
            if len(request.token_ids) - start > 1:
                behind.append(request)
            elif budget and (
                start < len(request.block_ids) * block_size or self._make_room(request, start + 1, chunks)
            ):
                chunks[request.request_id] = ScheduledChunk(
                    request, start, start + 1, request.params.pooling is None
                )
                budget -= 1
        shares = self.waiting.shares
        if shares.is_shared:
            for request, start, end, _ in chunks.values():
                shares.charge(request, end - start)
            behind = shares.in_order(behind)
            if behind and self.num_preemptions == num_preemptions:
                self._admit_waiting(chunks, before=behind[0])
        for request in behind:
            # A preemption since may have taken this one, or freed the budget of a scheduled one.
            budget = self.budget.left(chunks.values(), request)
            if budget and request.status is RequestStatus.RUNNING:
                end = min(request.num_tokens, request.num_computed_tokens + budget)
                if self._make_room(request, end, chunks):
                    chunks[request.request_id] = _chunk(request, end)
                    shares.charge(request, end - request.num_computed_tokens)
        if self.num_preemptions == num_preemptions:
            self._admit_waiting(chunks)
        released, self._released = self._released, []
        return SchedulerOutput(list(chunks.values()), _num_tokens(chunks), released)

    def advance(self, scheduled: SchedulerOutput) -> None:
        """The runner has the step; `schedule` may go on before its result is in."""
        self.in_flight.advance(scheduled)

    def update(self, scheduled: SchedulerOutput, output: ModelRunnerOutput) -> list[TokenDelta]:
        """Takes a step's results in: tokens are appended, full blocks published, stops applied."""
        now = self.clock()
        deltas: list[TokenDelta] = []
        publish = self.block_manager.publish
        block_size = self.block_manager.block_size
        was_in_flight = self.in_flight.complete(scheduled)
        for i, (request, start, end, _samples) in enumerate(scheduled.chunks):
            is_running = request.status is RequestStatus.RUNNING
            if not is_running and (request.is_finished or not was_in_flight):
                continue  # it ended while the step ran
            error = output.errors.get(i)
            if error is not None:
                # Nothing of a failed step is published: the cache never holds what it computed.
                deltas.append(self._end(request, TokenDelta(request.request_id, [], 0, error=error), "error"))
                continue
            if is_running:  # and not preempted while the step ran
                if not was_in_flight:
                    request.num_computed_tokens = end
                if end // block_size != start // block_size:
                    publish(request, start, end)
            scores = output.prompt_logprobs.get(i, ())
            request.num_scored_tokens += len(scores)
            token = output.sampled[i]
            if token is None:
                if i in output.pooled:
                    request.first_token_time = now
                    delta = TokenDelta(request.request_id, [], request.num_cached_tokens)
                    delta.pooled = output.pooled[i]
                    deltas.append(self._end(request, delta, "stop"))
                elif scores:
                    deltas.append(TokenDelta(request.request_id, [], 0, prompt_logprobs=scores))
                continue
            if request.first_token_time is None:
                request.first_token_time = now
                self.waiting.release_followers(request)
            delta = TokenDelta(request.request_id, [token], request.num_cached_tokens)
            if scores:
                delta.prompt_logprobs = scores
            if i in output.logprobs:
                delta.logprobs = (output.logprobs[i],)
            deltas.append(self._append(request, end, token, delta))
        return deltas

    def _append(self, request: Request, position: int, token: int, delta: TokenDelta) -> TokenDelta:
        """Notes a sampled token at its position, and those forced behind it; ends the request if it was the
        last one."""
        if request.num_prompt_tokens >= request.max_num_tokens:
            # Only the prompt was to be scored.
            delta.token_ids, delta.logprobs = [], ()
            return self._end(request, delta, "length")
        if self._take(request, position, token, delta) or request.grammar is None:
            return delta
        # What the grammar forces is computed in the next step: the request has fallen behind by so much.
        while request.jumps_ahead and (forced := request.grammar.forced()):
            for token in forced:
                delta.token_ids.append(token)
                if self._take(request, request.num_tokens, token, delta):
                    return delta
        return delta

    def _take(self, request: Request, position: int, token: int, delta: TokenDelta) -> bool:
        """Notes a token that stands in the delta; returns whether the request has ended with it."""
        if request.num_pending_tokens:
            request.token_ids[position] = token
            request.num_pending_tokens -= 1
        else:
            request.token_ids.append(token)
        num_outputs = position + 1 - request.num_prompt_tokens
        if token in request.stop_token_ids and num_outputs > request.params.min_tokens:
            delta.stop_token = token
            self._end(request, delta, "stop")
        elif position + 1 >= request.max_num_tokens:
            self._end(request, delta, "length")
        elif request.grammar is not None and not request.grammar.advance(token):
            delta.token_ids, delta.error = [], GrammarFailed.default_code
            self._end(request, delta, "error")
        return request.is_finished

    def _end(self, request: Request, delta: TokenDelta, reason: FinishReason) -> TokenDelta:
        self._finish(request, reason)
        delta.finish_reason = reason
        return delta

    def _finish(self, request: Request, reason: FinishReason) -> None:
        """Ends a request: out of every queue, no blocks, its followers may go."""
        if request.status is RequestStatus.RUNNING:
            self._stop_running(request)
            self.in_flight.free(request)
        else:
            self.waiting.remove(request)
        drop_placeholders(request)
        request.status = RequestStatus.FINISHED
        request.finished_time = self.clock()
        self._finished.append(FinishedRequest.of(request, reason))
        del self.requests[request.request_id]
        if not self.requests:
            self.waiting.shares.forget()
        self.waiting.release_followers(request)

    def _stop_running(self, request: Request) -> None:
        position = bisect.bisect_left(self.running, request.rank, key=_rank)
        assert self.running[position] is request
        del self.running[position]
        self.waiting.shares.leaves_seat(request)
        self._released.append(request.request_id)

    def _running_in_order(self) -> Iterator[Request]:
        """Running requests by rank; preemption may shorten the list's tail while it is walked."""
        running = self.running
        i = 0
        while i < len(running):
            yield running[i]
            i += 1

    def _make_room(self, request: Request, num_tokens: int, chunks: dict[str, ScheduledChunk]) -> bool:
        """Grows a running request's table, preempting from the tail; False if it cannot run now."""
        while not self.block_manager.grow(request, num_tokens):
            if self.in_flight.will_free_blocks:
                return False  # a step later there is room, and nobody has to recompute anything
            victim = self.running[-1]
            self._preempt(victim)
            chunks.pop(victim.request_id, None)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        """Takes a running request's blocks; it will recompute its tokens when it runs again."""
        self._stop_running(request)
        self.block_manager.free(request)
        request.status = RequestStatus.WAITING
        request.num_computed_tokens = 0
        request.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.push(request)

    def _admit_waiting(self, chunks: dict[str, ScheduledChunk], before: Request | None = None) -> None:
        """Starts waiting requests, in order, while budget, seats and blocks last.

        With `before`, only those whose tenants' turns come before that of this running request.
        """
        manager, shares = self.block_manager, self.waiting.shares
        budget = self.budget.left(chunks.values())
        if not budget or not self.waiting:
            return
        reserved = self.headroom.reserved(self.running, 1)
        while budget and (request := self.waiting.peek()) is not None:
            if request.request_id in self._released:
                return  # it was preempted in this step
            if before is not None and not shares.goes_before(request, before):
                return
            if self.whole_prompts and request.num_tokens > budget:
                return
            num_preemptions = self.num_preemptions
            cached = self._find_room(request, reserved, chunks)
            if self.num_preemptions != num_preemptions:
                reserved = self.headroom.reserved(self.running, 1)
            if cached is None:
                return
            budget = self.budget.left(chunks.values(), request)
            if not budget:
                return  # one that was admitted decodes at once, and prompts beside it may take less
            num_cached = len(cached) * manager.block_size
            end = min(request.num_tokens, num_cached + budget)
            self.waiting.take(request)
            manager.admit(request, cached, end)
            self._start(request, num_cached)
            chunks[request.request_id] = _chunk(request, end)
            shares.charge(request, end - num_cached)
            budget -= end - num_cached
            reserved += self.headroom.growth(request, 1)

    def _find_room(
        self, request: Request, reserved: int, chunks: dict[str, ScheduledChunk]
    ) -> list[int] | None:
        """The cached blocks with which a waiting request can be admitted now, or None if it cannot.

        Where seats or blocks lack, those of other tenants yield theirs if they have more than their shares.
        """
        manager = self.block_manager
        while True:
            has_seat = len(self.running) < self.max_num_seqs
            if has_seat:
                cached = manager.find_cached_prefix(request)
                # A prompt is only begun if all of it fits, or half-computed prompts could lock the pool.
                needed = manager.num_blocks_to_admit(cached, request.num_tokens)
                if self.running:
                    needed += self.headroom.needed(request, self.running, reserved)
                if needed <= manager.pool.num_free_blocks:
                    return cached
                if self.in_flight.will_free_blocks:
                    return None
            victim = self.waiting.shares.choose_to_yield(request, self.running)
            if victim is None:
                return None
            self._preempt(victim)
            chunks.pop(victim.request_id, None)
            reserved = self.headroom.reserved(self.running, 1)

    def _start(self, request: Request, num_cached: int) -> None:
        if request.scheduled_time is None:
            self._num_turns += 1
            request.turn = self._num_turns
            request.scheduled_time = self.clock()
            request.num_cached_tokens = min(num_cached, request.num_prompt_tokens)
        request.status = RequestStatus.RUNNING
        bisect.insort(self.running, request, key=_rank)
        self.waiting.shares.takes_seat(request)

    def check_integrity(self) -> None:
        """Raises AssertionError if queues, tables and the pool disagree."""
        self.block_manager.check_integrity()
        assert sorted(self.running, key=_rank) == self.running, "running requests are out of order"
        assert len(self.running) + len(self.waiting) == len(self.requests), "a request is lost"
        self.waiting.shares.check_integrity(len(self.waiting), self.running)
        for request in self.requests.values():
            assert (request.status is RequestStatus.RUNNING) == bool(request.block_ids), request
            is_pooled = request.params.pooling is not None and bool(self.in_flight)
            assert request.num_computed_tokens < request.num_tokens + is_pooled, request
            self.in_flight.check_integrity(request)


def _rank(request: Request) -> tuple[int, int]:
    return request.rank


def _chunk(request: Request, end: int) -> ScheduledChunk:
    samples = end == len(request.token_ids) and request.params.pooling is None
    return ScheduledChunk(request, request.num_computed_tokens, end, samples)


def _num_tokens(chunks: dict[str, ScheduledChunk]) -> int:
    return sum(chunk.end - chunk.start for chunk in chunks.values())

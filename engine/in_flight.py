"""Steps whose results are not in yet: what the scheduler knows of them before it knows their tokens.

A step is *in flight* from `advance`, when the runner has it, until its result is taken in. The scheduler then
goes on as if it were done: its tokens count as computed, and where a token will be sampled stands a
placeholder. So the next step can be scheduled while this one runs, and the runner, which executes steps in
order, has the token by the time it is needed.

What holds:

- Placeholders are the last tokens of a request, as many as `num_pending_tokens` says, and at most one for
  each step in flight. Results come in the order of the steps, so the first placeholder is resolved first.
- Nothing that a placeholder stands for is hashed: a block is published when the result of the step that
  filled it is in, and then all of its tokens are known.
- A request that ends while steps are in flight may be in the last of them. What those find for it is dropped,
  its placeholders go, and its blocks stay its own until the last step that was in flight then is done.
- A preempted request's blocks go at once: the step that writes to them runs before the one that gets them.
  It keeps its placeholder, which is resolved as any other, before the request is scheduled again.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .block_manager import BlockManager
from .request import Request, RequestStatus

if TYPE_CHECKING:
    from .step_data import SchedulerOutput

PLACEHOLDER = -1
"""A token that is being sampled, in `Request.token_ids`."""


class StepsInFlight:
    """The steps in flight, oldest first, and the blocks that wait for them."""

    def __init__(self, block_manager: BlockManager) -> None:
        self._block_manager = block_manager
        self._steps: deque[SchedulerOutput] = deque()
        self._ended: list[tuple[SchedulerOutput, Request]] = []

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def will_free_blocks(self) -> bool:
        """Whether blocks become free when the steps in flight are done."""
        return bool(self._ended)

    def advance(self, scheduled: SchedulerOutput) -> None:
        """The runner has the step: it counts as computed, and its tokens as sampled."""
        self._steps.append(scheduled)
        for request, _start, end, samples in scheduled.chunks:
            request.num_computed_tokens = end
            if samples:
                request.token_ids.append(PLACEHOLDER)
                request.num_pending_tokens += 1

    def complete(self, scheduled: SchedulerOutput) -> bool:
        """The step is done. Returns whether it was in flight; if so, it must be the oldest."""
        if not self._steps:
            return False
        assert self._steps[0] is scheduled, "results must come in the order of the steps"
        self._steps.popleft()
        self._free_after(scheduled)
        return True

    def rewind(self, scheduled: SchedulerOutput) -> None:
        """The newest step is done but has failed: nothing of it counts as computed any more."""
        assert self._steps[-1] is scheduled, "steps must be rewound from the newest on"
        self._steps.pop()
        for request, start, _end, samples in scheduled.chunks:
            if request.status is RequestStatus.RUNNING:
                request.num_computed_tokens = start
            if samples and not request.is_finished:
                request.token_ids.pop()
                request.num_pending_tokens -= 1
        self._free_after(scheduled)

    def free(self, request: Request) -> None:
        """Frees the blocks of a request that has ended, once no step writes to them."""
        if self._steps:
            self._ended.append((self._steps[-1], request))
        else:
            self._block_manager.free(request)

    def _free_after(self, scheduled: SchedulerOutput) -> None:
        for step, request in self._ended:
            if step is scheduled:
                self._block_manager.free(request)
        self._ended = [(step, request) for step, request in self._ended if step is not scheduled]

    def check_integrity(self, request: Request) -> None:
        """Raises AssertionError if a request's placeholders are not as they must be."""
        num = request.num_pending_tokens
        known = len(request.token_ids) - num
        assert num <= len(self._steps), f"{request} waits for tokens that nobody samples"
        assert request.token_ids[known:] == [PLACEHOLDER] * num, request
        assert PLACEHOLDER not in request.token_ids[:known], f"{request} has lost a token"
        assert len(request.block_hashes) * self._block_manager.block_size <= known, (
            f"{request} has hashes of tokens that are not known"
        )


def drop_placeholders(request: Request) -> None:
    """Forgets the tokens that are being sampled for a request that has ended."""
    if request.num_pending_tokens:
        del request.token_ids[-request.num_pending_tokens :]
        request.num_pending_tokens = 0

"""Stand-ins with no weights, which make engine tests fast and exact."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quire.engine.block_manager import BlockManager
from quire.engine.request import Request
from quire.engine.sampling_params import SamplingParams
from quire.engine.scheduler import Scheduler
from quire.engine.step_data import ModelRunnerOutput, ScheduledChunk, SchedulerOutput

if TYPE_CHECKING:
    from torch import Tensor

VOCAB_SIZE = 97


class FakeClock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def echo_next_token(token_ids: list[int]) -> int:
    """The KV-echo model's next token: a hash of all tokens and their positions."""
    value = 17
    for position, token in enumerate(token_ids):
        value = (value * 31 + token * 7 + position) % 1_000_003
    return value % VOCAB_SIZE


def echo_generate(prompt: list[int], num_tokens: int) -> list[int]:
    """What the KV-echo model generates for a prompt on its own, with no engine at all."""
    token_ids = list(prompt)
    for _ in range(num_tokens):
        token_ids.append(echo_next_token(token_ids))
    return token_ids[len(prompt) :]


class EchoRunner:
    """A runner whose model writes each token's id into its cache slot and reads all slots back.

    The next token is a hash of what stands in the sequence's slots, read through its block table.
    Any aliased, stale or missing block changes the output. Freed blocks are not cleared, so stale
    content is there to be found.

    A submitted step is as late as it can be: what it needs of the host is copied at once, and it runs
    when its result is asked for.

    Attributes:
        fail: The error code that a request's chunk gets, or None.
        raises: Whether a request makes its step raise.
        raises_late: Whether a submitted step raises when it runs, and not when it is submitted.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.slots = [-1] * (num_blocks * block_size)
        self.block_size = block_size
        self.fail: Callable[[Request], str | None] = lambda _request: None
        self.raises: Callable[[Request], bool] = lambda _request: False
        self.raises_late = False
        self.last_tokens: dict[str, int] = {}
        self._queue: list[EchoHandle] = []

    def execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        """Runs one step: all writes first, then all reads, as a layer of a real model does."""
        handle = EchoHandle(self, scheduled)
        self._check(scheduled)
        return handle.result()

    def submit(self, scheduled: SchedulerOutput) -> EchoHandle:
        """Queues a step."""
        if not self.raises_late:
            self._check(scheduled)
        handle = EchoHandle(self, scheduled)
        self._queue.append(handle)
        return handle

    def run_until(self, handle: EchoHandle) -> None:
        """Runs what has been submitted, in order."""
        while handle in self._queue:
            self._queue.pop(0).run()

    def _check(self, scheduled: SchedulerOutput) -> None:
        if any(self.raises(chunk.request) for chunk in scheduled.chunks):
            raise RuntimeError("a kernel blew up")


class EchoHandle:
    """A step of the `EchoRunner`."""

    def __init__(self, runner: EchoRunner, scheduled: SchedulerOutput) -> None:
        self.runner = runner
        self.scheduled = scheduled
        self.output: ModelRunnerOutput | None = None
        self._tokens = [chunk.request.token_ids[chunk.start : chunk.end] for chunk in scheduled.chunks]
        self._slots = [self._slots_of(chunk) for chunk in scheduled.chunks]

    def result(self) -> ModelRunnerOutput:
        """Runs the step if it has not run."""
        self.runner.run_until(self)
        if self.output is None:
            self.runner._check(self.scheduled)  # pyright: ignore[reportPrivateUsage]
            self.run()
        assert self.output is not None
        return self.output

    def run(self) -> None:
        """Does what the step does."""
        runner, chunks = self.runner, self.scheduled.chunks
        if runner.raises_late and any(runner.raises(chunk.request) for chunk in chunks):
            return  # `result` will say so
        for chunk, tokens, slots in zip(chunks, self._tokens, self._slots, strict=True):
            for slot, token in zip(slots[chunk.start :], tokens, strict=True):
                known = token if token >= 0 else runner.last_tokens.get(chunk.request.request_id, 0)
                runner.slots[slot] = known
        output = ModelRunnerOutput([None] * len(chunks))
        for i, (chunk, slots) in enumerate(zip(chunks, self._slots, strict=True)):
            if chunk.samples:
                token = echo_next_token([runner.slots[slot] for slot in slots])
                output.sampled[i] = runner.last_tokens[chunk.request.request_id] = token
            error = runner.fail(chunk.request)
            if error is not None:
                output.errors[i] = error
        self.output = output

    def _slots_of(self, chunk: ScheduledChunk) -> list[int]:
        size, blocks = self.runner.block_size, chunk.request.block_ids
        return [blocks[p // size] * size + p % size for p in range(chunk.end)]


class EchoModel:
    """The KV-echo model over tensors, for `ModelRunner(EchoModel(), [echo_cache(...)], ...)`.

    Its logits are 1 for the next token and small random numbers for the others.
    """

    def forward(self, input_ids: Tensor, kv_caches: list[Tensor], meta: Any) -> Tensor:
        """Writes each token's id into its slot, then reads each sequence back through its block table."""
        import torch

        slots = kv_caches[0][0, :, 0, :, 0]
        size = meta.block_size
        slots[meta.slot_mapping // size, meta.slot_mapping % size] = input_ids.float()
        hidden = torch.zeros(len(input_ids), 1)
        starts, lengths = meta.query_start.tolist(), meta.seq_lens.tolist()
        for s, length in enumerate(lengths):
            blocks = meta.block_tables[s, : -(-length // size)].long()
            known: list[int] = [int(token) for token in slots[blocks].flatten().tolist()[:length]]
            num = starts[s + 1] - starts[s]
            for i in range(num):
                hidden[starts[s] + i, 0] = echo_next_token(known[: length - num + i + 1])
        return hidden

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """`[R, vocab]`."""
        import torch

        next_tokens = hidden[:, :1].long()
        noise = (next_tokens * 7919 + torch.arange(VOCAB_SIZE) * 104729) % 1009 / 2018
        return noise.float().scatter_(1, next_tokens, 1.0)


def echo_cache(num_blocks: int, block_size: int) -> Tensor:
    """A cache for the KV-echo model, full of what is no token."""
    import torch

    return torch.full((2, num_blocks, 1, block_size, 1), -7.0)


def make_scheduler(
    *,
    num_blocks: int = 64,
    block_size: int = 4,
    max_num_seqs: int = 16,
    max_num_batched_tokens: int = 64,
    max_num_prefill_tokens: int | None = None,
    max_num_waiting: int = 1000,
    enable_prefix_caching: bool = True,
    clock: Callable[[], float] | None = None,
) -> Scheduler:
    """A scheduler over a small pool."""
    return Scheduler(
        BlockManager(num_blocks, block_size, enable_prefix_caching=enable_prefix_caching),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_prefill_tokens=max_num_prefill_tokens,
        max_num_waiting=max_num_waiting,
        clock=clock or FakeClock(),
    )


def make_request(
    request_id: str,
    prompt: list[int],
    *,
    max_tokens: int = 8,
    max_model_len: int = 128,
    arrival: int = 0,
    priority: int = 0,
    cache_salt: str | None = None,
    tenant: str = "",
    weight: float = 1.0,
    leader: Request | None = None,
    **params: Any,
) -> Request:
    """A greedy request, without stop tokens unless `params` has them."""
    return Request(
        request_id,
        prompt,
        SamplingParams(max_tokens=max_tokens, temperature=0.0, **params),
        max_model_len=max_model_len,
        arrival=arrival,
        priority=priority,
        cache_salt=cache_salt,
        tenant=tenant,
        weight=weight,
        leader=leader,
    )


def random_prompt(rng: random.Random, length: int) -> list[int]:
    """Token ids of the KV-echo model's vocabulary."""
    return [rng.randrange(VOCAB_SIZE) for _ in range(length)]

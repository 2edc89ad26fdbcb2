"""Stand-ins with no weights, which make engine tests fast and exact."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quire.engine.block_manager import BlockManager
from quire.engine.request import Request
from quire.engine.sampling_params import SamplingParams
from quire.engine.scheduler import ModelRunnerOutput, ScheduledChunk, Scheduler, SchedulerOutput

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
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.slots = [-1] * (num_blocks * block_size)
        self.block_size = block_size
        self.fail: Callable[[Request], str | None] = lambda _request: None

    def execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        """Runs one step: all writes first, then all reads, as a layer of a real model does."""
        for chunk in scheduled.chunks:
            for position in range(chunk.start, chunk.end):
                self.slots[self._slot(chunk.request, position)] = chunk.request.token_ids[position]
        output = ModelRunnerOutput([self._sample(chunk) for chunk in scheduled.chunks])
        for i, chunk in enumerate(scheduled.chunks):
            error = self.fail(chunk.request)
            if error is not None:
                output.errors[i] = error
        return output

    def _slot(self, request: Request, position: int) -> int:
        return request.block_ids[position // self.block_size] * self.block_size + position % self.block_size

    def _sample(self, chunk: ScheduledChunk) -> int | None:
        if not chunk.samples:
            return None
        return echo_next_token([self.slots[self._slot(chunk.request, p)] for p in range(chunk.end)])


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
    max_num_waiting: int = 1000,
    enable_prefix_caching: bool = True,
    clock: Callable[[], float] | None = None,
) -> Scheduler:
    """A scheduler over a small pool."""
    return Scheduler(
        BlockManager(num_blocks, block_size, enable_prefix_caching=enable_prefix_caching),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
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
    leader: Request | None = None,
) -> Request:
    """A greedy request without stop tokens."""
    return Request(
        request_id,
        prompt,
        SamplingParams(max_tokens=max_tokens, temperature=0.0),
        max_model_len=max_model_len,
        arrival=arrival,
        priority=priority,
        cache_salt=cache_salt,
        leader=leader,
    )


def random_prompt(rng: random.Random, length: int) -> list[int]:
    """Token ids of the KV-echo model's vocabulary."""
    return [rng.randrange(VOCAB_SIZE) for _ in range(length)]

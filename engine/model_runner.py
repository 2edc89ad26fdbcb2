"""Runs a scheduled step on the model: builds its input tensors, computes, samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels import cpu
from ..kernels.types import AttentionMetadata
from .pooler import Pooler
from .request import Request
from .sampler import NUMERICAL_ERROR, Sampler, gather_logprobs
from .scheduler import ModelRunnerOutput, RawLogprobs, ScheduledChunk, SchedulerOutput

LOGPROB_ROWS = 64
"""Prompt rows whose logits are held at once; a row has the size of the vocabulary."""


class Model(Protocol):
    """What the runner needs of a model; see `quire.models`."""

    def forward(self, input_ids: Tensor, kv_caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
        """Hidden states `[T, hidden]` of T packed tokens, whose keys and values enter the cache."""
        ...

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """fp32 `[R, vocab]` for R rows."""
        ...


class BlockTables:
    """The block tables of the running requests as one array, kept from step to step.

    A request owns a row from its first step until the scheduler says that its blocks are released.
    """

    def __init__(self, max_num_seqs: int, max_blocks: int) -> None:
        self.array: NDArray[np.int32] = np.zeros((max_num_seqs, max_blocks), dtype=np.int32)
        self._num_blocks = [0] * max_num_seqs
        self._row_of: dict[str, int] = {}
        self._free = list(range(max_num_seqs - 1, -1, -1))

    def row(self, request: Request) -> int:
        """The request's row, with all blocks that it holds by now."""
        row = self._row_of.get(request.request_id)
        if row is None:
            row = self._row_of[request.request_id] = self._free.pop()
            self._num_blocks[row] = 0
        known, held = self._num_blocks[row], len(request.block_ids)
        if known < held:
            self.array[row, known:held] = request.block_ids[known:]
            self._num_blocks[row] = held
        return row

    def release(self, request_ids: Sequence[str]) -> None:
        """Frees the rows of requests that hold no blocks any more."""
        for request_id in request_ids:
            row = self._row_of.pop(request_id, None)
            if row is not None:
                self._free.append(row)


class ModelRunner:
    """Owns the model, the cache tensors and the sampler. Knows no scheduling policy.

    Args:
        model: The model.
        kv_caches: One cache per layer, `[2, num_blocks, num_kv_heads, block_size, head_size]`.
        max_num_seqs: Most requests in a step.
        max_model_len: Most tokens of a request.
    """

    def __init__(
        self, model: Model, kv_caches: list[Tensor], *, max_num_seqs: int, max_model_len: int
    ) -> None:
        self.model = model
        self.kv_caches = kv_caches
        self.device = kv_caches[0].device
        self.block_size = kv_caches[0].shape[3]
        self.block_tables = BlockTables(max_num_seqs, -(-max_model_len // self.block_size))
        self.sampler = Sampler()
        self.pooler = Pooler()
        self.recorded: cpu.RecordedForward | None = None

    @torch.inference_mode()
    def record(self, num_tokens: int) -> str | None:
        """Records the forward pass on a CPU, so that a step is one call: see `kernels/cpu/recorder.py`.

        Args:
            num_tokens: The most tokens of a step.

        Returns:
            None, or the reason why it cannot be recorded; steps then run op by op.
        """
        reason = cpu.unavailable()
        if reason is not None:
            return reason
        try:
            self.recorded = cpu.RecordedForward(
                self.model.forward, self.kv_caches, self.block_size, num_tokens
            )
        except cpu.NotRecordable as reason:
            return str(reason)
        return None

    @torch.inference_mode()
    def execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        """Computes the step. Running it twice is harmless: the same slots get the same values."""
        self.block_tables.release(scheduled.released)
        self.pooler.release(scheduled.released)
        chunks = scheduled.chunks
        output = ModelRunnerOutput([None] * len(chunks))
        if not chunks:
            return output
        input_ids, meta = self._prepare(chunks)
        if self.recorded is None:
            hidden = self.model.forward(input_ids, self.kv_caches, meta)
        else:
            hidden = self.recorded(input_ids, meta)
        self._score_prompts(chunks, hidden, output)
        output.pooled = self.pooler.pool(chunks, hidden)
        if hidden.shape[0] > len(chunks):
            last_rows = np.array([chunk.end - chunk.start for chunk in chunks]).cumsum() - 1
            hidden = hidden[self._to_device(last_rows)]
        self._sample(chunks, hidden, output)
        return output

    def _prepare(self, chunks: Sequence[ScheduledChunk]) -> tuple[Tensor, AttentionMetadata]:
        """The step's tokens, and where each belongs."""
        tables = self.block_tables
        tokens: list[int] = []
        for chunk in chunks:
            tokens += chunk.request.token_ids[chunk.start : chunk.end]
        starts = np.array([chunk.start for chunk in chunks])
        ends = np.array([chunk.end for chunk in chunks])
        rows = np.array([tables.row(chunk.request) for chunk in chunks])
        lengths = ends - starts
        query_start = np.concatenate(([0], lengths.cumsum()))
        positions = np.arange(len(tokens)) + np.repeat(starts - query_start[:-1], lengths)
        block, offset = np.divmod(positions, self.block_size)
        slots = tables.array[np.repeat(rows, lengths), block].astype(np.int64) * self.block_size + offset
        longest = int(ends.max())
        meta = AttentionMetadata(
            positions=self._to_device(positions),
            slot_mapping=self._to_device(slots),
            query_start=self._to_device(query_start.astype(np.int32)),
            seq_lens=self._to_device(ends.astype(np.int32)),
            block_tables=self._to_device(tables.array[rows, : -(-longest // self.block_size)]),
            block_size=self.block_size,
            max_query_len=int(lengths.max()),
            max_seq_len=longest,
        )
        return self._to_device(np.array(tokens, dtype=np.int64)), meta

    def _to_device(self, array: NDArray[np.int32] | NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device)

    def _sample(self, chunks: Sequence[ScheduledChunk], hidden: Tensor, output: ModelRunnerOutput) -> None:
        """Samples for the chunks that reach their request's last known token.

        Args:
            chunks: The step's chunks.
            hidden: The last row of each chunk.
            output: Takes the tokens.
        """
        sampling = [
            i for i, chunk in enumerate(chunks) if chunk.samples and chunk.request.params.pooling is None
        ]
        if len(sampling) < len(chunks):
            # A NaN reaches all later rows through attention. In a chunk that does not sample, the
            # sampler would not see it, and its blocks would enter the prefix cache.
            failed = (~torch.isfinite(hidden).all(dim=-1)).nonzero().flatten().tolist()
            output.errors = dict.fromkeys(failed, NUMERICAL_ERROR)
        if not sampling:
            return
        rows = hidden if len(sampling) == len(chunks) else hidden[torch.tensor(sampling, device=self.device)]
        logits = self.model.compute_logits(rows)
        sampled = self.sampler.sample(logits, [chunks[i].request for i in sampling])
        for row, i in enumerate(sampling):
            output.sampled[i] = sampled.tokens[row]
        output.logprobs = {sampling[row]: entry for row, entry in sampled.logprobs.items()}
        output.errors.update({sampling[row]: error for row, error in sampled.errors.items()})

    def _score_prompts(
        self, chunks: Sequence[ScheduledChunk], hidden: Tensor, output: ModelRunnerOutput
    ) -> None:
        """Log-probabilities of prompt tokens: the row of token t scores token t + 1."""
        first_row = 0
        for i, chunk in enumerate(chunks):
            num = chunk.request.params.prompt_logprobs
            # After a preemption, what was scored before is computed again but not scored again.
            begin = max(chunk.start, chunk.request.num_scored_tokens)
            end = min(chunk.end, chunk.request.num_prompt_tokens - 1)
            if num is not None and end > begin:
                entries: list[RawLogprobs] = []
                for start in range(begin, end, LOGPROB_ROWS):
                    stop = min(start + LOGPROB_ROWS, end)
                    row = first_row + start - chunk.start
                    logits = self.model.compute_logits(hidden[row : row + stop - start])
                    targets = chunk.request.token_ids[start + 1 : stop + 1]
                    entries += gather_logprobs(logits, targets, [num] * (stop - start))
                output.prompt_logprobs[i] = entries
            first_row += chunk.end - chunk.start

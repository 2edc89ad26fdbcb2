"""Runs a scheduled step on the model: builds its input tensors, computes, samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels import cpu
from ..kernels.types import AttentionMetadata
from .block_tables import BlockTables, DeviceBlockTables
from .decode_graphs import DecodeGraphs, GraphMaker, Model
from .device_sampling import Draw, device_draw, draw_packed, needs_host, pack_draw_inputs
from .pending_sample import NUMERICAL_ERROR, PendingSample, PendingScores
from .pooler import Pooler, to_bytes
from .request import Request
from .sampler import Sampler, score
from .step_data import ModelRunnerOutput, ScheduledChunk, SchedulerOutput
from .transfers import transfers_for

LOGPROB_ROWS = 64
"""Prompt rows whose logits are held at once; a row has the size of the vocabulary."""


@dataclass(slots=True)
class StepHandle:
    """A step that has been submitted, and may still be running.

    Attributes:
        num_chunks: Chunks of the step.
        sampling: The chunks that sample, in the order of `sample`'s rows.
        sample: Their tokens.
        is_kept: Whether the device has noted them as the last ones of their requests.
        failed: bool `[num_chunks]`, which chunks computed something that is no number; None if all sample.
        prompt_scores: By chunk, the log-probabilities of its prompt tokens.
        pooled: By chunk, the vector of its prompt: fp32 `[hidden]`.
        wait: Returns when the copies to the host have arrived.
    """

    num_chunks: int
    sampling: list[int] = field(default_factory=list[int])
    sample: PendingSample | None = None
    is_kept: bool = False
    failed: Tensor | None = None
    prompt_scores: dict[int, list[PendingScores]] = field(default_factory=dict[int, list[PendingScores]])
    pooled: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    wait: Callable[[], None] | None = None

    def result(self) -> ModelRunnerOutput:
        """Waits for the step and returns what it found."""
        if self.wait is not None:
            self.wait()
        output = ModelRunnerOutput([None] * self.num_chunks)
        if self.failed is not None:
            # A NaN reaches all later rows through attention. In a chunk that does not sample, the
            # sampler would not see it, and its blocks would enter the prefix cache.
            failed = [i for i, is_failed in enumerate(self.failed.tolist()) if is_failed]
            output.errors = dict.fromkeys(failed, NUMERICAL_ERROR)
        for i, scores in self.prompt_scores.items():
            output.prompt_logprobs[i] = [entry for part in scores for entry in part.entries()]
        output.pooled = {i: to_bytes(vector) for i, vector in self.pooled.items()}
        if self.sample is not None:
            sampled, sampling = self.sample.finish(), self.sampling
            for row, i in enumerate(sampling):
                output.sampled[i] = sampled.tokens[row]
            output.logprobs = {sampling[row]: entry for row, entry in sampled.logprobs.items()}
            output.errors.update({sampling[row]: error for row, error in sampled.errors.items()})
        return output


class ModelRunner:
    """Owns the model, the cache tensors and the sampler. Knows no scheduling policy.

    Steps run in the order in which they are submitted. A token that a step samples stays on the device as
    its request's last one; where the next step is submitted before the host knows it (`token_ids` has -1
    there), it is read from there.

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
        self.max_num_seqs = max_num_seqs
        self.max_model_len = max_model_len
        self.block_tables = BlockTables(max_num_seqs, -(-max_model_len // self.block_size))
        self.sampler = Sampler()
        self.pooler = Pooler()
        self.draw: Draw | None = device_draw(self.device)
        self.recorded: cpu.RecordedForward | None = None
        self.graphs: DecodeGraphs | None = None
        self._transfers = transfers_for(self.device)
        # One more than there are rows: padding has a row, too.
        self._last_tokens = torch.zeros(max_num_seqs + 1, dtype=torch.int64, device=self.device)

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
    def capture(self, maker: GraphMaker, sizes: Sequence[int], padding_block: int) -> Iterator[int]:
        """Captures decoding steps, see `decode_graphs`; done when all sizes have been yielded.

        Args:
            maker: Makes the graphs.
            sizes: Numbers of requests.
            padding_block: A block of the caches that no request ever gets.
        """
        tables = DeviceBlockTables(self.block_tables, padding_block, self.device)
        graphs = DecodeGraphs(
            self.model,
            self.kv_caches,
            tables,
            self._last_tokens,
            max_model_len=self.max_model_len,
            draw=self.draw,
        )
        yield from graphs.capture(maker, sizes)
        tables.start()
        self.graphs = graphs

    def execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        """Computes the step. Running it twice is harmless: the same slots get the same values."""
        return self._start(scheduled).result()

    @torch.inference_mode()
    def submit(self, scheduled: SchedulerOutput) -> StepHandle:
        """Starts the step, and keeps its tokens on the device for the next one.

        On a GPU it returns before the step is done, unless the host takes part in sampling.
        """
        handle = self._start(scheduled)
        if handle.sample is not None and not handle.is_kept:
            self._keep_tokens(scheduled.chunks, handle.sampling, handle.sample.tokens)
        self._fetch(handle)
        return handle

    def _keep_tokens(self, chunks: Sequence[ScheduledChunk], sampling: Sequence[int], tokens: Tensor) -> None:
        """Notes the sampled tokens as the last ones of their requests."""
        rows = np.array([self.block_tables.row(chunks[i].request) for i in sampling])
        self._last_tokens.index_copy_(0, self._transfers.upload([rows])[0], tokens)

    @torch.inference_mode()
    def _start(self, scheduled: SchedulerOutput) -> StepHandle:
        """Launches the step's work."""
        self.block_tables.release(scheduled.released)
        self.pooler.release(scheduled.released)
        chunks = scheduled.chunks
        handle = StepHandle(len(chunks))
        if not chunks:
            return handle
        rows = np.array([self.block_tables.row(chunk.request) for chunk in chunks])
        handle.sampling = [i for i, chunk in enumerate(chunks) if chunk.samples]
        if self.graphs is not None:
            self.graphs.tables.follow(self._transfers)
        if (
            self.graphs is not None
            and scheduled.num_tokens == len(chunks) <= self.graphs.max_size
            and not any(map(_needs_states, chunks))
        ):
            self._replay(self.graphs, chunks, rows, handle)
        else:
            self._run(chunks, rows, handle)
        return handle

    def _replay(
        self,
        graphs: DecodeGraphs,
        chunks: Sequence[ScheduledChunk],
        rows: NDArray[np.int64],
        handle: StepHandle,
    ) -> None:
        """Runs a step of one token per request by its graph."""
        tokens = [chunk.request.token_ids[chunk.start] for chunk in chunks]
        starts = [chunk.start for chunk in chunks]
        best, greedy, logits = graphs.decode(np.array([tokens, starts, rows]), self._transfers)
        sampling, requests = handle.sampling, [chunks[i].request for i in handle.sampling]
        all_sample = len(sampling) == len(chunks)
        if not all_sample:
            handle.failed = ~torch.isfinite(best)
        if not sampling:
            return
        is_greedy = all(request.params.greedy for request in requests)
        if all_sample and (is_greedy or self.draw) and not any(map(needs_host, requests)):
            if not is_greedy:
                packed = pack_draw_inputs(requests, len(requests))
                greedy = graphs.draw_tokens(packed, self._transfers)
            if self.device.type == "cpu":
                # The next step overwrites these; on a GPU they have been fetched by then.
                best, greedy = best.clone(), greedy.clone()
            handle.sample, handle.is_kept = PendingSample(best, greedy), True
            return
        if not all_sample:
            logits = logits[self._transfers.upload([np.array(sampling)])[0]]
        self._sample(logits, requests, handle)

    def _run(self, chunks: Sequence[ScheduledChunk], rows: NDArray[np.int64], handle: StepHandle) -> None:
        """Runs any step, kernel by kernel or as the recorded pass."""
        input_ids, meta, last_rows = self._prepare(chunks, rows)
        if self.recorded is None:
            hidden = self.model.forward(input_ids, self.kv_caches, meta)
        else:
            hidden = self.recorded(input_ids, meta)
        self._score_prompts(chunks, hidden, handle)
        handle.pooled = self.pooler.pool(chunks, hidden)
        self._classify(chunks, handle, hidden.dtype)
        if hidden.shape[0] > len(chunks):
            hidden = hidden[last_rows]
        sampling = handle.sampling
        if len(sampling) < len(chunks):
            handle.failed = ~torch.isfinite(hidden).all(dim=-1)
            hidden = hidden[self._transfers.upload([np.array(sampling, dtype=np.int64)])[0]]
        if sampling:
            logits = self.model.compute_logits(hidden)
            self._sample(logits, [chunks[i].request for i in sampling], handle)

    def _classify(self, chunks: Sequence[ScheduledChunk], handle: StepHandle, dtype: torch.dtype) -> None:
        """Takes pooled states through the head where labels are wanted of them."""
        rows = [i for i in handle.pooled if chunks[i].request.params.classify]
        if rows:
            logits = self.model.compute_logits(torch.stack([handle.pooled[i] for i in rows]).to(dtype))
            # The next step overwrites the logits.
            handle.pooled.update(zip(rows, logits.clone(), strict=True))

    def _prepare(
        self, chunks: Sequence[ScheduledChunk], rows: NDArray[np.int64]
    ) -> tuple[Tensor, AttentionMetadata, Tensor]:
        """The step's tokens, where each belongs, and which is the last of each chunk."""
        tables = self.block_tables
        tokens: list[int] = []
        for chunk in chunks:
            tokens += chunk.request.token_ids[chunk.start : chunk.end]
        starts = np.array([chunk.start for chunk in chunks])
        ends = np.array([chunk.end for chunk in chunks])
        lengths = ends - starts
        query_start = np.concatenate(([0], lengths.cumsum()))
        positions = np.arange(len(tokens)) + np.repeat(starts - query_start[:-1], lengths)
        token_rows = np.repeat(rows, lengths)
        block, offset = np.divmod(positions, self.block_size)
        slots = tables.array[token_rows, block].astype(np.int64) * self.block_size + offset
        longest = int(ends.max())
        width = -(-longest // self.block_size)
        ids = np.array(tokens, dtype=np.int64)
        on_device = np.flatnonzero(ids < 0)
        arrays = [ids, positions, slots, query_start.astype(np.int32), ends.astype(np.int32)]
        arrays += [query_start[1:] - 1, on_device, token_rows[on_device]]
        arrays.append(tables.array[rows, :width] if self.graphs is None else rows)
        *inputs, last_rows, places, sources, table = self._transfers.upload(arrays)
        if self.graphs is not None:
            table = self.graphs.tables.of(table, width)
        input_ids, positions_, slots_, query_start_, seq_lens = inputs
        if len(on_device):
            input_ids.index_copy_(0, places, self._last_tokens[sources])
        meta = AttentionMetadata(
            positions=positions_,
            slot_mapping=slots_,
            query_start=query_start_,
            seq_lens=seq_lens,
            block_tables=table,
            block_size=self.block_size,
            max_query_len=int(lengths.max()),
            max_seq_len=longest,
        )
        return input_ids, meta, last_rows

    def _sample(self, logits: Tensor, requests: Sequence[Request], handle: StepHandle) -> None:
        """Starts sampling for the requests whose last known token was computed; logits are overwritten."""
        if self.draw is None or any(map(needs_host, requests)):
            handle.sample = self.sampler.start(logits, requests)
        else:
            (packed,) = self._transfers.upload([pack_draw_inputs(requests, len(requests))])
            handle.sample = PendingSample(logits.amax(dim=-1), draw_packed(self.draw, logits, packed))

    def _score_prompts(self, chunks: Sequence[ScheduledChunk], hidden: Tensor, handle: StepHandle) -> None:
        """Log-probabilities of prompt tokens: the row of token t scores token t + 1."""
        first_row = 0
        for i, chunk in enumerate(chunks):
            num = chunk.request.params.prompt_logprobs
            # After a preemption, what was scored before is computed again but not scored again.
            begin = max(chunk.start, chunk.request.num_scored_tokens)
            end = min(chunk.end, chunk.request.num_prompt_tokens - 1)
            if num is not None and end > begin:
                parts = handle.prompt_scores[i] = []
                for start in range(begin, end, LOGPROB_ROWS):
                    stop = min(start + LOGPROB_ROWS, end)
                    row = first_row + start - chunk.start
                    logits = self.model.compute_logits(hidden[row : row + stop - start])
                    targets = np.array(chunk.request.token_ids[start + 1 : stop + 1])
                    (tokens,) = self._transfers.upload([targets])
                    parts.append(score(logits, tokens, [num] * (stop - start)))
            first_row += chunk.end - chunk.start

    def _fetch(self, handle: StepHandle) -> None:
        """Starts the copies of a step's results to the host."""
        fetch = self._transfers.fetch
        for pending in (handle.sample, *(part for parts in handle.prompt_scores.values() for part in parts)):
            if pending is not None:
                pending.fetch(fetch)
        if handle.failed is not None:
            handle.failed = fetch(handle.failed)
        handle.pooled = {i: fetch(vector) for i, vector in handle.pooled.items()}
        handle.wait = self._transfers.fence()


def _needs_states(chunk: ScheduledChunk) -> bool:
    """Whether log-probabilities of prompt tokens are wanted of a chunk, or its hidden states."""
    request = chunk.request
    if request.params.pooling is not None:
        return True
    return request.params.prompt_logprobs is not None and chunk.start < request.num_prompt_tokens - 1

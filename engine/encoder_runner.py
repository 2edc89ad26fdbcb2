"""Runs a scheduled step on an encoder: whole texts in, a vector for each out. There is no cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..kernels.types import PackedSequences
from ..models.encoder import Encoder, EncoderBatch
from .pending_sample import NUMERICAL_ERROR
from .pooler import pool_whole, to_bytes
from .step_data import ModelRunnerOutput, ScheduledChunk, SchedulerOutput
from .transfers import transfers_for


@dataclass(slots=True)
class EncoderHandle:
    """A step that has been submitted, and may still be running.

    Attributes:
        vectors: For each chunk fp32 `[size]`.
        wait: Returns when the copies to the host have arrived.
    """

    vectors: list[Tensor]
    wait: Callable[[], None]

    def result(self) -> ModelRunnerOutput:
        """Waits for the step and returns what it found."""
        self.wait()
        output = ModelRunnerOutput([None] * len(self.vectors))
        for i, vector in enumerate(self.vectors):
            if torch.isfinite(vector).all():
                output.pooled[i] = to_bytes(vector)
            else:
                output.errors[i] = NUMERICAL_ERROR
        return output


class EncoderRunner:
    """Owns the model. Every chunk of a step is a whole text that is to be pooled.

    Args:
        model: The model.
        device: Where it is.
    """

    def __init__(self, model: Encoder, device: torch.device) -> None:
        self.model = model
        self.device = device
        self._transfers = transfers_for(device)

    def execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        """Computes the step. Nothing is kept, so running it twice is harmless."""
        return self.submit(scheduled).result()

    @torch.inference_mode()
    def submit(self, scheduled: SchedulerOutput) -> EncoderHandle:
        """Starts the step; on a GPU it returns before the step is done."""
        chunks = scheduled.chunks
        vectors: list[Tensor] = []
        if chunks:
            lengths = [chunk.end for chunk in chunks]
            states = self.model.forward(self._batch(chunks, lengths)).split(lengths)
            vectors = [self._transfers.fetch(vector) for vector in self._pool(chunks, states)]
        return EncoderHandle(vectors, self._transfers.fence())

    def _pool(self, chunks: Sequence[ScheduledChunk], states: Sequence[Tensor]) -> list[Tensor]:
        vectors: list[Tensor] = []
        for chunk, rows in zip(chunks, states, strict=True):
            params = chunk.request.params
            assert params.pooling is not None, "an encoder generates no text"
            vectors.append(pool_whole(rows, params.pooling))
        heads = [i for i, chunk in enumerate(chunks) if chunk.request.params.classify]
        if heads:
            logits = self.model.classify(torch.stack([vectors[i] for i in heads]).to(self.model.dtype))
            for i, row in zip(heads, logits, strict=True):
                vectors[i] = row
        return vectors

    def _batch(self, chunks: Sequence[ScheduledChunk], lengths: Sequence[int]) -> EncoderBatch:
        """The step's texts, one behind the other."""
        tokens: list[int] = []
        types = np.zeros(sum(lengths), dtype=np.int64)
        for request, start, end, _samples in chunks:
            assert start == 0, "an encoder's text comes whole"
            if request.params.second_text is not None:
                types[len(tokens) + request.params.second_text : len(tokens) + end] = 1
            tokens += request.token_ids[:end]
        starts = np.concatenate(([0], np.cumsum(lengths)))
        positions = np.arange(len(tokens)) - np.repeat(starts[:-1], lengths)
        ids, positions_, types_, starts_ = self._transfers.upload(
            [np.array(tokens, dtype=np.int64), positions, types, starts.astype(np.int32)]
        )
        return EncoderBatch(ids, positions_, types_, PackedSequences(starts_, max(lengths)))

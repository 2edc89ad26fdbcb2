"""Decoding steps as graphs: one launch by the host instead of some hundreds.

A step in which every request computes one token has the same kernels with the same shapes every time, but
for the number of requests. So it is captured once for each of a few numbers, and a batch is padded to the
next of them. What differs from step to step stands in buffers that stay where they are: the tokens, their
positions and the rows of their block tables come from the host; slots, lengths and block tables follow
from those inside the graph.

Padding is a request like others, at position 0 of a block that belongs to nobody, so no kernel has a
special case. Kernels that choose a grid by the longest sequence are captured with the longest that there
may be, and take the true lengths from `seq_lens` on the device.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels import ops
from ..kernels.types import AttentionMetadata
from .block_tables import DeviceBlockTables
from .device_sampling import NUM_DRAW_INPUTS, Draw, draw_packed
from .transfers import Transfers

Outputs = tuple[Tensor, ...]
Replay = Callable[[], Outputs]

HOST_BOUND_OPS = ("paged_attention", "moe")
"""Ops whose references read lengths on the host, which no graph can hold."""


class Model(Protocol):
    """What running a step needs of a model; see `quire.models`."""

    def forward(self, input_ids: Tensor, kv_caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
        """Hidden states `[T, hidden]` of T packed tokens, whose keys and values enter the cache."""
        ...

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """fp32 `[R, vocab]` for R rows."""
        ...


class GraphMaker(Protocol):
    """Makes something that can be launched again of a function that launches work."""

    def capture(self, run: Callable[[], Outputs]) -> Replay:
        """Records what `run` does to tensors.

        Returns:
            Does the same again, reading the same tensors, and returns the same outputs filled anew.
        """
        ...


class CudaGraphs:
    """CUDA graphs; their intermediate results share one pool of memory, as they never run together."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, run: Callable[[], Outputs]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = run()

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay


class RepeatedCalls:
    """Stands in for CUDA graphs where there is no GPU: calls the function again.

    As with a graph, the outputs are the same tensors every time.
    """

    def capture(self, run: Callable[[], Outputs]) -> Replay:
        outputs = tuple(output.clone() for output in run())

        def replay() -> Outputs:
            for kept, new in zip(outputs, run(), strict=True):
                kept.copy_(new)
            return outputs

        return replay


def padded_sizes(max_num_seqs: int) -> list[int]:
    """The batch sizes that are captured: 1, 2, 4, 8, steps of 8 up to 64, then of 16, and the largest."""
    sizes = [*(1, 2, 4), *range(8, 64, 8), *range(64, max_num_seqs, 16)]
    return [*(size for size in sizes if size < max_num_seqs), max_num_seqs]


def why_not_capturable(device: str) -> str | None:
    """Why decoding steps cannot be captured on a device, or None."""
    table = ops.resolved_table(device)
    slow = [name for name in HOST_BOUND_OPS if table[name].startswith("reference")]
    # A model without experts never calls the op for them.
    if "paged_attention" in slow:
        return "paged_attention runs on the reference kernel, which reads lengths on the host"
    return None


@dataclass(slots=True)
class _Graph:
    """One captured size.

    Attributes:
        inputs: int64 `[3, size]`: tokens (-1 for the row's last sampled one), positions, rows.
        replay: Gives best, tokens and logits.
        draw_inputs: int64 `[6, size]`, see `device_sampling`.
        draw: Draws tokens from the logits of the last replay; None where the host takes part in it.
    """

    inputs: Tensor
    replay: Replay
    draw_inputs: Tensor
    draw: Replay | None


class DecodeGraphs:
    """The captured decoding steps of a runner.

    Args:
        model: The model.
        kv_caches: Its caches, which hold the padding's block.
        tables: The block tables on the device.
        last_tokens: int64 `[max_num_seqs + 1]`, the token that the request of each row sampled last;
            the graphs read and write it.
        max_model_len: The longest sequence.
        draw: What draws tokens on the device, or None.
    """

    def __init__(
        self,
        model: Model,
        kv_caches: list[Tensor],
        tables: DeviceBlockTables,
        last_tokens: Tensor,
        *,
        max_model_len: int,
        draw: Draw | None,
    ) -> None:
        self.model = model
        self.kv_caches = kv_caches
        self.tables = tables
        self.last_tokens = last_tokens
        self.max_model_len = max_model_len
        self.draw = draw
        self.device = last_tokens.device
        self.block_size = kv_caches[0].shape[3]
        self._starts = torch.arange(len(last_tokens) + 1, dtype=torch.int32, device=self.device)
        self._graphs: dict[int, _Graph] = {}
        self._sizes: list[int] = []

    @property
    def max_size(self) -> int:
        """The most requests of a step; 0 before anything is captured."""
        return self._sizes[-1] if self._sizes else 0

    def capture(self, maker: GraphMaker, sizes: Sequence[int]) -> Iterator[int]:
        """Captures the given sizes, largest first, so that smaller ones fit into its memory.

        Yields:
            Each size, when it is captured.
        """
        for size in sorted(sizes, reverse=True):
            inputs = torch.zeros(3, size, dtype=torch.int64, device=self.device)
            inputs[2] = self.tables.padding_row
            draw_inputs = torch.zeros(NUM_DRAW_INPUTS, size, dtype=torch.int64, device=self.device)
            # What is compiled or allocated at the first call must not be a part of the graph.
            outputs = self._decode(inputs)
            if self.draw is not None:
                self._draw(self.draw, outputs[2], inputs, draw_inputs)
            replay = maker.capture(lambda inputs=inputs: self._decode(inputs))
            draw = None
            if self.draw is not None:
                logits, op = replay()[2], self.draw
                draw = maker.capture(
                    lambda logits=logits, inputs=inputs, extra=draw_inputs, op=op: (
                        self._draw(op, logits, inputs, extra),
                    )
                )
            self._graphs[size] = _Graph(inputs, replay, draw_inputs, draw)
            bisect.insort(self._sizes, size)
            yield size

    def decode(self, rows: NDArray[np.int64], transfers: Transfers) -> tuple[Tensor, Tensor, Tensor]:
        """Computes a step.

        Args:
            rows: int64 `[3, n]`: tokens (-1 for the last one that the row's request has sampled), their
                positions, and the rows of their block tables.
            transfers: The way to the device.

        Returns:
            For each of the n requests the largest logit, where it is, and all logits. The next step
            overwrites them.
        """
        num = rows.shape[1]
        graph = self._graph_for(num)
        padded = np.zeros(graph.inputs.shape, dtype=np.int64)
        padded[2] = self.tables.padding_row
        padded[:, :num] = rows
        graph.inputs.copy_(transfers.upload([padded])[0])
        best, tokens, logits = graph.replay()
        return best[:num], tokens[:num], logits[:num]

    def draw_tokens(self, packed: NDArray[np.int64], transfers: Transfers) -> Tensor:
        """Draws tokens from the logits of the step before, which has as many requests.

        Args:
            packed: int64 `[6, n]`, see `device_sampling.pack_draw_inputs`.
            transfers: The way to the device.
        """
        num = packed.shape[1]
        graph = self._graph_for(num)
        assert graph.draw is not None
        padded = np.zeros(graph.draw_inputs.shape, dtype=np.int64)
        padded[:, :num] = packed
        graph.draw_inputs.copy_(transfers.upload([padded])[0])
        return graph.draw()[0][:num]

    def _graph_for(self, num: int) -> _Graph:
        """The smallest graph that holds so many requests."""
        return self._graphs[self._sizes[bisect.bisect_left(self._sizes, num)]]

    def _decode(self, inputs: Tensor) -> Outputs:
        """What is captured: everything from the three inputs of each request to its token."""
        tokens, positions, rows = inputs
        num = tokens.shape[0]
        tokens = torch.where(tokens < 0, self.last_tokens[rows], tokens)
        tables = self.tables.of(rows, self.tables.tensor.shape[1])
        blocks = tables.gather(1, (positions // self.block_size)[:, None])[:, 0]
        meta = AttentionMetadata(
            positions=positions,
            slot_mapping=blocks.long() * self.block_size + positions % self.block_size,
            query_start=self._starts[: num + 1],
            seq_lens=(positions + 1).to(torch.int32),
            block_tables=tables,
            block_size=self.block_size,
            max_query_len=1,
            max_seq_len=self.max_model_len,
        )
        hidden = self.model.forward(tokens, self.kv_caches, meta)
        logits = self.model.compute_logits(hidden)
        best, greedy = ops.argmax(logits)
        self.last_tokens.index_copy_(0, rows, greedy)
        return best, greedy, logits

    def _draw(self, draw: Draw, logits: Tensor, inputs: Tensor, packed: Tensor) -> Tensor:
        """The other thing that is captured: tokens drawn from the step's logits."""
        tokens = draw_packed(draw, logits, packed)
        self.last_tokens.index_copy_(0, inputs[2], tokens)
        return tokens

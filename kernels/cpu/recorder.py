"""Recording a forward pass, and replaying it with one call.

A decoding step of a small model is some 200 ops of a few microseconds each, and a call from Python costs
about as much. So a pass is run once while a `Recorder` listens, at the largest number of tokens that a
step may have: ops leave themselves in a C++ program instead of computing, and take their outputs from the
recorder's buffers. A replay runs that program on the first rows of the same buffers, with one call. This
is what CUDA graphs are to a GPU, except that the number of tokens may differ from step to step.

The recorded code is the model's own, so a model has one description. What cannot be recorded (an op that
runs on the reference, a torch operation between ops) is noticed and refused; the step then runs op by op.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..types import AttentionMetadata
from .extension import _C

if TYPE_CHECKING:
    from numpy.typing import NDArray


class NotRecordable(Exception):
    """The pass does something that a program could not repeat."""


_VIEWS = frozenset(
    {"view", "_unsafe_view", "split_with_sizes", "slice", "select", "transpose", "expand", "detach", "alias"}
    | {"unsqueeze", "squeeze", "permute", "as_strided", "_reshape_alias", "t"}
)


class _OnlyViews(TorchDispatchMode):
    """Raises `NotRecordable` when torch computes anything."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is ever compiled; to shield it from that, torch would import its compiler (1 s)."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name: str = func.overloadpacket.__name__
        if name not in _VIEWS:
            raise NotRecordable(f"torch computes {name} between the ops")
        return func(*args, **(kwargs or {}))


_active: Recorder | None = None


def empty(shape: tuple[int, ...] | torch.Size, dtype: torch.dtype) -> Tensor:
    """An output of an op: new memory, or while recording a buffer of the recorder."""
    if _active is None:
        return torch.empty(shape, dtype=dtype)
    return _active.buffer(tuple(shape), dtype)


class Recorder:
    """Listens to one forward pass; a context manager.

    A buffer is used again as soon as no tensor of the pass refers to it, as memory is in an ordinary
    pass: the ops run in the recorded order, so an op that writes comes after all that read.

    Args:
        input_ids: Of the pass that is recorded; a replay has at most as many.
        meta: Of that pass. Its tensors are how ops know what differs from step to step.
    """

    def __init__(self, input_ids: Tensor, meta: AttentionMetadata) -> None:
        self._inputs = _StepInputs(input_ids, meta)
        self.program: _C.Program | None = None
        self._buffers: list[NDArray[np.uint8]] = []
        self._free: dict[int, list[NDArray[np.uint8]]] = {}
        self._only_views = _OnlyViews()

    @property
    def num_bytes(self) -> int:
        """What the buffers take."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor over a free buffer of the right size, else over a new one."""
        size = int(np.prod(shape)) * dtype.itemsize
        free = self._free.setdefault(size, [])
        if not free:
            free.append(np.empty(size, dtype=np.uint8))
            self._buffers.append(free[-1])
        memory = free.pop()
        lent = memory.view()  # dies with the last tensor over it
        weakref.finalize(lent, free.append, memory)
        return torch.frombuffer(lent, dtype=dtype).view(shape)

    def __enter__(self) -> Recorder:
        global _active
        self.program = _C.start_recording(*self._inputs.addresses)
        _active = self
        self._only_views.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _active
        self._only_views.__exit__(kind, error, traceback)
        _active = None
        _C.stop_recording()


class RecordedForward:
    """A model's `forward`, recorded: the same arguments, results bit for bit the same.

    Args:
        forward: Called once, as `forward(input_ids, kv_caches, meta)`.
        kv_caches: The caches, whose addresses the program keeps.
        block_size: Tokens per cache block.
        capacity: The most tokens of a step.

    Raises:
        NotRecordable: If the pass cannot be recorded; says why.
    """

    def __init__(
        self,
        forward: Callable[[Tensor, list[Tensor], AttentionMetadata], Tensor],
        kv_caches: list[Tensor],
        block_size: int,
        capacity: int,
    ) -> None:
        ids, positions, slots = torch.zeros(3, capacity, dtype=torch.int64)
        starts = torch.tensor([0, capacity], dtype=torch.int32)
        table = torch.zeros(1, -(-capacity // block_size), dtype=torch.int32)
        meta = AttentionMetadata(positions, slots, starts, starts[1:], table, block_size, capacity, capacity)
        recorder = Recorder(ids, meta)
        with recorder:
            try:
                self._hidden = forward(ids, kv_caches, meta)
            except RuntimeError as error:
                raise NotRecordable(str(error)) from error
        assert recorder.program is not None
        self._program = recorder.program
        self._recorder = recorder
        self._operands = forward, kv_caches  # the program knows only their addresses
        self.capacity = capacity

    @property
    def num_ops(self) -> int:
        """Ops of a step."""
        return self._program.num_ops

    @property
    def num_bytes(self) -> int:
        """What the buffers take."""
        return self._recorder.num_bytes

    def __call__(self, input_ids: Tensor, meta: AttentionMetadata) -> Tensor:
        """Computes a step of at most `capacity` tokens.

        Returns:
            `[T, hidden]`, a view that the next call overwrites.
        """
        inputs = _StepInputs(input_ids, meta)
        self._program.run(*inputs.addresses)
        return self._hidden[: input_ids.shape[0]]

    def profile(self, input_ids: Tensor, meta: AttentionMetadata) -> list[tuple[str, float]]:
        """Computes the step and returns each op's name and its seconds, in the order in which they ran."""
        inputs = _StepInputs(input_ids, meta)
        return self._program.profile(*inputs.addresses)


class _StepInputs:
    """A step's tensors as a program reads them; they live as long as this does.

    Raises:
        TypeError: If one has another dtype.
        ValueError: If they do not fit each other.
    """

    def __init__(self, input_ids: Tensor, meta: AttentionMetadata) -> None:
        tokens, num_seqs = input_ids.shape[0], meta.seq_lens.shape[0]
        longs = input_ids, meta.positions, meta.slot_mapping
        ints = meta.query_start, meta.seq_lens, meta.block_tables
        if any(x.dtype != torch.int64 for x in longs) or any(x.dtype != torch.int32 for x in ints):
            raise TypeError("input_ids, positions and slot_mapping must be int64, the others int32")
        if longs[1].shape[0] < tokens or longs[2].shape[0] < tokens:
            raise ValueError(f"{tokens} tokens need as many positions and slots")
        if ints[0].shape[0] != num_seqs + 1 or ints[2].shape[0] < num_seqs:
            raise ValueError(f"{num_seqs} sequences need {num_seqs + 1} starts and {num_seqs} block tables")
        longs = tuple(x.contiguous() for x in longs)
        ints = tuple(x.contiguous() for x in ints)
        self._tensors = longs, ints
        self.addresses = (
            *(x.data_ptr() for x in longs),
            tokens,
            *(x.data_ptr() for x in ints),
            ints[2].shape[1],
            num_seqs,
        )

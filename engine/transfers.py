"""Small arrays to the device and small results back, without waiting for the device.

On a CPU both are the same memory. To a GPU a step's inputs go as one copy from pinned memory, and its
results come back into pinned memory while the host prepares the next step; an event says when they are
there. Pinned memory comes from torch's allocator, which gives a block out again only when the copies that
read or write it are done, so nothing here is overwritten too early.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IntArray = NDArray[np.int32] | NDArray[np.int64]


class Transfers(Protocol):
    """Moves integers to the device and results back."""

    def upload(self, arrays: Sequence[IntArray]) -> list[Tensor]:
        """The arrays as tensors on the device, in their own dtypes and shapes."""
        ...

    def fetch(self, tensor: Tensor) -> Tensor:
        """A tensor on the host that holds the values once a `fence` taken later has been waited for."""
        ...

    def fence(self) -> Callable[[], None]:
        """A function that returns when everything fetched so far has arrived."""
        ...


class HostTransfers:
    """Where the model runs on the CPU: nothing moves."""

    def upload(self, arrays: Sequence[IntArray]) -> list[Tensor]:
        return [torch.from_numpy(array) for array in arrays]

    def fetch(self, tensor: Tensor) -> Tensor:
        return tensor

    def fence(self) -> Callable[[], None]:
        return _nothing


class CudaTransfers:
    """Copies over pinned memory on the current stream."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def upload(self, arrays: Sequence[IntArray]) -> list[Tensor]:
        sizes = [array.size for array in arrays]
        staged = torch.empty(sum(sizes), dtype=torch.int64, pin_memory=True)
        np.concatenate([array.ravel() for array in arrays], out=staged.numpy())
        parts = staged.to(self.device, non_blocking=True).split(sizes)
        return [
            (part.to(torch.int32) if array.dtype == np.int32 else part).view(array.shape)
            for part, array in zip(parts, arrays, strict=True)
        ]

    def fetch(self, tensor: Tensor) -> Tensor:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        return host

    def fence(self) -> Callable[[], None]:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event.synchronize


def transfers_for(device: torch.device) -> Transfers:
    """The way to and from a device."""
    return HostTransfers() if device.type == "cpu" else CudaTransfers(device)


def _nothing() -> None:
    """There is nothing to wait for."""

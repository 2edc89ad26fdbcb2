"""Tensor parallelism (Megatron-LM, Shoeybi et al., 2019): what ranks exchange, and the layers that do it.

Each rank is a process with a part of every layer: whole heads of each attention, some channels of each MLP,
some rows of the vocabulary. All ranks hold the whole residual stream, the same bit for bit. What a rank's
heads and channels add to it is known only there, so the projections that write to the stream are products
in parts, whose sums are exchanged. `sharding` says which part is whose.

Sums are gathered and added in the order of the ranks, in fp32 on CPUs. A collective that reduces on the way
adds in an order that depends on where an element lies in the message, and so on the size of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RankFailed
from ..kernels import ops
from .layers import Embedding, Linear, shape_only

EXCHANGE_TIMEOUT = timedelta(seconds=120)
"""A rank that is silent for so long in the middle of a step hangs: the others give up."""

IDLE_TIMEOUT = timedelta(days=3650)
"""Between steps a rank waits for as long as it takes; the end of another one ends the wait."""

LOOPBACK = "127.0.0.1"


class Ranks:
    """This process' place among the ranks, and its line to them. All of them call the same methods in turn.

    Args:
        rank: This one; 0 is the one that schedules and samples.
        size: How many there are.

    Raises:
        RankFailed: By every exchange, if another rank is gone or silent.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self._timeout = EXCHANGE_TIMEOUT
        self._control: Any = None
        self._data: Any = None

    def limit_patience(self, seconds: float) -> None:
        """Gives up on a rank that is silent for so long in the middle of a step; by default two minutes."""
        self._timeout = timedelta(seconds=seconds)

    def connect(self, rendezvous: Path, device: torch.device) -> None:
        """Finds the others, who must be about to call this, too.

        Args:
            rendezvous: A file in a folder of the user's own, the same for all ranks.
            device: Of the tensors that are exchanged: NCCL carries those of GPUs, gloo those of CPUs.
        """
        import torch.distributed as dist

        if not dist.is_available():
            raise RankFailed("tensor_parallel_size needs a torch that was built with torch.distributed")
        from torch._C._distributed_c10d import FileStore, PrefixStore

        store = FileStore(str(rendezvous), self.size)
        try:
            self._control = self._gloo(PrefixStore("control", store))
            self._data = self._control
            if device.type == "cuda":
                options = dist.ProcessGroupNCCL.Options()
                options._timeout = EXCHANGE_TIMEOUT  # pyright: ignore[reportPrivateUsage]
                data = PrefixStore("data", store)
                self._data = dist.ProcessGroupNCCL(data, self.rank, self.size, options)
            # NCCL connects with the first exchange, for which the file must still be there.
            self.all_gather(torch.zeros(1, device=device))
        except RuntimeError as error:
            raise RankFailed(f"the ranks cannot connect: {error}") from error

    def _gloo(self, store: Any) -> Any:
        import torch.distributed as dist

        gloo: Any = dist.ProcessGroupGloo
        options = gloo._Options()
        # All ranks are on this machine, and nobody else shall reach them; the system picks the ports.
        options._devices = [gloo.create_device(hostname=LOOPBACK)]
        options._timeout = EXCHANGE_TIMEOUT
        options._threads = 1
        return gloo(store, self.rank, self.size, options)

    def announce(self, header: Tensor) -> None:
        """Broadcasts what comes next, from rank 0; the others wait for it for as long as it takes.

        Args:
            header: On the CPU; overwritten at the other ranks.
        """
        self._broadcast(self._control, header, IDLE_TIMEOUT)

    def broadcast(self, x: Tensor) -> None:
        """Gives every rank rank 0's values of a contiguous tensor, in place."""
        self._broadcast(self._data, x, self._timeout)

    def _broadcast(self, group: Any, x: Tensor, timeout: timedelta) -> None:
        import torch.distributed as dist

        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.timeout = timeout
        self._wait(lambda: group.broadcast([_as_bytes(x)], options))

    def all_gather(self, x: Tensor) -> list[Tensor]:
        """Every rank's tensor of one shape and dtype, in the order of the ranks."""
        from torch._C._distributed_c10d import AllgatherOptions

        options = AllgatherOptions()
        options.timeout = self._timeout
        gathered = x.new_empty(self.size, *x.shape)
        parts = list(_as_bytes(gathered).view(self.size, -1))
        self._wait(lambda: self._data.allgather([parts], [_as_bytes(x)], options))
        return list(gathered)

    def gather(self, x: Tensor) -> list[Tensor]:
        """As `all_gather`, but for rank 0 alone; the others get nothing."""
        import torch.distributed as dist

        options = dist.GatherOptions()
        options.rootRank = 0
        options.timeout = self._timeout
        gathered = x.new_empty(self.size if self.rank == 0 else 0, *x.shape)
        targets = [list(_as_bytes(gathered).view(self.size, -1))] if self.rank == 0 else []
        self._wait(lambda: self._data.gather(targets, [_as_bytes(x)], options))
        return list(gathered)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of every rank's x, added in the order of the ranks: the same bits for all of them."""
        total, *others = self.all_gather(x)
        for other in others:
            total += other
        return total

    def max(self, x: Tensor) -> Tensor:
        """The largest of every rank's x, element by element; NaN where any is NaN."""
        return torch.stack(self.all_gather(x)).amax(0)

    def concat(self, x: Tensor, widths: Sequence[int]) -> Tensor:
        """The columns of all ranks side by side.

        Args:
            x: `[T, widths[rank]]`.
            widths: Columns of each rank.
        """
        padded = x.new_zeros(x.shape[0], max(widths))
        padded[:, : x.shape[1]] = x
        parts = zip(self.all_gather(padded), widths, strict=True)
        return torch.cat([part[:, :width] for part, width in parts], 1)

    def _wait(self, start: Any) -> None:
        try:
            start().wait()
        except RuntimeError as error:
            raise RankFailed(f"rank {self.rank} lost another rank: {error}") from error


def _as_bytes(x: Tensor) -> Tensor:
    """The memory of a contiguous tensor: what carries tensors need not know all of their dtypes."""
    return x.view(-1).view(torch.uint8)


class RowParallelLinear(Linear):
    """`y = x @ W.T + b`, where this rank has some columns of W and of x, and all ranks together y.

    Integer matrices whose inputs are rounded, row by row, get one column of zeros besides: the input in it
    is the largest magnitude of the row at any rank, so that all ranks round as one rank would.

    Args:
        whole: The layer that is cut.
        bounds: `size + 1` columns of W; rank r has those from `bounds[r]` to `bounds[r + 1]`.
        ranks: Those that share it.

    Attributes:
        picked: Where W's columns are in an order of their own: the indices of this rank's among all of x's
            channels, which are then gathered, int64 `[K]`. Else None.
    """

    def __init__(self, whole: Linear, bounds: Sequence[int], ranks: Ranks) -> None:
        self.bounds = tuple(bounds)
        self.ranks = ranks
        self.picked: Tensor | None = None
        dtype = whole.weight.data.dtype
        self.weight = shape_only(whole.weight.out_features, len(self.columns), dtype)
        # Of the sum of all parts, and so added once.
        self.bias = whole.bias

    @property
    def columns(self) -> range:
        """The columns of W that are this rank's."""
        return range(self.bounds[self.ranks.rank], self.bounds[self.ranks.rank + 1])

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        dtype = x.dtype
        if self.picked is not None:
            widths = [stop - start for start, stop in zip(self.bounds, self.bounds[1:], strict=False)]
            x = self.ranks.concat(x, widths)[:, self.picked]
        if self.weight.int8_activations:
            x = torch.cat((x, self.ranks.max(x.abs().amax(-1, keepdim=True))), -1)
        # Kernels for CPUs sum in fp32 anyway; those for GPUs have rounded what they return.
        sums = torch.float32 if x.device.type == "cpu" else dtype
        part = x.new_empty(x.shape[0], self.weight.out_features, dtype=sums)
        total = self.ranks.sum(ops.linear(x, self.weight, None, part))
        if self.bias is not None:
            total += self.bias
        return total.to(dtype) if out is None else out.copy_(total)


class VocabParallelEmbedding(Embedding):
    """Token ids to rows of a matrix of which this rank has some.

    Args:
        whole: The layer that is cut.
        rows: This rank's.
        ranks: Those that share it.
    """

    def __init__(self, whole: Embedding, rows: range, ranks: Ranks) -> None:
        super().__init__(len(rows), whole.weight.in_features, whole.dtype)
        self.rows = rows
        self.ranks = ranks

    def __call__(self, ids: Tensor) -> Tensor:
        local = ids - self.rows.start
        absent = (local < 0) | (local >= len(self.rows))
        found = ops.embedding(local.clamp(0, len(self.rows) - 1), self.weight, self.dtype)
        # One rank has the row, and the zeros of the others leave it as it is.
        return self.ranks.sum(found.masked_fill_(absent[:, None], 0.0))


class VocabParallelHead(Linear):
    """The output projection, of which this rank has some rows; rank 0 gets the logits of all.

    Args:
        whole: The layer that is cut.
        bounds: `size + 1` rows of W; rank r has those from `bounds[r]` to `bounds[r + 1]`.
        ranks: Those that share it.
    """

    def __init__(self, whole: Linear, bounds: Sequence[int], ranks: Ranks) -> None:
        self.bounds = tuple(bounds)
        self.ranks = ranks
        self.rows = range(bounds[ranks.rank], bounds[ranks.rank + 1])
        self.weight = shape_only(len(self.rows), whole.weight.in_features, whole.weight.data.dtype)
        self.bias = None

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Returns `[R, vocab]` at rank 0; what the others return is of no use."""
        y = x.new_empty(x.shape[0], self.bounds[-1]) if out is None else out
        widths = [stop - start for start, stop in zip(self.bounds, self.bounds[1:], strict=False)]
        part = ops.linear(x, self.weight, None, y.new_empty(x.shape[0], len(self.rows)))
        if len(self.rows) < max(widths):
            part = torch.nn.functional.pad(part, (0, max(widths) - len(self.rows)))
        for start, width, gathered in zip(self.bounds, widths, self.ranks.gather(part), strict=False):
            y[:, start : start + width] = gathered[:, :width]
        return y

"""The block tables of the running requests as arrays, kept from step to step: on the host, and on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .request import Request
from .transfers import Transfers


class BlockTables:
    """The block tables as one array on the host.

    A request owns a row from its first step until the scheduler says that its blocks are released.

    Attributes:
        array: int32 `[max_num_seqs, max_blocks]`.
    """

    def __init__(self, max_num_seqs: int, max_blocks: int) -> None:
        self.array: NDArray[np.int32] = np.zeros((max_num_seqs, max_blocks), dtype=np.int32)
        self._num_blocks = [0] * max_num_seqs
        self._row_of: dict[str, int] = {}
        self._free = list(range(max_num_seqs - 1, -1, -1))
        self._changes: dict[int, int] | None = None

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
            if self._changes is not None:
                first = row * self.array.shape[1]
                self._changes.update(
                    zip(range(first + known, first + held), request.block_ids[known:], strict=True)
                )
        return row

    def release(self, request_ids: Sequence[str]) -> None:
        """Frees the rows of requests that hold no blocks any more."""
        for request_id in request_ids:
            row = self._row_of.pop(request_id, None)
            if row is not None:
                self._free.append(row)

    def note_changes(self) -> None:
        """From now on, remembers what changes until `take_changes`."""
        self._changes = {}

    def take_changes(self) -> tuple[NDArray[np.int64], NDArray[np.int32]] | None:
        """The flat places and the blocks that have changed since the last call; None if nothing has."""
        if not self._changes:
            return None
        changes, self._changes = self._changes, {}
        num = len(changes)
        places = np.fromiter(changes.keys(), dtype=np.int64, count=num)
        return places, np.fromiter(changes.values(), dtype=np.int32, count=num)


class DeviceBlockTables:
    """A copy of the block tables on the device, which follows the host's by what changes.

    A step of 256 requests changes some 16 entries, while the tables of long contexts are megabytes.

    Args:
        tables: The host's.
        padding_block: The block that the padding of a batch reads and writes.
        device: Where the copy lies.

    Attributes:
        tensor: int32 `[max_num_seqs + 1, max_blocks]`; the last row is that of padding.
    """

    def __init__(self, tables: BlockTables, padding_block: int, device: torch.device) -> None:
        rows, columns = tables.array.shape
        self.tensor = torch.zeros(rows + 1, columns, dtype=torch.int32, device=device)
        self.tensor[rows] = padding_block
        self.padding_row = rows
        self._tables = tables

    def start(self) -> None:
        """Takes over the host's tables as they are; from now on `follow` brings what changes."""
        self.tensor[: self.padding_row] = torch.from_numpy(self._tables.array).to(self.tensor.device)
        self._tables.note_changes()

    def follow(self, transfers: Transfers) -> None:
        """Takes over what has changed on the host."""
        changes = self._tables.take_changes()
        if changes is not None:
            places, blocks = transfers.upload(changes)
            self.tensor.view(-1).index_copy_(0, places, blocks)

    def of(self, rows: Tensor, width: int) -> Tensor:
        """The first `width` blocks of the given rows."""
        return self.tensor[:, :width].index_select(0, rows)

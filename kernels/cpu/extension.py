"""The C++ extension `_C`: whether it is there, its instruction set and its threads, and giving it tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .. import _C

_import_error: str | None = None
try:
    from .. import _C
except ImportError as error:
    _import_error = str(error)
    globals()["_C"] = None  # so that it can be imported; nothing calls it, since `unavailable` says why

DTYPE_CODES: dict[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1}


def unavailable() -> str | None:
    """The reason why no op of this package can run here, or None."""
    if _import_error is not None:
        return f"the C++ extension is not built ({_import_error})"
    try:
        _C.isa()
    except RuntimeError as error:
        return str(error)
    return None


def cpu_features() -> dict[str, bool]:
    """What the CPU offers to these kernels, for `quire doctor`."""
    return _C.cpu_features()


def isa() -> str:
    """The instruction set in use, one of those that `QUIRE_ISA` can name."""
    return _C.isa()


def num_threads() -> int:
    """Threads that an op uses; by default the cores this process may run on."""
    return _C.num_threads()


def set_num_threads(count: int) -> None:
    """Sets the number of threads, the calling one included. Raises ValueError below 1."""
    _C.set_num_threads(count)


def as_rows(x: Tensor) -> tuple[Tensor, int, int]:
    """x as a matrix with contiguous rows, copied only if it must be; how many rows; the step between them."""
    if x.dim() != 2:
        x = x.reshape(-1, x.shape[-1])
    stride, inner = x.stride()
    if inner != 1:
        x = x.contiguous()
        stride = x.stride(0)
    return x, x.shape[0], stride


def dtype_code(x: Tensor) -> int:
    """The extension's number of a tensor's dtype. Raises TypeError if it takes no such tensors."""
    code = DTYPE_CODES.get(x.dtype)
    if code is None:
        raise TypeError(f"the C++ kernels take float32 and bfloat16, not {x.dtype}")
    return code

"""What the server's process does with memory that it no longer needs."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

LARGE_BYTES = 2 << 20
KEPT_BYTES = 8 << 20


def return_large_blocks() -> bool:
    """Has large blocks given back to the system when they are freed; says whether the C library can.

    glibc raises its limits as it sees large blocks come and go, and then keeps tens of megabytes: after one
    long body, a server would look as if it had lost the memory.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and does so anyway
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))

"""Errors as the protocol writes them."""

from __future__ import annotations

import msgspec

from ..errors import ErrorDetails
from .protocol import InferFailure


def write_failure(status: int, details: ErrorDetails) -> bytes:
    """`{"error": message}`; the status says the rest."""
    return msgspec.json.encode(InferFailure(details.message))

"""Errors as TorchServe writes them."""

from __future__ import annotations

import msgspec

from ..errors import ErrorDetails

KINDS = {
    400: "BadRequestException",
    401: "InvalidKeyException",
    403: "InvalidKeyException",
    404: "ModelNotFoundException",
    405: "MethodNotAllowedException",
    409: "ConflictStatusException",
    429: "ServiceUnavailableException",
    503: "ServiceUnavailableException",
    507: "OutOfMemoryException",
}


class TorchServeFailure(msgspec.Struct):
    """The body of every answer that is not a success; `code` is the HTTP status."""

    code: int
    type: str
    message: str


def write_failure(status: int, details: ErrorDetails) -> bytes:
    """An error in TorchServe's form."""
    kind = KINDS.get(status, "BadRequestException" if status < 500 else "InternalServerException")
    return msgspec.json.encode(TorchServeFailure(status, kind, details.message))

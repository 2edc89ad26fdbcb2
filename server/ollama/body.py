"""Reading Ollama's requests, whose clients, curl first of all, do not say that they send JSON."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.requests import Request

from ..context import ServerContext
from ..json_body import Unsupported, read_message

T = TypeVar("T", bound=msgspec.Struct)


async def read_body(
    context: ServerContext, request: Request, message_type: type[T], *, unsupported: Unsupported
) -> T:
    """The body of a request, JSON under whatever media type; see `read_message`."""
    return await read_message(context, request, message_type, unsupported=unsupported, whatever_type=True)

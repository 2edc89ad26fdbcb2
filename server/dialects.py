"""What the dialects besides OpenAI's share: errors in their own shape, and with their own names."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from ..errors import QuireError
from .context import RequestRecord
from .errors import ClientDisconnected

logger = logging.getLogger("quire.server")

ErrorShape = Callable[[Exception], Response]
"""The answer to a request that failed, as a dialect writes it."""


async def guarded(request: Request, work: Awaitable[Response], shape: ErrorShape) -> Response:
    """The answer that `work` gives or, if it fails, the error in the dialect's shape; the log has it, too."""
    try:
        return await work
    except ClientDisconnected:
        raise
    except Exception as error:
        note_error(request.state.record, error)
        return shape(error)


def note_error(record: RequestRecord, error: Exception) -> None:
    """Puts an error on the request's line in the log, with its traceback if nobody expected it."""
    record.error = error
    if not isinstance(error, QuireError):
        logger.error("request %s failed", record.internal_id, exc_info=error)


def rename(error: QuireError, names: Mapping[str, str]) -> None:
    """Lets an error name the parameters of a dialect where it names OpenAI's."""
    if error.param is not None:
        error.param = names.get(error.param, error.param)
    pattern = r"\b(?:" + "|".join(map(re.escape, names)) + r")\b"
    error.message = re.sub(pattern, lambda match: names[match[0]], error.message)

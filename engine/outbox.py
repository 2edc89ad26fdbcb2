"""What a request has produced and its caller has not taken yet: bounded, however slow the caller is."""

from __future__ import annotations

import asyncio

from ..errors import QuireError, TooSlow
from .output_processor import merge
from .outputs import RequestOutput

MAX_UNREAD_BYTES = 192 * 1024
"""For each choice of a request, about: what waits here, not what is on its way to the client."""

OUTPUT_BYTES, TOKEN_BYTES, LOGPROB_BYTES = 200, 32, 160  # as Python holds them, about


class Outbox:
    """Deltas on their way from the engine to one caller.

    Those that wait together become one, so that text takes little more room than on the wire.
    Log-probabilities take much, and a caller who leaves too many of them gets an error in place of all
    that waits.

    Args:
        num_choices: Of the request.
    """

    def __init__(self, num_choices: int) -> None:
        self._limit = num_choices * MAX_UNREAD_BYTES
        self._waiting: RequestOutput | None = None
        self._num_bytes = 0
        self._error: QuireError | None = None
        self._filled = asyncio.Event()

    def put(self, output: RequestOutput) -> bool:
        """Takes over a delta; False if there is too much now, and the request is to be ended."""
        if self._error is not None:
            return False
        self._waiting = output if self._waiting is None else merge(self._waiting, output)
        self._num_bytes += size(output)
        if self._num_bytes > self._limit and not output.finished:
            self._waiting = None
            self.fail(TooSlow(f"the client leaves more than {self._limit >> 10} KiB of its answer unread"))
        self._filled.set()
        return self._error is None

    def fail(self, error: QuireError) -> None:
        """Ends the request with an error, which comes behind what waits."""
        self._error = self._error or error
        self._filled.set()

    async def get(self) -> RequestOutput:
        """All that is new; waits if there is nothing. Raises the error that ended the request."""
        await self._filled.wait()
        output, self._waiting, self._num_bytes = self._waiting, None, 0
        if output is not None:
            if self._error is None:
                self._filled.clear()
            return output
        assert self._error is not None
        raise self._error


def size(output: RequestOutput) -> int:
    """The memory of a delta, about, without the scores of the prompt, which come once."""
    num_bytes = OUTPUT_BYTES
    for choice in output.outputs:
        num_bytes += len(choice.text) + TOKEN_BYTES * len(choice.token_ids)
        for entry in choice.logprobs or ():
            num_bytes += LOGPROB_BYTES * len(entry)
    return num_bytes

"""The responses that the server remembers: so many, in memory, the longest unused forgotten first."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from ...errors import NotFound, Overloaded
from ..openai.message_protocol import Message
from .conversation import answer_message
from .protocol import ResponseObject

MESSAGE_BYTES = 512
"""What a message costs besides its text."""


@dataclass(slots=True)
class StoredResponse:
    """A response and the conversation that led to it.

    Attributes:
        response: The response, which changes while it is made in the background.
        messages: All turns before the answer, without the instructions.
        task: Makes the answer in the background; None if it was made in the foreground.
    """

    response: ResponseObject
    messages: list[Message]
    task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the answer is still being made."""
        return self.response.status in ("queued", "in_progress")

    def conversation(self) -> list[Message]:
        """All turns, the answer included."""
        output = self.response.output
        return [*self.messages, *([answer_message(output)] if output else [])]

    def num_bytes(self) -> int:
        """About what it takes in memory. Turns that responses share are counted for each of them."""
        total = 0
        for message in self.conversation():
            content = message.content
            parts = [content] if isinstance(content, str) else [part.text for part in content or ()]
            parts += [call.function.arguments for call in message.tool_calls or ()]
            total += MESSAGE_BYTES + sum(len(part or "") for part in (*parts, message.reasoning))
        return total + len(self.response.instructions or "")


class ResponseStore:
    """Responses by id.

    Args:
        max_responses: The most that are kept.
        max_bytes: The most memory that they take.
    """

    def __init__(self, max_responses: int, max_bytes: int) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._stored: OrderedDict[str, StoredResponse] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._stored)

    def add(self, stored: StoredResponse) -> None:
        """Keeps a response, at the cost of older ones; those that are running stay.

        Raises `Overloaded` if as many are running as may be kept.
        """
        num_running = sum(each.is_running for each in self._stored.values())
        if stored.is_running and num_running >= self._max_responses:
            raise Overloaded(f"{num_running} responses are running in the background already")
        self._stored[stored.response.id] = stored
        self.update(stored)

    def update(self, stored: StoredResponse) -> None:
        """Takes note that a response has changed; one that was forgotten meanwhile stays forgotten."""
        if stored.response.id in self._stored:
            self._sizes[stored.response.id] = stored.num_bytes()
            self._shrink()

    def get(self, response_id: str) -> StoredResponse:
        """A response. Raises `NotFound`."""
        stored = self._stored.get(response_id)
        if stored is None:
            raise NotFound(
                f"there is no response {response_id[:100]!r}, or no longer",
                param="response_id",
                code="response_not_found",
            )
        self._stored.move_to_end(response_id)
        return stored

    def remove(self, response_id: str) -> None:
        """Forgets a response, if it is there."""
        if self._stored.pop(response_id, None) is not None:
            del self._sizes[response_id]

    def _shrink(self) -> None:
        total = sum(self._sizes.values())
        for response_id, stored in list(self._stored.items()):
            if len(self._stored) <= self._max_responses and total <= self._max_bytes:
                return
            if not stored.is_running:
                total -= self._sizes[response_id]
                self.remove(response_id)

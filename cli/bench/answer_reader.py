"""Reads the streamed answer to a completion, chat or not, and notes when which piece of it came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from .http_client import ExchangeError
from .sample import Sample
from .sse import EventParser

MAX_ERROR_BYTES = 64 * 1024
SHOWN_CHARACTERS = 300
DONE = b"[DONE]"


class Delta(msgspec.Struct):
    """What is new in a chat's answer: some part of it, under one of these names."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class Choice(msgspec.Struct):
    """What is new in an answer."""

    text: str | None = None
    delta: Delta | None = None
    token_ids: list[int] | None = None

    def has_content(self) -> bool:
        """Whether there is anything that a user would see, or a token is reported."""
        if self.text or self.token_ids:
            return True
        delta = self.delta
        return delta is not None and bool(
            delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls
        )


class Usage(msgspec.Struct):
    """Token counts: of the whole request, or in some servers of what has come so far."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Chunk(msgspec.Struct):
    """One event of a stream."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(Chunk)


def ignore(_num: int) -> None:
    """Counts no tokens."""


class AnswerReader:
    """Takes in one streamed answer.

    Args:
        sample: Where times and counts go. Its end is set when [DONE] has come.
        clock: Seconds.
        on_tokens: Called with the number of tokens that each piece has, 1 where nobody says.
    """

    def __init__(
        self,
        sample: Sample,
        clock: Callable[[], float],
        on_tokens: Callable[[int], None] = ignore,
    ) -> None:
        self.is_complete = False
        self._sample = sample
        self._clock = clock
        self._on_tokens = on_tokens
        self._events = EventParser()
        self._status = 0
        self._content_type = ""
        self._num_reported = 0  # tokens so far, where a server says so with each piece
        self._error_body = b""

    def on_headers(self, status: int, content_type: str) -> None:
        """Notes whether an answer or an error follows."""
        self._status = status
        self._content_type = content_type

    def on_data(self, data: bytes) -> None:
        """A piece of the body: events, or words about an error.

        Raises:
            ExchangeError: It is no part of an answer.
        """
        if self._status != 200 or not self._is_stream():
            self._error_body += data[: MAX_ERROR_BYTES - len(self._error_body)]
            return
        if self.is_complete:
            return
        now = self._clock()
        try:
            events = self._events.feed(data)
        except ValueError as error:
            raise ExchangeError("bad_event", str(error)) from error
        for event in events:
            self._take(event, now)

    def end(self) -> None:
        """To be called when the body is over.

        Raises:
            ExchangeError: The status is not 200, the answer is no stream, or it was cut off.
        """
        if self._status != 200:
            message = error_message(self._error_body)
            raise ExchangeError(f"http_{self._status}", f"status {self._status}: {message}")
        if not self._is_stream():
            shown = self._content_type or "no content type"
            raise ExchangeError(
                "not_a_stream", f"an answer of {shown}, no event stream: {error_message(self._error_body)}"
            )
        for event in self._events.close():
            self._take(event, self._clock())
        if not self.is_complete:
            raise ExchangeError("cut_stream", "the stream ended without [DONE]")
        if not self._sample.chunk_times:
            raise ExchangeError("empty_answer", "the stream ended without any text")

    def _is_stream(self) -> bool:
        return self._content_type.partition(";")[0].strip().lower() == "text/event-stream"

    def _take(self, event: bytes, now: float) -> None:
        if self.is_complete:
            return
        if event == DONE:
            self.is_complete = True
            self._sample.finished = now
            return
        try:
            chunk = _decoder.decode(event)
        except msgspec.DecodeError as error:
            raise ExchangeError("bad_event", f"{error}: {shown(event)}") from error
        except UnicodeDecodeError as error:
            raise ExchangeError("bad_event", f"no UTF-8: {shown(event)}") from error
        if chunk.error is not None:
            raise ExchangeError("error_in_stream", error_message(event))
        if chunk.choices and any(choice.has_content() for choice in chunk.choices):
            self._note(chunk, now)
        elif chunk.usage is not None:
            self._num_reported = chunk.usage.completion_tokens or 0
        if chunk.usage is not None:
            self._sample.prompt_tokens = chunk.usage.prompt_tokens
            self._sample.completion_tokens = chunk.usage.completion_tokens

    def _note(self, chunk: Chunk, now: float) -> None:
        num_tokens = -1
        ids = [choice.token_ids for choice in chunk.choices or ()]
        if any(each is not None for each in ids):
            num_tokens = sum(len(each) for each in ids if each is not None)
        elif chunk.usage is not None and chunk.usage.completion_tokens is not None:
            num_tokens = chunk.usage.completion_tokens - self._num_reported
            self._num_reported = chunk.usage.completion_tokens
        self._sample.chunk_times.append(now)
        self._sample.chunk_tokens.append(num_tokens)
        self._on_tokens(max(1, num_tokens))


class TextReader:
    """Takes in a whole answer that is no stream."""

    is_complete = False

    def __init__(self) -> None:
        self.status = 0
        self.body = b""

    def on_headers(self, status: int, content_type: str) -> None:
        """The answer begins."""
        self.status = status

    def on_data(self, data: bytes) -> None:
        """A piece of it."""
        self.body += data
        if len(self.body) > MAX_ERROR_BYTES:
            raise ExchangeError("bad_answer", f"the answer exceeds {MAX_ERROR_BYTES} bytes")


def error_message(body: bytes) -> str:
    """What an error's body says: its message if it has one, or else its beginning."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return shown(body) or "nothing more is said"
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and key in value:
            value = value[key]
    return shown(value if isinstance(value, str) else msgspec.json.encode(value))


def shown(value: str | bytes) -> str:
    """The beginning of a text, on one line."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."

"""A client of OpenAI's completions APIs that measures, and finds out what its server takes."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from ...errors import InvalidRequest, QuireError
from .answer_reader import AnswerReader, TextReader, error_message, ignore, shown
from .http_client import ExchangeError, HttpClient
from .prompts import words
from .sample import BenchRequest, Sample

Endpoint = Literal["chat", "completions"]
PATHS: dict[str, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
NEGOTIABLE = ("ignore_eos", "stream_options", "return_token_ids", "temperature")
"""What is left out of requests to a server that refuses it."""

PROBE_WORDS = (10, 50)


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """What requests look like, but for prompt and length.

    Attributes:
        fields: Sent with every request.
    """

    model: str
    endpoint: Endpoint
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def length_is_fixed(self) -> bool:
        """Whether an answer has exactly as many tokens as were asked for."""
        return self.fields.get("ignore_eos") is True

    def without(self, name: str) -> RequestFormat:
        """The format without one of its fields."""
        return dataclasses.replace(self, fields={k: v for k, v in self.fields.items() if k != name})

    def body(self, request: BenchRequest) -> bytes:
        """A request as JSON. Raises `InvalidRequest` if a chat is to be of token ids."""
        body: dict[str, Any] = {"model": self.model, "stream": True, **self.fields}
        if self.endpoint == "completions":
            body["prompt"] = request.prompt
        elif isinstance(request.prompt, str):
            body["messages"] = [{"role": "user", "content": request.prompt}]
        else:
            raise InvalidRequest("a chat takes texts, no token ids")
        if request.num_output is not None:
            body["max_tokens"] = request.num_output
        return msgspec.json.encode(body)


class OpenAIClient:
    """Sends requests and fills in their samples.

    Args:
        http: The server's base, with or without `/v1` at its end.
        format: What requests look like.
        clock: Seconds.
        on_tokens: Called as tokens come, with their number.
    """

    def __init__(
        self,
        http: HttpClient,
        format: RequestFormat,
        clock: Callable[[], float],
        on_tokens: Callable[[int], None] = ignore,
    ) -> None:
        self.http = http
        self.format = format
        self._clock = clock
        self.on_tokens = on_tokens

    async def send(self, request: BenchRequest, sample: Sample) -> None:
        """Sends a request and reads its answer.

        Raises:
            ExchangeError: There was no whole answer, or not the one that was asked for.
        """
        reader = AnswerReader(sample, self._clock, self.on_tokens)
        await self.http.post(PATHS[self.format.endpoint], self.format.body(request), reader)
        reader.end()
        self._check_counts(request, sample)

    def _check_counts(self, request: BenchRequest, sample: Sample) -> None:
        """What the server says of its tokens must agree with what was asked for, and with itself."""
        wanted = request.num_output
        counted = sample.num_output_tokens
        problem = ""
        if sample.token_source != "chunks" and wanted is not None:
            if self.format.length_is_fixed and counted != wanted:
                problem = f"{counted} output tokens, {wanted} were asked for"
            elif counted > wanted:
                problem = f"{counted} output tokens, at most {wanted} were asked for"
        if not problem and sample.chunk_tokens and min(sample.chunk_tokens) >= 0:
            streamed = sum(sample.chunk_tokens)
            if streamed != counted:
                problem = f"{streamed} tokens were streamed, the usage says {counted}"
        given = request.prompt
        if not problem and isinstance(given, list) and sample.prompt_tokens not in (None, len(given)):
            problem = f"{sample.prompt_tokens} prompt tokens, {len(given)} were sent"
        if problem:
            raise ExchangeError("wrong_token_count", problem)

    async def negotiate(self, required: frozenset[str], seconds: float) -> list[str]:
        """Finds out what the server takes, with a request or a few; what it refuses is left out.

        Args:
            required: Fields that must not be left out.
            seconds: For each request.

        Returns:
            The fields that are left out from now on.

        Raises:
            QuireError: The server does not answer, or refuses the request for another reason.
        """
        refused: list[str] = []
        while True:
            try:
                await self.probe(PROBE_WORDS[0], seconds)
            except ExchangeError as error:
                if error.kind not in ("http_400", "http_422"):
                    raise QuireError(f"the server does not answer a first request: {error}") from error
                named = [name for name in NEGOTIABLE if name in self.format.fields and name in str(error)]
                if not named or named[0] in required:
                    raise QuireError(f"the server refuses a first request: {error}") from error
                refused.append(named[0])
                self.format = self.format.without(named[0])
            else:
                return refused

    async def tokens_per_word(self, seconds: float) -> float | None:
        """How many tokens a word of a random text has, by the server's count, or None if it keeps none.

        Two texts are counted, so that what the server adds to every prompt cancels out.
        """
        try:
            counts = [(await self.probe(num, seconds)).prompt_tokens for num in PROBE_WORDS]
        except ExchangeError as error:
            raise QuireError(f"the server does not count the tokens of a short text: {error}") from error
        if counts[0] is None or counts[1] is None or counts[1] <= counts[0]:
            return None
        return (counts[1] - counts[0]) / (PROBE_WORDS[1] - PROBE_WORDS[0])

    async def probe(self, num_words: int, seconds: float) -> Sample:
        """One short request. Raises `ExchangeError`."""
        # Not the load's own seed: no prompt of the load should be found in a prefix cache.
        request = BenchRequest(words(num_words, random.Random(f"probe {num_words}")), 2)
        sample = Sample(0, self._clock())
        on_tokens, self.on_tokens = self.on_tokens, ignore
        try:
            async with asyncio.timeout(seconds):
                await self.send(request, sample)
        except TimeoutError as error:
            raise ExchangeError("timeout", f"no answer in {seconds:g} s") from error
        finally:
            self.on_tokens = on_tokens
        return sample


async def get_json(http: HttpClient, path: str, seconds: float) -> Any:
    """The JSON that a path answers with. Raises `ExchangeError`."""
    reader = TextReader()
    try:
        async with asyncio.timeout(seconds):
            await http.get(path, reader)
    except TimeoutError as error:
        raise ExchangeError("timeout", f"{path}: no answer in {seconds:g} s") from error
    if reader.status != 200:
        raise ExchangeError(
            f"http_{reader.status}", f"{path}: status {reader.status}: {error_message(reader.body)}"
        )
    try:
        return msgspec.json.decode(reader.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ExchangeError("bad_answer", f"{path}: no JSON: {shown(reader.body)}") from error


async def first_model(http: HttpClient, seconds: float) -> str:
    """The name of the first model that the server lists. Raises `QuireError` if it lists none."""
    try:
        answer = await get_json(http, "/v1/models", seconds)
        name = answer["data"][0]["id"]
    except ExchangeError as error:
        raise QuireError(f"the server does not say which models it has, so give --model: {error}") from error
    except (KeyError, IndexError, TypeError) as error:
        raise QuireError("/v1/models lists no model, so give --model") from error
    return str(name)


async def server_version(http: HttpClient, seconds: float) -> str | None:
    """What the server says its version is; None if it says nothing."""
    try:
        answer = await get_json(http, "/version", seconds)
    except ExchangeError:
        return None  # few servers have this route
    return str(answer["version"]) if isinstance(answer, dict) and "version" in answer else None

"""From the engine's deltas to a response, and to the events of its stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Literal

import msgspec

from ...engine.outputs import CompletionOutput
from ...errors import Overloaded
from ..context import RequestRecord, ServerContext
from ..errors import error_details
from ..generation import DeltaStream, Job
from ..openai.protocol import CompletionTokensDetails, PromptTokensDetails
from ..openai.structured import TextFormat
from ..openai.turns import Turn
from ..sse import event
from .items import Event, ItemWriter
from .logprobs import MessageLogprobs
from .protocol import (
    CreateResponse,
    IncompleteDetails,
    ReasoningSettings,
    ResponseError,
    ResponseObject,
    ResponseUsage,
    TextSettings,
)


class Answer:
    """A response that grows until it is finished or fails."""

    def __init__(
        self, context: ServerContext, record: RequestRecord, body: CreateResponse, job: Job, turn: Turn
    ) -> None:
        self._record = record
        self._num_events = 0
        (params,) = job.params
        # Not the id that the client may have chosen: this one must be unique.
        self.response = ResponseObject(
            id=f"resp_{record.internal_id}",
            created_at=int(time.time()),
            status="queued" if body.background else "in_progress",
            background=body.background is True,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata or {},
            model=context.model_name,
            previous_response_id=body.previous_response_id,
            store=body.store is not False,
            temperature=params.temperature,
            text=TextSettings(format=(body.text and body.text.format) or TextFormat()),
            top_logprobs=body.top_logprobs or 0,
            top_p=params.top_p,
            parallel_tool_calls=body.parallel_tool_calls is not False,
            reasoning=body.reasoning or ReasoningSettings(),
            tool_choice=body.tool_choice or "auto",
            tools=body.tools or [],
            user=body.user,
        )
        self._turn = turn
        self._logprobs = None
        if body.include:
            self._logprobs = MessageLogprobs(context.engine.tokenizer, job.prompts[0], body.top_logprobs or 0)
        self._items = ItemWriter(record.internal_id)

    def finish(self, part: CompletionOutput) -> None:
        """Takes in a whole answer."""
        for _ in self._take(part):
            pass  # the items are built in passing
        for _ in self._end(part):
            pass

    def _take(self, part: CompletionOutput) -> Iterator[Event]:
        """Takes in what is new."""
        if self._logprobs is not None:
            self._logprobs.push(part)
        for delta in self._turn.deltas(part):
            yield from self._items.take(delta, [] if self._logprobs is None else self._logprobs.take(delta))

    def _end(self, part: CompletionOutput) -> Iterator[Event]:
        """Takes in why the answer ended, as the last output says it."""
        record, response = self._record, self.response
        ended: Literal["incomplete", "completed"] = (
            "incomplete" if part.finish_reason == "length" else "completed"
        )
        yield from self._items.end(ended)
        response.output = list(self._items.items)
        if ended == "incomplete":
            response.incomplete_details = IncompleteDetails(reason="max_output_tokens")
        response.usage = ResponseUsage(
            input_tokens=record.num_prompt_tokens,
            input_tokens_details=PromptTokensDetails(record.num_cached_tokens),
            output_tokens=record.num_generation_tokens,
            output_tokens_details=CompletionTokensDetails(self._turn.num_reasoning_tokens),
            total_tokens=record.num_prompt_tokens + record.num_generation_tokens,
        )
        response.status = ended  # last, as others may look on from another thread

    def fail(self, error: Exception) -> None:
        """Takes in why there is no answer."""
        code = "rate_limit_exceeded" if isinstance(error, Overloaded) else "server_error"
        self.response.status = "failed"
        self.response.error = ResponseError(code=code, message=error_details(error).message)

    def encode(self) -> bytes:
        """The response as JSON."""
        return msgspec.json.encode(self.response)

    async def events(self, deltas: DeltaStream, finished: Callable[[], None]) -> AsyncGenerator[bytes, None]:
        """The events of the stream; `finished` is called before the last one."""
        response = self.response
        yield self._event("created", {"response": response})
        yield self._event("in_progress", {"response": response})
        async for batch in deltas:
            for part in (part for _, output in batch for part in output.outputs):
                for kind, fields in self._take(part):
                    yield self._event(kind, fields)
                if part.finish_reason is not None:
                    for kind, fields in self._end(part):
                        yield self._event(kind, fields)
        finished()
        yield self._event(response.status, {"response": response})

    def failure_event(self, error: Exception) -> bytes:
        """The last event of a stream that fails."""
        self.fail(error)
        return self._event("failed", {"response": self.response})

    def _event(self, kind: str, fields: dict[str, object]) -> bytes:
        kind = f"response.{kind}"
        body = {"type": kind, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return event(msgspec.json.encode(body), kind)

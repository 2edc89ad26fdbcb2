"""From the engine's deltas to a response, and to the events of its stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable

import msgspec

from ...engine.outputs import CompletionOutput
from ...errors import Overloaded
from ..context import RequestRecord, ServerContext
from ..errors import error_details
from ..generation import DeltaStream, Job
from ..openai.protocol import CompletionTokensDetails, PromptTokensDetails
from ..sse import event
from .protocol import (
    CreateResponse,
    IncompleteDetails,
    OutputMessage,
    OutputText,
    ResponseError,
    ResponseObject,
    ResponseUsage,
)


class Answer:
    """A response that grows. One message with one text, until it is finished or fails."""

    def __init__(self, context: ServerContext, record: RequestRecord, body: CreateResponse, job: Job) -> None:
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
            top_p=params.top_p,
            user=body.user,
        )
        self._item = OutputMessage(id=f"msg_{record.internal_id}", status="in_progress", content=[])

    def finish(self, text: str, part: CompletionOutput) -> None:
        """Takes in the whole text, and from the last output why it ended."""
        record, response = self._record, self.response
        ended = "incomplete" if part.finish_reason == "length" else "completed"
        self._item.status = response.status = ended
        self._item.content = [OutputText(text=text)]
        response.output = [self._item]
        if ended == "incomplete":
            response.incomplete_details = IncompleteDetails(reason="max_output_tokens")
        response.usage = ResponseUsage(
            input_tokens=record.num_prompt_tokens,
            input_tokens_details=PromptTokensDetails(record.num_cached_tokens),
            output_tokens=record.num_generation_tokens,
            output_tokens_details=CompletionTokensDetails(0),
            total_tokens=record.num_prompt_tokens + record.num_generation_tokens,
        )

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
        response, item = self.response, self._item
        at = {"item_id": item.id, "output_index": 0, "content_index": 0}
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._event("response.content_part.added", **at, part=OutputText(text=""))
        texts: list[str] = []
        async for batch in deltas:
            for part in (part for _, output in batch for part in output.outputs):
                if part.text:
                    texts.append(part.text)
                    yield self._event("response.output_text.delta", **at, delta=part.text, logprobs=[])
                if part.finish_reason is not None:
                    self.finish("".join(texts), part)
        (text,) = item.content
        yield self._event("response.output_text.done", **at, text=text.text, logprobs=[])
        yield self._event("response.content_part.done", **at, part=text)
        yield self._event("response.output_item.done", output_index=0, item=item)
        finished()
        yield self._event(f"response.{response.status}", response=response)

    def failure_event(self, error: Exception) -> bytes:
        """The last event of a stream that fails."""
        self.fail(error)
        return self._event("response.failed", response=self.response)

    def _event(self, kind: str, **fields: object) -> bytes:
        body = {"type": kind, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return event(msgspec.json.encode(body), kind)

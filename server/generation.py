"""From prompts to outputs, whatever the dialect: tokenising, running, merging, giving up.

A dialect turns its request into a `Job` and gets back batches of deltas: what the engine produced
for any of the prompts since the last batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from starlette.types import Receive

from ..engine.beam_search import BeamSearch, BeamSearchParams, search_with
from ..engine.input_check import check_request
from ..engine.output_processor import merge
from ..engine.outputs import RequestOutput
from ..engine.request_origin import RequestOrigin
from ..engine.sampling_params import SamplingParams
from ..errors import ContextLengthExceeded, Draining, EngineDied, EngineError
from .context import RequestRecord, ServerContext
from .deployments.watch import watched
from .errors import ClientDisconnected

T = TypeVar("T")

Batch = list[tuple[int, RequestOutput]]
"""Deltas that came together, each with the index of its prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one HTTP request asks of the engine: prompts, each with its parameters.

    With `beam_search`, the answers are searched for: of `params`, `n` and `max_tokens` count.
    """

    prompts: Sequence[list[int]]
    params: Sequence[SamplingParams]
    priority: int = 0
    cache_salt: str | None = None
    beam_search: BeamSearchParams | None = None
    timeout: float | None = None


async def encode(
    context: ServerContext, texts: Sequence[str], *, add_special_tokens: bool, cuts_texts: bool = False
) -> list[list[int]]:
    """The tokens of texts.

    Raises `ContextLengthExceeded` without tokenising if one cannot fit; `cuts_texts` says that the first
    tokens are all that is wanted of it, and reads no more.
    """
    if cuts_texts:
        texts = [shortened(context, text) for text in texts]
    else:
        for text in texts:
            check_text_length(context, text)
    tokenizer = context.engine.tokenizer
    return await context.offload(
        sum(map(len, texts)), lambda: tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)
    )


def shortened(context: ServerContext, text: str) -> str:
    """The beginning of a text, with more than the tokens that fit a context."""
    # Twice as much as a context full of the longest token: tokenizers may drop blanks.
    return text[: 2 * context.engine.max_model_len * context.engine.tokenizer.max_token_bytes]


def check_text_length(context: ServerContext, text: str, param: str | None = "prompt") -> None:
    """Raises `ContextLengthExceeded` if the text has more bytes than a context full of the longest token."""
    limit = context.engine.max_model_len
    longest = context.engine.tokenizer.max_token_bytes
    # A character has at most four bytes: most texts need not be encoded to be let through.
    if 4 * len(text) > limit * longest:
        num_bytes = len(text.encode())
        if num_bytes > limit * longest:
            raise ContextLengthExceeded(
                f"the prompt has {num_bytes} bytes, at least {-(-num_bytes // longest)} tokens, "
                f"but this model's maximum context length is {limit} tokens",
                param=param,
            )


async def run(context: ServerContext, record: RequestRecord, job: Job) -> AsyncGenerator[Batch, None]:
    """Runs a job in the engine and yields its deltas as they come; ends when all are finished.

    Raises what the engine raises, or `Draining` if the engine was shut down under the request.
    Then, and when it is closed or cancelled, the requests that are still running are aborted.
    """
    outputs = _run(context, record, job)
    if record.attempt is not None:
        outputs = watched(record.attempt, outputs)
    try:
        async with aclosing(outputs) as batches:
            async for batch in batches:
                yield batch
    except EngineDied:
        if context.draining:
            raise Draining(
                "the server was shut down before the answer was complete", code="draining"
            ) from None
        raise


async def _run(context: ServerContext, record: RequestRecord, job: Job) -> AsyncGenerator[Batch, None]:
    """Runs a job and keeps the record of its request."""
    iterators = [_outputs(context, record, job, index) for index in range(len(job.prompts))]
    if record.limits is not None:
        record.limits.spend_tokens(sum(map(len, job.prompts)))
    last = [time.perf_counter()] * len(iterators)
    started = [False] * len(iterators)
    async with aclosing(_merge(iterators)) as batches:
        async for batch in batches:
            now = time.perf_counter()
            for index, output in batch:
                num_new = sum(len(choice.token_ids) for choice in output.outputs)
                record.num_generation_tokens += num_new
                if record.limits is not None:
                    record.limits.spend_tokens(num_new)
                if not started[index]:
                    record.num_prompt_tokens += len(output.prompt_token_ids)
                    record.num_cached_tokens += output.num_cached_tokens
                    context.model.metrics.recent_first_token.add(now - last[index])
                elif num_new:
                    # The choices of a request run side by side: each of them waited since the last delta.
                    context.model.metrics.observe_next_token(now - last[index])
                started[index] = True
                last[index] = now
                if any(choice.finish_reason in ("abort", "error") for choice in output.outputs):
                    raise EngineError("the request was aborted in the engine", code="aborted")
            yield batch


def _outputs(
    context: ServerContext, record: RequestRecord, job: Job, index: int
) -> AsyncIterator[RequestOutput]:
    """The outputs for one of the prompts of a job."""
    origin = RequestOrigin(
        request_id=f"{record.internal_id}-{index}",
        priority=job.priority,
        cache_salt=":".join(part for part in (record.key_digest, job.cache_salt) if part) or None,
        time_limit=context.settings.request_timeout if job.timeout is None else job.timeout,
        tenant=record.key_digest or "",
        weight=1.0 if record.key is None else record.key.weight,
    )
    if job.beam_search is not None:
        return _search(context, job, index, job.beam_search, origin)
    return context.engine.generate(job.prompts[index], job.params[index], **asdict(origin))


async def _search(
    context: ServerContext,
    job: Job,
    index: int,
    beam_search: BeamSearchParams,
    origin: RequestOrigin,
) -> AsyncGenerator[RequestOutput, None]:
    """The one output of a beam search, with the n best of what it found."""
    engine, prompt, params = context.engine, job.prompts[index], job.params[index]
    eos_token_ids = engine.model_config.eos_token_ids
    check_request(
        prompt,
        params,
        vocab_size=engine.model_config.vocab_size,
        max_model_len=engine.max_model_len,
        eos_token_ids=eos_token_ids,
    )
    limit = engine.max_model_len - len(prompt) if params.max_tokens is None else params.max_tokens
    search = BeamSearch(prompt, replace(beam_search, max_tokens=limit), eos_token_ids)
    outputs = search_with(engine, search, engine.tokenizer, origin)
    async with aclosing(outputs):
        async for output in outputs:
            output.outputs = output.outputs[: params.n]
            yield output


async def collect(batches: AsyncGenerator[Batch, None]) -> list[tuple[int, RequestOutput]]:
    """The whole output of each prompt, in the prompts' order."""
    totals: dict[int, RequestOutput] = {}
    async with aclosing(batches):
        async for batch in batches:
            for index, delta in batch:
                totals[index] = merge(totals.get(index), delta)
    return sorted(totals.items())


async def _merge(iterators: Sequence[AsyncIterator[RequestOutput]]) -> AsyncGenerator[Batch, None]:
    """The outputs of all iterators as they come; those that are there together in one batch."""
    if len(iterators) == 1:
        async with aclosing(iterators[0]) as outputs:  # type: ignore[type-var]
            async for output in outputs:
                yield [(0, output)]
        return
    queue: asyncio.Queue[tuple[int, RequestOutput] | Exception | None] = asyncio.Queue(len(iterators))
    tasks = [asyncio.create_task(_pump(index, iterator, queue)) for index, iterator in enumerate(iterators)]
    try:
        num_running = len(tasks)
        while num_running:
            batch: Batch = []
            items = [await queue.get()]
            while not queue.empty():
                items.append(queue.get_nowait())
            for item in items:
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    num_running -= 1
                else:
                    batch.append(item)
            if batch:
                yield batch
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    index: int,
    iterator: AsyncIterator[RequestOutput],
    queue: asyncio.Queue[tuple[int, RequestOutput] | Exception | None],
) -> None:
    try:
        async with aclosing(iterator) as outputs:  # type: ignore[type-var]
            async for output in outputs:
                await queue.put((index, output))
    except Exception as error:
        await queue.put(error)
    else:
        await queue.put(None)


class DeltaStream:
    """The batches of a job, of which the first can be waited for before anything is answered.

    Owns the generator: `aclose` ends it, and with it the requests in the engine.
    """

    def __init__(self, batches: AsyncGenerator[Batch, None]) -> None:
        self._batches = batches
        self._first = asyncio.create_task(self._next())

    async def _next(self) -> Batch | None:
        return await anext(self._batches, None)

    async def wait_for_first(self, receive: Receive, seconds: float) -> None:
        """Returns when the first batch is there or the time is over; raises what the engine raised."""
        await while_connected(receive, asyncio.wait({self._first}, timeout=seconds))
        if self._first.done():
            self._first.result()

    async def __aiter__(self) -> AsyncGenerator[Batch, None]:
        batch = await self._first
        if batch is None:
            return
        yield batch
        async for batch in self._batches:
            yield batch

    async def aclose(self) -> None:
        """Aborts what is still running. Can be called more than once."""
        self._first.cancel()
        with suppress(asyncio.CancelledError, Exception):  # it was reported where it was waited for
            await self._first
        await self._batches.aclose()


async def while_connected(receive: Receive, work: Coroutine[object, object, T]) -> T:
    """The result of `work`, which is cancelled, with `ClientDisconnected` raised, if the client goes."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnected
    finally:
        for future in (task, gone):
            future.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

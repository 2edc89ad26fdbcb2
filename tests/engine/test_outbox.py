"""What waits for a caller: joined, bounded, and with the error behind it."""

from __future__ import annotations

import asyncio

import pytest

from quire.engine.outbox import MAX_UNREAD_BYTES, Outbox, size
from quire.engine.outputs import CompletionOutput, Logprob, RequestOutput
from quire.errors import EngineDied, TooSlow


def delta(text: str, index: int = 0, *, num_logprobs: int = 0, finished: bool = False) -> RequestOutput:
    logprobs = (
        [{token: Logprob(-1.0, token + 1, "x") for token in range(num_logprobs)}] if num_logprobs else None
    )
    choice = CompletionOutput(
        index, text, [7], logprobs=logprobs, finish_reason="length" if finished else None
    )
    return RequestOutput("r", None, [1, 2], outputs=[choice], finished=finished)


async def test_deltas_that_wait_together_become_one() -> None:
    outbox = Outbox(2)
    assert outbox.put(delta("a"))
    assert [choice.text for choice in (await outbox.get()).outputs] == ["a"]
    getting = asyncio.create_task(outbox.get())
    await asyncio.sleep(0)
    assert not getting.done()
    for text, index in (("b", 0), ("x", 1), ("c", 0)):
        assert outbox.put(delta(text, index, num_logprobs=2))
    both = await getting
    assert [(choice.text, choice.token_ids) for choice in both.outputs] == [("bc", [7, 7]), ("x", [7])]
    assert [len(choice.logprobs or []) for choice in both.outputs] == [2, 1]
    assert outbox.put(delta("d", finished=True))
    assert (await outbox.get()).finished


async def test_an_error_comes_behind_what_waits() -> None:
    outbox = Outbox(1)
    outbox.put(delta("a"))
    outbox.fail(EngineDied("gone"))
    outbox.fail(TooSlow("later"))
    assert not outbox.put(delta("b"))
    assert (await outbox.get()).outputs[0].text == "a"
    for _ in range(2):
        with pytest.raises(EngineDied):
            await outbox.get()


async def test_who_leaves_too_much_gets_an_error() -> None:
    for num_choices in (1, 3):
        outbox = Outbox(num_choices)
        num_bytes = 0
        while outbox.put(more := delta("x", num_logprobs=20)):
            num_bytes += size(more)
            assert num_bytes <= num_choices * MAX_UNREAD_BYTES
        assert num_bytes > num_choices * MAX_UNREAD_BYTES - 10_000
        with pytest.raises(TooSlow):
            await outbox.get()


async def test_who_reads_may_have_any_amount() -> None:
    outbox = Outbox(1)
    for _ in range(200):
        assert outbox.put(delta("x" * 10_000, num_logprobs=20))
        await outbox.get()
    assert outbox.put(delta("x" * MAX_UNREAD_BYTES, finished=True))  # the end is no reason to end it
    assert (await outbox.get()).finished

"""An answer's turn from its tokens: joined deltas are the whole, however the tokens come."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine.outputs import CompletionOutput, Logprob
from quire.models.tokenizer import Tokenizer
from quire.server.answers import AnswerFormat, ModelFormat
from quire.server.openai.message_protocol import AnswerMessage, Delta
from quire.server.openai.protocol import TokenLogprob
from quire.server.openai.turns import Turn
from quire.server.reasoning_parsers.think import ThinkParser
from quire.server.responses.logprobs import MessageLogprobs
from quire.server.tool_parsers import TOOL_PARSERS

from .fake_engine import byte_tokenizer
from .test_tools_parsers import BEFORE, FUNCTIONS, WRITERS, call_lists

thoughts = st.sampled_from([*BEFORE, "Hm.", " Ä \n\n b ", "<think", "a</thi"]) | st.text(max_size=8)


def written(style: str, thought: str, answer: str) -> str:
    """An answer with thoughts before it, in the format's own way."""
    if style == "harmony":
        return f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant{answer}"
    return f"<think>\n{thought}\n</think>\n\n{answer}"


def make_format(style: str, tokenizer: Tokenizer) -> AnswerFormat:
    name = WRITERS[style][0]
    reasoning = None if TOOL_PARSERS[name].splits_reasoning else ThinkParser
    return AnswerFormat(
        model=ModelFormat(TOOL_PARSERS[name], reasoning, True),
        functions=FUNCTIONS,
        special_tokens=tokenizer.special_tokens.keys(),
    )


def parts_of(tokenizer: Tokenizer, ids: list[int], sizes: Callable[[], int]) -> list[CompletionOutput]:
    """The tokens as an engine hands them out, each part with the text that it completes."""
    stream = tokenizer.stream(skip_special_tokens=False)
    parts: list[CompletionOutput] = []
    place = 0
    while ids:
        size = sizes()
        # The log-probabilities say where in the answer their tokens stand.
        entries = [
            {token: Logprob(-float(each), 1, tokenizer.token_text(token))}
            for each, token in enumerate(ids[:size], place)
        ]
        place += size
        parts.append(CompletionOutput(0, stream.push(ids[:size]), ids[:size], logprobs=entries))
        ids = ids[size:]
    parts.append(CompletionOutput(0, stream.flush(), [], logprobs=[], finish_reason="stop"))
    return parts


def joined(deltas: list[Delta]) -> dict[str, Any]:
    content = "".join(delta.content or "" for delta in deltas)
    reasoning = "".join(delta.reasoning or "" for delta in deltas)
    calls: list[list[str]] = []
    for delta in deltas:
        for call in delta.tool_calls or ():
            if call.id:
                calls.append([call.function.name or "", ""])
            calls[call.index][1] += call.function.arguments
    return {"content": content, "reasoning": reasoning, "calls": calls}


def flat(message: AnswerMessage) -> dict[str, Any]:
    calls = [[call.function.name, call.function.arguments] for call in message.tool_calls or ()]
    return {"content": message.content or "", "reasoning": message.reasoning or "", "calls": calls}


@pytest.mark.parametrize("special", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("style", WRITERS)
@given(thought=thoughts, calls=call_lists, before=st.sampled_from(BEFORE), seed=st.integers())
@settings(max_examples=25, deadline=None)
def test_joined_deltas_are_the_whole(
    style: str, special: bool, thought: str, calls: list[Any], before: str, seed: int
) -> None:
    name, write = WRITERS[style]
    marks = (*TOOL_PARSERS[name].marks, *ThinkParser.marks) if special else ()
    tokenizer = byte_tokenizer(marks)
    answer_format = make_format(style, tokenizer)
    ids = tokenizer.encode(written(style, thought, write(calls, before)), add_special_tokens=False)

    (everything, end) = parts_of(tokenizer, ids, lambda: len(ids))
    everything.text += end.text
    everything.finish_reason = "stop"
    whole_turn = Turn(answer_format.reader(tokenizer, []), is_named=False)
    whole = flat(whole_turn.message(everything))

    rng = random.Random(seed)
    turn = Turn(answer_format.reader(tokenizer, []), is_named=False)
    logprobs = MessageLogprobs(tokenizer, [], 0)
    deltas: list[Delta] = []
    entries: list[TokenLogprob] = []
    for part in parts_of(tokenizer, ids, lambda: rng.choice((1, 1, 2, 3, 5, 40))):
        logprobs.push(part)
        for delta in turn.deltas(part):
            deltas.append(delta)
            entries += logprobs.take(delta)
    assert joined(deltas) == whole
    assert turn.finish_reason(end) == whole_turn.finish_reason(end)
    assert turn.num_reasoning_tokens == whole_turn.num_reasoning_tokens
    # One token is one byte: those that are said to make up the content do.
    assert b"".join(bytes(entry.bytes or []) for entry in entries).decode() == whole["content"]
    places = [-entry.logprob for entry in entries]
    assert places == sorted(places)
    if style != "harmony" and whole["reasoning"] and "</think>" not in thought:
        head = tokenizer.encode(f"<think>\n{thought}\n</think>", add_special_tokens=False)
        assert min(places, default=len(head)) >= len(head)
    if not special and not any(mark in thought for mark in ThinkParser.marks):
        assert [[function, json.loads(arguments)] for function, arguments in whole["calls"]] == [
            list(call) for call in calls
        ]

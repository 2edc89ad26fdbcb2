"""The terminal chat: what it sends to the model, and what it does with commands and Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from quire.cli.chat import Conversation
from quire.engine.outputs import CompletionOutput, RequestOutput
from quire.engine.sampling_params import SamplingParams
from quire.errors import ContextLengthExceeded


class FakeLLM:
    """Answers every conversation with the same words, and keeps what it was asked."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.asked: list[list[dict[str, str]]] = []
        self.closed = 0

    def encode_chat(self, messages: list[dict[str, str]]) -> list[int]:
        self.asked.append([dict(message) for message in messages])
        return [1]

    def stream(self, prompt: Any, params: SamplingParams) -> Iterator[RequestOutput]:
        try:
            for word in self.words:
                yield RequestOutput("0", None, [1], outputs=[CompletionOutput(0, word, [2])])
        finally:
            self.closed += 1


def conversation(llm: Any) -> Conversation:
    return Conversation(llm, SamplingParams())


def test_each_turn_carries_the_turns_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    llm = FakeLLM("I am ", "well.")
    chat = conversation(llm)
    assert chat.take("How are you?\n")
    assert chat.take("  Really?  ")
    assert llm.asked[1] == [
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "I am well."},
        {"role": "user", "content": "Really?"},
    ]
    assert capsys.readouterr().out == "I am well.\n\n" * 2


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    llm = FakeLLM("yes")
    chat = conversation(llm)
    chat.take("one")
    assert chat.take("/clear")
    assert chat.take("two")
    assert [message["content"] for message in llm.asked[1]] == ["two"]
    assert chat.take("")
    assert chat.take("/what")
    assert "/clear" in capsys.readouterr().out
    assert len(llm.asked) == 2
    assert not chat.take("/exit")


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(FakeLLM):
        def stream(self, prompt: Any, params: SamplingParams) -> Iterator[RequestOutput]:
            for number, output in enumerate(super().stream(prompt, params)):
                if number == 1:
                    os.kill(os.getpid(), signal.SIGINT)
                yield output

    llm = Interrupted("a", "b", "c", "d")
    chat = conversation(llm)
    before = signal.getsignal(signal.SIGINT)
    assert chat.take("go")
    assert capsys.readouterr().out == "ab (stopped)\n\n"
    assert chat.messages[-1] == {"role": "assistant", "content": "ab"}
    assert llm.closed == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_conversation_that_no_longer_fits_loses_only_its_last_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Full(FakeLLM):
        def stream(self, prompt: Any, params: SamplingParams) -> Iterator[RequestOutput]:
            if len(self.asked) > 1:
                raise ContextLengthExceeded("too long")
            yield from super().stream(prompt, params)

    chat = conversation(Full("yes"))
    chat.take("one")
    assert chat.take("two")
    assert [message["content"] for message in chat.messages] == ["one", "yes"]
    assert "/clear" in capsys.readouterr().out

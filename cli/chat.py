"""`quire chat`: a conversation in the terminal, with the engine in this process."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..engine.config import EngineConfig
from ..engine.sampling_params import SamplingParams
from ..errors import ContextLengthExceeded
from .logs import LogLevel, set_up_logging
from .offline import open_llm, pieces
from .options import ENGINE, SAMPLING, takes

if TYPE_CHECKING:
    from ..engine.llm import LLM

HELP = "/clear forgets the conversation, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer."


class Conversation:
    """The messages so far, and what happens to each line that is typed."""

    def __init__(self, llm: LLM, params: SamplingParams) -> None:
        self._llm = llm
        self._params = params
        self.messages: list[dict[str, str]] = []

    def take(self, line: str) -> bool:
        """Answers a line, or obeys it if it begins with a slash; returns whether to go on."""
        text = line.strip()
        if text == "/exit":
            return False
        if text == "/clear":
            self.messages.clear()
            print("(a new conversation)")
        elif text.startswith("/"):
            print(HELP)
        elif text:
            self._answer(text)
        return True

    def _answer(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})
        try:
            answer = self._stream()
        except ContextLengthExceeded as error:
            self.messages.pop()
            print(f"{error.message} /clear begins a new conversation.")
            return
        self.messages.append({"role": "assistant", "content": answer})

    def _stream(self) -> str:
        """Prints the answer as it comes. Ctrl-C ends it; what was said until then stays said."""
        prompt = {"prompt_token_ids": self._llm.encode_chat(self.messages)}
        said: list[str] = []
        with noticing_ctrl_c() as pressed, closing(self._llm.stream(prompt, self._params)) as deltas:
            for piece in pieces(deltas):
                print(piece, end="", flush=True)
                said.append(piece)
                if pressed.is_set():
                    print(" (stopped)", end="")
                    break
        print("\n")
        return "".join(said)


@contextmanager
def noticing_ctrl_c() -> Generator[threading.Event]:
    """Sets an event on Ctrl-C, where KeyboardInterrupt could strike in the middle of an engine step."""
    pressed = threading.Event()
    before = signal.signal(signal.SIGINT, lambda _number, _frame: pressed.set())
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


@takes(config=ENGINE.but(model="embedded"), sampling=SAMPLING)
def chat(config: EngineConfig, sampling: dict[str, Any], log_level: LogLevel = "warning") -> None:
    """Talk to a model in the terminal.

    Its answers are as long as the context allows, unless --max-tokens says otherwise.
    """
    set_up_logging(log_level)
    llm = open_llm(config)
    params = replace(llm.get_default_sampling_params(), **{"max_tokens": None, **sampling})
    conversation = Conversation(llm, params)
    interactive = sys.stdin.isatty()
    if interactive:
        with suppress(ImportError):
            importlib.import_module("readline")  # gives input() line editing and history
        print(f"{config.model_name}. {HELP}\n")
    while True:
        try:
            line = input("> " if interactive else "")
        except (EOFError, KeyboardInterrupt):
            break
        if not conversation.take(line):
            break
